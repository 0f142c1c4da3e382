"""What a node tells of itself, and what is asked of it."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.launch import ROOT, SYSTEMS
from harness.preflight_checks import Check
from harness.preflight_input import compose_measurement, measure_input, read_input_threads
from harness.preflight_judgement import (
    judge_address,
    judge_bandwidth,
    judge_clocks,
    judge_cores,
    judge_input,
    judge_nodes,
)
from harness.preflight_node import (
    DataFacts,
    NodeFacts,
    Ports,
    find_load_fault,
    list_files,
    read_available_memory,
    read_data,
    read_memory_limit,
    read_node,
    read_ports,
)
from harness.preflight_ranks import share_cpus
from harness.systems import Benchmark, load_system
from resnet.data_command import build_parser

GIBIBYTE = 1 << 30
DEMO = load_system(SYSTEMS / "demo.toml")
REAL = load_system(SYSTEMS / "example-4x8-h200.toml")
DATA = DataFacts(3, 100, "d")
NETWORK = "InfiniBand and RoCE ports"
DECODER = "GPU's JPEG decoder"
NODE = NodeFacts(
    "a", "s", "i", "python", 500 * GIBIBYTE, 500 * GIBIBYTE, -1, 500 * GIBIBYTE,
    {"resnet": DATA, "bert": DATA}, "nvidia-smi is not there", Ports(8, 8),
)  # fmt: skip


def find_failed(nodes: list[NodeFacts]) -> dict[str, Check]:
    checks = judge_nodes(REAL, nodes)
    return {check.name: check for check in checks if check.verdict == "failed"}


@pytest.mark.parametrize(
    ("change", "name", "found"),
    [
        ({"sources": "t"}, "source hash", "s (a); t (b)"),
        ({"image": ""}, "image manifest", "i (a); none: not run from an image (b)"),
        ({"software": "python 3"}, "software", "python (a); python 3 (b)"),
        ({"memory": GIBIBYTE}, "memory available", "1.0 GiB (b)"),
        ({"shared_memory": 1 << 26}, "/dev/shm free", "64.0 MiB (b)"),
        ({"memlock": 1 << 16}, "locked memory", "0.1 MiB (b)"),
        ({"network": Ports(1, 1)}, NETWORK, "8 active of 8 (a); 1 active of 1 (b)"),
        ({"network": Ports(8, 7)}, NETWORK, "8 active of 8 (a); 7 active of 8 (b)"),
        ({"network": Ports(8, 8, 8)}, NETWORK, "8 card(s) cannot be opened (b)"),
        ({"jpeg_decoder": "no such file"}, DECODER, "no such file (b)"),
        ({"temporary": 0}, "temporary folder free", "0.0 GiB (b)"),
        ({"data": {"resnet": DATA, "bert": DataFacts(fault="gone")}}, "bert data", "gone (b)"),
        (
            {"data": {"resnet": replace(DATA, files=2), "bert": DATA}},
            "resnet data",
            "3 files, 100 bytes (a); 2 files, 100 bytes (b)",
        ),
        (
            {"data": {"resnet": replace(DATA, digest="e"), "bert": DATA}},
            "resnet manifest",
            "d (a); e (b)",
        ),
    ],
)
def test_one_node_that_differs_is_found(change: dict[str, object], name: str, found: str) -> None:
    same = find_failed([NODE, replace(NODE, host="b")])
    assert list(same) == ["GPUs"]
    failed = find_failed([NODE, replace(NODE, host="b", **change)])  # type: ignore[arg-type]
    assert set(failed) == {"GPUs", name}
    assert failed[name].found == found and failed[name].mend


def test_a_cpu_has_no_gpu_lines_and_pins_nothing() -> None:
    checks = {check.name: check for check in judge_nodes(DEMO, [replace(NODE, memlock=1)])}
    for name in ("GPU name", "locked memory", DECODER):
        assert checks[name].verdict == "not applicable"
    assert all(check.verdict != "failed" for check in checks.values())


def test_this_machine() -> None:
    node = read_node(DEMO, "here", Path("/nowhere"), "torch", ("s", ""))
    assert node.memory > 1 << 26 and node.temporary > 0 and node.gpus == []
    assert "no manifest.json in /nowhere/" in node.data["resnet"].fault and not node.jpeg_decoder
    assert read_available_memory("MemTotal: 5 kB\nMemAvailable:  3 kB\n") == 3072
    assert read_available_memory("") == read_available_memory("MemAvailable: x kB") == 0


def test_a_gpu_node_without_the_decoders_library_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run would go on without it, its images decoded by the CPUs."""
    monkeypatch.setattr("harness.preflight_node.JPEG_DECODER", "libnot-there.so.1")
    node = read_node(REAL, "here", Path("/nowhere"), "torch", ("s", ""))
    assert node.jpeg_decoder.startswith("libnot-there.so.1: ")
    assert find_load_fault("libc.so.6") == ""


def test_no_card_at_all_is_told() -> None:
    checks = {check.name: check for check in judge_nodes(REAL, [replace(NODE, network=Ports())])}
    assert checks[NETWORK].verdict == "not checkable" and "TCP" in checks[NETWORK].found


def test_ports_are_read_and_cards_without_a_device_counted(tmp_path: Path) -> None:
    assert read_ports(tmp_path) == Ports(0, 0, 0)
    for card, state in ((0, "4: ACTIVE\n"), (1, "1: DOWN\n")):
        folder = tmp_path / f"sys/class/infiniband/mlx5_{card}"
        (folder / "ports/1").mkdir(parents=True)
        (folder / "ports/1/state").write_text(state)
        (folder / f"device/infiniband_verbs/uverbs{card}").mkdir(parents=True)
    assert read_ports(tmp_path) == Ports(2, 1, 2)
    (tmp_path / "dev/infiniband").mkdir(parents=True)
    (tmp_path / "dev/infiniband/uverbs1").touch()
    assert read_ports(tmp_path) == Ports(2, 1, 1)


@pytest.mark.parametrize(
    ("line", "folder", "name"),
    [
        ("0::/slurm/job_1/step_0", "sys/fs/cgroup/slurm/job_1", "memory.max"),
        ("4:memory:/slurm/job_1", "sys/fs/cgroup/memory/slurm", "memory.limit_in_bytes"),
    ],
)
def test_a_jobs_memory_limit_counts(tmp_path: Path, line: str, folder: str, name: str) -> None:
    assert read_memory_limit(tmp_path) == math.inf
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"9:pids:/x\n{line}\n")
    (tmp_path / folder).mkdir(parents=True)
    assert read_memory_limit(tmp_path) == math.inf
    (tmp_path / folder / name).write_text("4096\n")
    assert read_memory_limit(tmp_path) == 4096
    (tmp_path / folder / name).write_text("max\n")
    assert read_memory_limit(tmp_path) == math.inf


def test_cpus_of_ranks_are_shared_where_they_are_the_same() -> None:
    shares = share_cpus(["a", "a", "b", "b"], ["0-7", "0-7", "0-7", "8-9"])
    assert shares == {"rank 0": 4, "rank 1": 4, "rank 2": 8, "rank 3": 2}
    assert judge_cores(shares, 1).verdict == "ok"
    check = judge_cores(shares, 6)
    assert (check.verdict, check.found) == ("failed", "2 (rank 3, the least)")
    assert ">= 7" in check.wanted and "--cpus-per-task" in check.mend
    assert read_input_threads(ROOT / REAL.benchmarks.resnet.config) == 6


def test_rank_0_is_reached_or_the_sentence_is_told() -> None:
    assert judge_address("10.0.0.1", "").found == "all reach 10.0.0.1"
    check = judge_address("", "not every node reaches it: why")
    assert (check.verdict, check.found) == ("failed", "not every node reaches it: why")
    assert "name mean" in check.mend


def test_data_is_counted_and_compared_with_its_manifest(small_data: Path) -> None:
    for name, files in (("resnet", 6), ("bert", 3)):
        checkpoint = "bert/initial.safetensors" if name == "bert" else ""
        facts = read_data(Benchmark("config.toml", name, checkpoint, 1), small_data)
        assert facts.fault == "" and facts.files >= files and len(facts.digest) == 64
    missing = read_data(Benchmark("config.toml", "bert", "gone.safetensors", 1), small_data)
    assert "gone.safetensors: no such file" in missing.fault


def write_manifest(folder: Path, document: object) -> DataFacts:
    text = document if isinstance(document, str) else json.dumps(document)
    (folder / "manifest.json").write_text(text)
    return read_data(Benchmark("config.toml", ".", "", 1), folder)


def test_hostile_manifests_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"123")
    assert write_manifest(tmp_path, [{"file": "x", "bytes": 3}]).files == 1
    assert (
        "has 3 bytes, the manifest says 4"
        in write_manifest(tmp_path, {"a": {"name": "x", "bytes": 4}}).fault
    )
    assert "no such file" in write_manifest(tmp_path, [{"file": "y", "bytes": 3}]).fault
    for name in ("../x", "/etc/passwd", "..", "", "a\0b"):
        assert "is no manifest" in write_manifest(tmp_path, [{"file": name, "bytes": 3}]).fault
    for text in ("", "{", "[" * 100_000, "nul"):
        assert "is no manifest" in write_manifest(tmp_path, text).fault
    assert "name no file" in write_manifest(tmp_path, {"file": "x", "bytes": "3"}).fault
    assert list(list_files({"class": {"name": "x"}})) == []


def test_clocks_count_beyond_what_a_round_trip_hides() -> None:
    assert judge_clocks({"a": (0.0, 0.0)}).verdict == "not applicable"
    assert judge_clocks({"a": (0.0, 0.0), "b": (-0.4, 0.0)}).verdict == "ok"
    assert judge_clocks({"a": (0.0, 0.0), "b": (-0.7, 0.3)}).verdict == "ok"
    check = judge_clocks({"a": (0.0, 0.0), "b": (-60.0, 0.1), "c": (1.0, 0.0)})
    assert check.verdict == "failed" and check.found.startswith("-60.0000 s") and "b" in check.found


def test_bandwidth_and_input_against_what_is_stated() -> None:
    assert judge_bandwidth("bert", 672.0, "", 40.0, 0.0).verdict == "not checkable"
    assert judge_bandwidth("bert", 672.0, "", 40.0, 40.0).verdict == "ok"
    assert judge_bandwidth("bert", 672.0, "", 39.9, 40.0).verdict == "failed"
    assert judge_input({"rank 0": 9.0, "rank 1": 8.0}, None).verdict == "not checkable"
    assert (
        judge_input({"rank 0": 9.0, "rank 1": 8.0}, 8.5).found
        == "8.0 images/s of rank 1, the slowest"
    )
    assert judge_input({"rank 0": 9.0, "rank 1": 8.0}, 8.5).verdict == "failed"
    assert judge_input({"rank 0": 9.0}, 8.5).verdict == "ok"
    assert judge_input("it broke", 8.5).verdict == "failed"


def test_the_input_is_measured_by_the_trainers_command(tmp_path: Path) -> None:
    config = SYSTEMS.parent / DEMO.benchmarks.resnet.config
    command = compose_measurement(config, Path("/data"), 2.0, (5, 32), 3)
    assert command[:3] == [sys.executable, "-m", "resnet.data"]
    taken = build_parser().parse_args(command[3:])
    assert (taken.command, taken.data, taken.seconds) == ("throughput", Path("/data"), 2.0)
    assert (taken.config, taken.rank, taken.ranks, taken.gpu) == (config, 5, 32, 3)
    assert taken.json and taken.split == "train"
    for program, words in (
        ("printf '{\"images_per_second\": 7.5}'", "7.5"),
        ("echo no", "printed no images_per_second"),
        ("echo a >&2; echo b >&2; exit 2", "ended with status 2: b"),
    ):
        assert words in str(measure_input(["sh", "-c", program], 1.0, tmp_path))
    assert os.listdir(tmp_path) == []
