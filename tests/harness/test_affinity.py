"""Cores of ranks: read from made trees of /proc and /sys, in force on all threads of real ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.affinity import (
    Binding,
    Place,
    TopologyError,
    bind_rank,
    format_cpus,
    list_visible_gpus,
    parse_cpus,
    read_cores,
    read_near_cpus,
    share_all,
    share_cores,
)
from harness.provenance import describe_binding
from harness.ranks import Ranks
from harness.systems import Nodes

ROOT = Path(__file__).resolve().parents[2]
ALONE = Ranks(0, 1, 0, 1, 0, ("host",), "single")


@dataclass
class Machine:
    """A made tree: sockets of 8 cores of 2 threads (CPU c and c + all cores), GPUs on them."""

    root: Path
    sockets: int = 2
    gpus: list[str] = field(default_factory=list)

    @property
    def cores(self) -> int:
        return 8 * self.sockets

    def write(self, name: str, text: str) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def make_cores(self) -> None:
        for cpu in range(2 * self.cores):
            core = cpu % self.cores
            pair = f"{core},{core + self.cores}\n"
            self.write(f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", pair)

    def add_gpu(self, bus: int, socket: int, model: str = "NVIDIA H200") -> None:
        name = f"0000:{bus:02x}:00.0"
        uuid = f"GPU-{bus:08x}-aaaa"
        text = f"Model: \t\t {model}\nIRQ:   \t\t 17\nGPU UUID: \t {uuid}\n"
        self.write(f"proc/driver/nvidia/gpus/{name}/information", text)
        first = 8 * socket
        near = f"{first}-{first + 7},{first + self.cores}-{first + self.cores + 7}\n"
        self.write(f"sys/bus/pci/devices/{name}/local_cpulist", near)
        self.gpus.append(name)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Two sockets of 8 cores and 16 threads, four GPUs on each."""
    machine = Machine(tmp_path)
    machine.make_cores()
    for number in range(8):
        machine.add_gpu(0x18 + 16 * number, number // 4)
    return machine


def place_all(machine: Machine, allowed: Sequence[str]) -> list[Place]:
    """The places of one rank a GPU, each with the CPUs that the kernel lets it use."""
    places = []
    gpus = list_visible_gpus({}, machine.root)
    for rank, text in enumerate(allowed):
        near = parse_cpus(text) & read_near_cpus(gpus[rank], machine.root)
        cores = read_cores(near, machine.root)
        places.append(Place(rank, "host", gpus[rank], parse_cpus(text), near, cores))
    return places


def test_eight_ranks_get_whole_cores_near_their_gpus(machine: Machine) -> None:
    shares, reason = share_all(place_all(machine, ["0-31"] * 8))
    assert reason == ""
    assert format_cpus(shares[0]) == "0-1,16-17" and format_cpus(shares[3]) == "6-7,22-23"
    assert format_cpus(shares[4]) == "8-9,24-25" and format_cpus(shares[7]) == "14-15,30-31"
    assert sum(map(len, shares.values())) == len(frozenset().union(*shares.values())) == 32


def test_cores_of_a_slurm_task_stay_its_own(machine: Machine) -> None:
    own = [f"{2 * rank}-{2 * rank + 1},{16 + 2 * rank}-{17 + 2 * rank}" for rank in range(8)]
    shares, reason = share_all(place_all(machine, own))
    assert reason == "" and [format_cpus(shares[rank]) for rank in range(8)] == own


def test_part_of_a_machine_is_shared_within_that_part(machine: Machine) -> None:
    shares, reason = share_all(place_all(machine, ["1-5,17-20,9-14"] * 8))
    assert reason == ""
    assert [format_cpus(shares[rank]) for rank in range(5)] == [
        "1-2,17-18", "3,19", "4,20", "5", "9-10",
    ]  # fmt: skip


def test_too_few_cores_or_none_near_bind_no_rank_at_all(machine: Machine) -> None:
    shares, reason = share_all(place_all(machine, ["0-2,8-18,24-31"] * 8))
    assert not shares and reason == "8 ranks share 11 core(s) of host: too few for one each"
    fault = Place(1, "b", fault="none of the allowed CPUs 8-15 is near GPU 0000:18:00.0")
    shares, reason = share_all([*place_all(machine, ["0-31"]), fault])
    assert not shares and reason.endswith("near GPU 0000:18:00.0 (rank 1 on b)")


def test_hosts_are_shared_apart_however_their_ranks_are_numbered() -> None:
    cores = (frozenset({0}), frozenset({1}))
    places = [Place(rank, "abba"[rank], cores=cores) for rank in range(4)]
    shares, _ = share_all(places)
    assert [format_cpus(shares[rank]) for rank in range(4)] == ["0", "0", "1", "1"]


CORES = st.lists(st.sets(st.integers(0, 23)), min_size=1, max_size=9)


@given(CORES)
def test_no_core_is_given_twice_lost_or_unwanted(wanted: list[set[int]]) -> None:
    shares = share_cores([[frozenset({cpu}) for cpu in sorted(cpus)] for cpus in wanted])
    given_out = [cpu for share in shares for core in share for cpu in core]
    assert sorted(given_out) == sorted(set().union(*wanted))
    for cpus, share in zip(wanted, shares, strict=True):
        assert {cpu for core in share for cpu in core} <= cpus


@given(st.integers(1, 9), st.integers(0, 40))
def test_equal_ranks_get_equal_runs(ranks: int, cores: int) -> None:
    shares = share_cores([[frozenset({cpu}) for cpu in range(cores)]] * ranks)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert [min(core) for share in shares for core in share] == list(range(cores))


@pytest.mark.parametrize(
    ("visible", "numbers"),
    [
        (None, [0, 1, 2, 3, 4, 5, 6, 7]),
        ("3,1", [3, 1]),
        ("GPU-00000028-aaaa, GPU-0000001", [1, 0]),
    ],
)
def test_the_order_of_gpus_is_cudas(
    machine: Machine, visible: str | None, numbers: list[int]
) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    found = list_visible_gpus(environment, machine.root)
    assert found == [machine.gpus[number] for number in numbers]


@pytest.mark.parametrize(
    "visible", ["", "8", "-1", "1,,2", "GPU-", "GPU-9", "MIG-1/2", "\u0663", "99999999999"]
)
def test_what_names_no_one_gpu_is_told(machine: Machine, visible: str) -> None:
    with pytest.raises(TopologyError, match="which is none of the driver's GPUs"):
        list_visible_gpus({"CUDA_VISIBLE_DEVICES": visible}, machine.root)


def test_gpus_of_several_models_need_an_order(machine: Machine) -> None:
    machine.add_gpu(0xF0, 1, "NVIDIA T400")
    with pytest.raises(TopologyError, match="several models: set CUDA_DEVICE_ORDER"):
        list_visible_gpus({}, machine.root)
    assert len(list_visible_gpus({"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, machine.root)) == 9


def test_missing_and_broken_files_are_named(machine: Machine) -> None:
    with pytest.raises(TopologyError, match="no list of GPUs in /proc/driver/nvidia/gpus"):
        list_visible_gpus({}, machine.root / "sys")
    device = f"sys/bus/pci/devices/{machine.gpus[0]}"
    machine.write(f"{device}/local_cpulist", "0-\n")
    with pytest.raises(TopologyError, match=f"/{device}/local_cpulist holds '0-', which is no"):
        read_near_cpus(machine.gpus[0], machine.root)
    (machine.root / device / "local_cpulist").unlink()
    with pytest.raises(TopologyError, match=f"cannot read /{device}/local_cpulist"):
        read_near_cpus(machine.gpus[0], machine.root)
    with pytest.raises(TopologyError, match="cpu99/topology/thread_siblings_list"):
        read_cores(frozenset({99}), machine.root)
    machine.write("proc/driver/nvidia/gpus/strange/information", "")
    with pytest.raises(TopologyError, match="'strange' is no PCI bus id"):
        list_visible_gpus({}, machine.root)


@pytest.mark.parametrize(
    "text", ["", "a", "1-", "-1", "3-1", "1,,2", "0-99999999", "1 2", "\u0661", "1,", "0x1"]
)
def test_what_is_no_list_of_cpus(text: str) -> None:
    with pytest.raises(ValueError, match="is no "):
        parse_cpus(text)


@given(st.frozensets(st.integers(0, 300), min_size=1))
def test_lists_of_cpus_are_read_as_they_are_written(cpus: frozenset[int]) -> None:
    assert parse_cpus(format_cpus(cpus)) == cpus


def test_an_unreadable_machine_leaves_the_rank_as_it_is(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    for device, reason in (("cuda", "no list of GPUs"), ("cpu", "cannot read /sys/devices")):
        nodes = Nodes(1, 1, device, False, 1, "gpu-local")
        binding = bind_rank(nodes, ALONE, {}, tmp_path)
        assert binding.method == "none" and binding.reason.startswith(reason)
        assert describe_binding(binding)["cpus"] == [format_cpus(before)]
    assert os.sched_getaffinity(0) == before
    binding = bind_rank(Nodes(1, 1, "cuda", False, 1, "none"), ALONE, {}, tmp_path)
    assert binding == Binding("none", binding.reason, ("",), (format_cpus(before),))
    assert describe_binding(binding)["reason"] == "the system file says binding = 'none'"


# Two ranks on this machine: what DALI and the loader of sequences start has the rank's cores.
PROGRAM = """
import sys
from pathlib import Path
from harness.affinity import bind_rank
from harness.ranks import find_ranks
from harness.systems import Nodes
nodes = Nodes(2, 1, "cpu", True, 1, "gpu-local")
ranks = find_ranks(nodes)
binding = bind_rank(nodes, ranks, {})
import torch
from bert.data import TrainingInput as Sequences
from bert.shards import read_manifest as read_sequences
from resnet.data import InputOptions, TrainingInput as Images
from resnet.shards import read_manifest as read_images
before = len(list(Path("/proc/self/task").iterdir()))
data = Path(sys.argv[1])
options = InputOptions(32, 36, 2, 2, 8, 4, 0, 0, True)
images = Images(read_images(data / "resnet"), options, ranks.rank, 2, 4, seed=1, device="cpu")
images.open(), images.next()
place = (ranks.rank, 2)
sequences = Sequences(read_sequences(data / "bert" / "train"), *place, 2, 1, 2, torch.device("cpu"))
sequences.open(), sequences.next()
lists = set()
threads = list(Path("/proc/self/task").iterdir())
for thread in threads:
    lines = dict(line.split(":") for line in (thread / "status").read_text().splitlines())
    lists.add(lines["Cpus_allowed_list"].strip())
assert len(threads) >= before + 3, (before, len(threads))
assert lists == {binding.cpus[ranks.rank]}, (lists, binding)
ranks.gather(None)
if ranks.first:
    print("bound:", binding.method, *binding.cpus)
sequences.close(), images.close()
"""


def test_threads_of_dali_and_of_the_loader_have_the_ranks_cores(small_data: Path) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        cores = read_cores(frozenset(allowed), Path("/"))
    except TopologyError as error:
        pytest.skip(f"this machine does not tell its cores: {error}")
    if len(cores) < 2:
        pytest.skip("one core: two ranks cannot be bound apart")
    command = [
        str(Path(sys.executable).parent / "mpirun"),
        "--allow-run-as-root",
        "--oversubscribe",
    ]
    command += ["--bind-to", "none", "-n", "2", "-x", "OMP_NUM_THREADS=1"]
    command += [sys.executable, "-c", PROGRAM, str(small_data)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = (text for text in done.stdout.splitlines() if text.startswith("bound:"))
    method, first, second = line.split()[1:]
    assert method == "gpu-local"
    assert parse_cpus(first) | parse_cpus(second) == allowed
    assert not parse_cpus(first) & parse_cpus(second)
