"""The process group: devices that are there, a store all ranks find, and no wait without end."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from harness import process_group
from harness.commands import InputError
from harness.process_group import (
    join,
    select_device,
    synchronize,
    wait_for,
    wait_for_device,
)
from harness.ranks import Ranks
from harness.systems import System, load_system
from harness.trainer import WAITED
from tests.harness.host_waits import let_device_hang

ROOT = Path(__file__).resolve().parents[2]
ALONE = Ranks(0, 1, 0, 1, 0, ("host",), "single")


@pytest.fixture(autouse=True)
def keep_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def make_system(**changes: object) -> System:
    system = load_system(ROOT / "systems" / "demo.toml")
    return replace(system, nodes=replace(system.nodes, **changes))


def test_a_cpu_rank_gets_its_threads() -> None:
    for threads in (2, 1):
        assert select_device(make_system(threads_per_rank=threads), ALONE).type == "cpu"
        assert torch.get_num_threads() == threads


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no GPU"):
        select_device(make_system(device="cuda"), ALONE)


class Event:
    """An event that the device passes after being asked so many times, or never."""

    def __init__(self, passes: int) -> None:
        self.left, self.waited = passes, False

    def query(self) -> bool:
        self.left -= 1
        return self.left == 0

    def synchronize(self) -> None:
        self.waited = True


def test_a_device_is_waited_for_as_long_as_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that hangs inside a graph ends the run of those that wait for it."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    alone = Event(passes=-1)
    wait_for(alone)
    assert alone.waited
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(process_group, "_limits", [0.02])
    passing = Event(passes=3)
    wait_for(passing)
    assert passing.left == 0 and not passing.waited
    with pytest.raises(RuntimeError) as caught:
        wait_for(Event(passes=-1))
    found = WAITED.search(str(caught.value))
    assert found and found[1] == "20"


def test_what_a_stream_was_given_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded: list[str] = []
    event = Event(passes=1)
    monkeypatch.setattr(event, "record", recorded.append, raising=False)
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking: event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"of {device}")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    wait_for_device(torch.device("cpu"))
    assert recorded == [] and not event.waited
    wait_for_device(torch.device("cuda", 1))
    assert recorded == ["of cuda:1"] and event.waited


def test_a_wait_that_is_measured_ends_with_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause, or a thread that has to be woken, would count as time of the device."""
    let_device_hang(monkeypatch)
    event = Event(passes=3)
    monkeypatch.setattr(event, "record", lambda stream: None, raising=False)
    chosen: list[bool] = []
    pauses: list[float] = []
    monkeypatch.setattr(torch.cuda, "Event", lambda blocking: chosen.append(blocking) or event)
    monkeypatch.setattr(process_group.time, "sleep", pauses.append)
    wait_for_device(torch.device("cuda", 1), timed=True)
    assert chosen == [False] and pauses == [0.0, 0.0]


def test_fewer_gpus_than_ranks_on_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    system = make_system(device="cuda")
    second = Ranks(5, 8, 1, 4, 1, ("a",) * 4 + ("b",) * 4, "slurm")
    assert select_device(system, second) == torch.device("cuda", 1) == chosen[0]
    third = replace(second, rank=6, local_rank=2)
    with pytest.raises(InputError, match="local rank 2 has no GPU, the node shows 2"):
        select_device(system, third)
    assert len(chosen) == 1


def test_a_group_of_one() -> None:
    system = make_system(count=1)
    join(system, ALONE, torch.device("cpu"))
    try:
        assert (dist.get_backend(), dist.get_rank(), dist.get_world_size()) == ("gloo", 0, 1)
        synchronize(torch.device("cpu"))
    finally:
        dist.destroy_process_group()


def test_ending_a_single_rank_skips_what_would_wait() -> None:
    program = (
        "import atexit; from harness.process_group import end_all_ranks; "
        "atexit.register(print, 'waited'); end_all_ranks(1, 3)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")


# One rank hangs after one collective that works; the other must not wait for it for ever.
HANG = """
import os, time
from dataclasses import replace
import torch, torch.distributed as dist
from harness import process_group
from harness.process_group import join, select_device, synchronize, wait_for
from harness.ranks import find_ranks
from harness.systems import load_system
from harness.trainer import run_trainer
def main(arguments):
    system = load_system("systems/demo.toml")
    launch = replace(system.launch, collective_timeout_seconds=8)
    system = replace(system, nodes=replace(system.nodes, count=3), launch=launch)
    ranks = find_ranks(system.nodes)
    device = select_device(system, ranks)
    join(system, ranks, device)
    total = torch.tensor([ranks.rank + 1.0])
    dist.all_reduce(total)
    print(f"rank {ranks.rank} of {dist.get_world_size()}: {total.item()}", flush=True)
    if ranks.rank == 1:
        time.sleep(3600)
    synchronize(device)
run_trainer(main)
"""


@pytest.mark.parametrize("rank", [0, 2])
def test_ranks_join_and_a_hanging_one_ends_the_run(rank: int) -> None:
    command = [str(Path(sys.executable).parent / "mpirun"), "--allow-run-as-root"]
    command += ["--oversubscribe", "--bind-to", "none", "-x", "GLOO_SOCKET_IFNAME=lo"]
    command += ["-n", "3", sys.executable, "-c", HANG.replace("rank == 1", f"rank == {rank}")]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert sorted(done.stdout.splitlines()) == [f"rank {n} of 3: 6.0" for n in range(3)]
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    said = "gave up after 8 s ('collective_timeout_seconds') without an answer from "
    assert f"{said}rank {rank} on {socket.gethostname()}: hung" in done.stderr
