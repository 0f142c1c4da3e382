"""nvidia-smi's words are read strictly, and judged against the system file."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.launch import SYSTEMS
from harness.preflight_checks import Check
from harness.preflight_gpus import (
    FIELDS,
    Gpu,
    UnreadableGpus,
    check_gpus,
    parse_gpus,
    read_gpus,
)
from harness.systems import load_system

SYSTEM = load_system(SYSTEMS / "example-4x8-h200.toml")
LINE = (
    "{}, NVIDIA H200, 00000000:1{}:00.0, 580.65.06, 143771, 143168, 345, 1980, Enabled, 0, Disabled"
)
EIGHT = "\n".join(LINE.format(number, number) for number in range(8)) + "\n"


def judge(**changes: object) -> dict[str, Check]:
    """Checks of two nodes, the last GPU of the second changed."""
    gpus = parse_gpus(EIGHT)
    changed = [*gpus[:-1], replace(gpus[-1], **changes)]  # type: ignore[arg-type]
    return {check.name: check for check in check_gpus(SYSTEM, {"a": gpus, "b": changed})}


def test_a_line_a_gpu() -> None:
    gpus = parse_gpus(EIGHT)
    assert len(gpus) == 8 and [gpu.index for gpu in gpus] == list(range(8))
    assert gpus[0] == Gpu(
        0, "NVIDIA H200", "00000000:10:00.0", "580.65.06", 143771 << 20, 143168 << 20, 345, 1980,
        "Enabled", 0, "Disabled",
    )  # fmt: skip
    assert all(check.verdict == "ok" for check in judge().values())


def test_what_a_gpu_has_not_is_not_a_fault() -> None:
    line = "0, T400, 00000000:65:00.0, 550.54, 1870, 1800, [N/A], [N/A], [N/A], [N/A], [N/A]"
    (gpu,) = parse_gpus(line)
    assert (gpu.clock, gpu.ecc, gpu.uncorrected_errors, gpu.mig) == (0, "", 0, "")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("0, NVIDIA", "x, NVIDIA", "line 1: index is 'x'"),
        ("0, NVIDIA", "-1, NVIDIA", "index is '-1'"),
        ("0, NVIDIA", "\u0663, NVIDIA", "index is '"),
        ("0, NVIDIA", "1, NVIDIA", "does not number the GPUs 0, 1, 2"),
        ("NVIDIA H200", "", "name is ''"),
        ("NVIDIA H200", "a, b", "line 1: 12 values, 11 were asked for"),
        ("NVIDIA H200", "\x1b[2J", r"name is '\\x1b\[2J'"),
        ("00000000:10:00.0", "../../x", "pci.bus_id is '../../x'"),
        ("580.65.06", "580 beta", "driver_version is '580 beta'"),
        ("143771", "143771 MiB", "memory.total is '143771 MiB'"),
        ("143168", "[N/A]", r"memory.free is '\[N/A\]'"),
        ("345", "1e9", "clocks.sm is '1e9'"),
        ("1980", "9" * 30, "clocks.max.sm is '9"),
        ("Enabled", "enabled", "ecc.mode.current is 'enabled'"),
        (", 0, Disabled", ", -3, Disabled", "volatile.total is '-3'"),
        (LINE.format(0, 0), "No devices were found", "1 values"),
    ],
)
def test_other_words_are_refused(old: str, new: str, words: str) -> None:
    assert old in EIGHT
    with pytest.raises(UnreadableGpus, match=words):
        parse_gpus(EIGHT.replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("GPU name", {"name": "NVIDIA H100"}, "NVIDIA H100 (b GPU 7)"),
        ("GPU driver", {"driver": "550.1"}, "550.1 (b)"),
        ("GPU highest SM clock", {"highest_clock": 1200}, "1200 MHz (b GPU 7)"),
        ("GPU ECC mode", {"ecc": "Disabled"}, "Disabled (b GPU 7)"),
        ("GPU uncorrected memory errors", {"uncorrected_errors": 2}, "b GPU 7"),
        ("GPU partitions (MIG)", {"mig": "Enabled"}, "b GPU 7"),
        ("GPU memory free", {"free_bytes": 1 << 36}, "45.6 % (b GPU 7)"),
    ],
)
def test_one_gpu_of_sixteen_is_found(name: str, change: dict[str, object], found: str) -> None:
    checks = judge(**change)
    assert [check.name for check in checks.values() if check.verdict == "failed"] == [name]
    assert found in checks[name].found and checks[name].mend


def test_missing_gpus_and_a_missing_command() -> None:
    gpus = parse_gpus(EIGHT)
    (first, *_) = check_gpus(SYSTEM, {"a": gpus, "b": gpus[:7]})
    assert (first.verdict, first.found, first.wanted) == ("failed", "8 (a); 7 (b)", "8")
    (only,) = check_gpus(SYSTEM, {"a": gpus, "b": "nvidia-smi is not there"})
    assert only.verdict == "failed" and only.found == "nvidia-smi is not there (b)"
    (none,) = check_gpus(SYSTEM, {"a": []})
    assert none.verdict == "failed"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'Failed to initialize NVML'; exit 9", "ended with status 9: 'Failed to init"),
        ("echo hello", "line 1: 1 values"),
        (f"echo '{LINE.format(0, 0)}'", ""),
    ],
)
def test_nvidia_smi_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, words: str
) -> None:
    program = tmp_path / "nvidia-smi"
    query = f"--query-gpu={','.join(FIELDS)} --format=csv,noheader,nounits"
    program.write_text(f'#!/bin/sh\n[ "$*" = "{query}" ] || exit 77\n{script}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if words:
        with pytest.raises(UnreadableGpus, match=words):
            read_gpus()
    else:
        assert [gpu.name for gpu in read_gpus()] == ["NVIDIA H200"]


def test_no_nvidia_smi_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnreadableGpus, match=r"nvidia-smi is not there \(singularity --nv\?\)"):
        read_gpus()
