"""What evaluation costs: planned as a run plans it, and a share of what was timed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from bert.config import Config
from bert.data import EvaluationInput
from bert.shards import read_manifest
from harness.config import load_config
from perf import bert_evaluation

CONFIGS = bert_evaluation.ROOT / "bert" / "configs"


def test_ranks_and_batches_are_a_runs() -> None:
    plans = {}
    for name in ("h200_4x8", "h100_4x4"):
        config = load_config(CONFIGS / f"{name}.toml", Config)
        share = bert_evaluation.plan_share(config, 10_000)
        plans[name] = (bert_evaluation.count_ranks(config), share.batches, share.budgets.sequences)
    assert plans == {"h200_4x8": (32, 2, 157), "h100_4x4": (16, 5, 125)}


def test_the_plan_is_that_of_the_evaluation_input(small_data: Path) -> None:
    manifest = read_manifest(small_data / "bert" / "eval")
    config = load_config(CONFIGS / "demo.toml", Config)
    ranks, local = bert_evaluation.count_ranks(config), config.evaluation.local_batch_size
    planned = bert_evaluation.plan_share(config, manifest.examples)
    cpu = torch.device("cpu")
    theirs = EvaluationInput(manifest, 0, ranks, local, cpu)
    assert theirs.budgets.sequences == planned.budgets.sequences
    assert len(list(theirs.epoch())) == planned.batches


def test_the_command_prints_a_share(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(CONFIGS / "demo.toml"), "--device", "cpu", "--turns", "1"]
    arguments += ["--samples", "64"]
    assert bert_evaluation.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["evaluation_seconds"] > 0 and found["step_seconds"] > 0
    whole = found["evaluation_seconds"] + found["seconds_between_evaluations"]
    assert found["share_of_run"] == pytest.approx(found["evaluation_seconds"] / whole)
    assert bert_evaluation.main(arguments) == 0
    assert "of a run on 4 such ranks is evaluation: 64 samples" in capsys.readouterr().out
