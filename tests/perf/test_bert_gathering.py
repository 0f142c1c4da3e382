"""Weights gathered behind the update: the peer's step trains as ours does."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from bert.probe import make_synthetic_batch
from bert.step import TrainingStep
from perf import bert_gathering
from tests.harness.device_demands import NcclDemands


def record(step: TrainingStep, nccl: NcclDemands, run: Any) -> list[str]:
    """The collectives of one step, in their order."""
    nccl.sent.clear()
    run()
    return [name for name, _ in nccl.sent]


def test_the_peer_gathers_the_same_behind_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    nccl = NcclDemands(4, monkeypatch)
    step = bert_gathering.make_step(0, 4)
    batch = make_synthetic_batch(step.config, 2, torch.device("cpu"))

    def run() -> None:
        step.run(lambda _: batch)

    ours = record(step, nccl, run)
    peer = record(step, nccl, lambda: bert_gathering.gather_at_the_end(step, run))
    gathers = len(step.parameters.pools[0].buckets)
    assert gathers > 5 and nccl.left == []
    assert ours[:gathers] == ["all_gather"] * gathers == peer[-gathers:]
    assert ours[gathers:] == peer[:-gathers] and "all_gather" not in ours[gathers:]
    assert record(step, nccl, run) == ours  # nothing of the peer's way is left


def test_the_command_prints_figure_peer_and_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    assert bert_gathering.main(["--sequences", "1", "--rounds", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ours"] > 0 and result["ratio"] > 0 and result["unit"] == "seconds/step"
    assert "waited for" in result["how"]
