"""The profile of a step: a trace that can be loaded and a table whose shares add up."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._C._autograd import DeviceType

from harness import step_profile
from harness.commands import InputError
from harness.step_profile import (
    describe_profile,
    find_reachable,
    make_profile_folder,
    profile_steps,
)

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


def run() -> None:
    a = torch.ones(64, 64, requires_grad=True)
    torch.relu(a @ a).sum().backward()


def test_trace_and_table_are_written(tmp_path: Path) -> None:
    make_profile_folder(tmp_path / "new" / "folder")
    found = profile_steps(run, run, CPU, tmp_path / "new" / "folder")
    files = sorted(file.name for file in (tmp_path / "new" / "folder").iterdir())
    assert files == ["profile.json", "trace.json"]
    trace = json.loads((tmp_path / "new" / "folder" / "trace.json").read_text())
    assert any("mm" in event.get("name", "") for event in trace["traceEvents"])
    assert json.loads((tmp_path / "new" / "folder" / "profile.json").read_text()) == found
    kinds = {row["kind"]: row for row in found["kinds"]}
    assert kinds["matrix product"]["calls"] >= 3
    assert sum(row["share"] for row in found["kinds"]) == pytest.approx(1)
    assert sum(row["seconds"] for row in found["kinds"]) == pytest.approx(found["seconds"])
    # Nobody has said what this processor reaches, so nothing is claimed of a floor.
    assert all(row["floor_seconds"] is None for row in found["kinds"])
    assert "unknown" in describe_profile(found)


def test_a_known_device_has_a_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_profile, "describe_device", lambda _: "NVIDIA H200")
    found = profile_steps(run, run, CPU, tmp_path)
    kinds: dict[str, Any] = {row["kind"]: row for row in found["kinds"]}
    flops, moved = 2 * 64**3, 3 * 4 * 64**2
    floor = kinds["matrix product"]["floor_seconds"]
    assert floor == pytest.approx(3 * max(flops / 790e12, moved / 4.3e12))


def test_on_a_gpu_kernels_count_and_what_spans_them_does_not() -> None:
    def make(name: str, device: DeviceType, microseconds: float, note: bool = False) -> Any:
        time = SimpleNamespace(elapsed_us=lambda: microseconds)
        return SimpleNamespace(
            name=name, device_type=device, time_range=time, is_user_annotation=note
        )

    events = [
        make("aten::addmm", DeviceType.CPU, 50),
        make("lars_update_apply", DeviceType.CUDA, 3),
        make("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", DeviceType.CUDA, 7),
        make("nccl:all_reduce", DeviceType.CUDA, 7, note=True),
    ]
    seconds, calls = step_profile._sum_by_kind(events, torch.device("cuda", 0))
    assert dict(calls) == {"gradients and update": 1, "communication": 1}
    assert seconds["communication"] == pytest.approx(7e-6)


def test_names_of_gpus() -> None:
    assert find_reachable("NVIDIA H100 80GB HBM3") == (750e12, 3.0e12)
    assert find_reachable("cpu, 2 thread(s)") is None


def test_a_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--profile .*file.* name another folder"):
        make_profile_folder(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(InputError, match=r"--profile .*new.* may not write to .*new"):
        make_profile_folder(tmp_path / "new")


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_it_is_refused_before_anything_is_measured(
    benchmark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{benchmark}.probe.make_step", lambda *_: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    words = ["probe", "--config", str(ROOT / benchmark / "configs" / "demo.toml"), "--profile"]
    main = importlib.import_module(f"{benchmark}.train").main
    with pytest.raises(InputError, match="--profile"):
        main([*words, str(tmp_path / "file")])
