"""The probe of BERT's step: one JSON document, synthetic data like Wikipedia's, never a log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from bert import probe as bert_probe
from bert.budget import plan_budgets
from bert.config import Config
from bert.examples import ExampleSettings
from bert.probe import (
    draw_lengths,
    fit_lengths,
    make_synthetic_batch,
    make_synthetic_batches,
)
from bert.train import main
from harness.commands import InputError
from harness.config import load_config

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "bert" / "configs" / "demo.toml"
CPU = torch.device("cpu")


def test_lengths_are_wikipedias() -> None:
    lengths = draw_lengths(20_000, 512, seed=1)
    assert lengths.min() >= 5 and lengths.max() == 512
    assert abs((lengths == 512).mean() - 0.234) < 0.01
    assert abs((lengths <= 128).mean() - 0.370) < 0.01
    assert np.array_equal(lengths, draw_lengths(20_000, 512, seed=1))


@pytest.mark.parametrize("longest", [3, 5, 64, 512])
def test_lengths_are_scaled_to_the_longest(longest: int) -> None:
    lengths = draw_lengths(2000, longest, seed=1)
    assert lengths.max() == longest and lengths.min() >= min(5, longest)


@pytest.mark.parametrize(("longest", "predictions"), [(64, 10), (512, 76), (4, 1)])
def test_a_synthetic_batch_is_one_that_the_data_could_hold(longest: int, predictions: int) -> None:
    config = load_config(DEMO, Config)
    shape = replace(
        config.input, max_sequence_length=longest, max_predictions_per_sequence=predictions
    )
    model = replace(config.model, positions=longest)
    batch = make_synthetic_batch(replace(config, input=shape, model=model), 40, CPU)
    edges = batch.cu_seqlens.numpy()
    lengths = np.diff(edges)
    tokens = int(edges[-1])
    assert len(lengths) == 40 == len(batch.next_sentence_labels)
    assert batch.longest_sequence == lengths.max() <= longest
    assert all(len(t) == tokens for t in (batch.input_ids, batch.segment_ids, batch.position_ids))
    for low, high in pairwise(edges.tolist()):
        assert batch.position_ids[low:high].tolist() == list(range(high - low))
    masked = batch.masked_positions.numpy()
    counts = np.histogram(masked, bins=edges)[0]
    assert np.array_equal(masked, np.unique(masked)) and len(masked) == len(batch.masked_ids)
    assert counts.min() >= 1 and counts.max() <= predictions
    assert batch.input_ids.max() < config.model.vocabulary_size > batch.masked_ids.max()
    assert set(batch.segment_ids.tolist()) == {0, 1} == set(batch.next_sentence_labels.tolist())


@pytest.mark.parametrize("tokens", [4, 50, 120, 254, 256, 300])
def test_lengths_are_fitted_to_a_total(tokens: int) -> None:
    lengths = fit_lengths(np.array([64, 5, 30, 21]), tokens, 64)
    assert lengths.sum() == min(tokens, 256)
    assert lengths.min() >= 1 and lengths.max() <= 64


@pytest.mark.parametrize(("sequences", "ranks", "mean"), [(16, 4, 36.0), (1, 1, 64.0), (4, 2, 6.0)])
def test_there_is_a_synthetic_batch_for_each_budget(
    sequences: int, ranks: int, mean: float
) -> None:
    config = load_config(DEMO, Config)
    settings = ExampleSettings(max_seq_length=64, max_predictions_per_seq=10)
    budgets = plan_budgets(sequences, ranks, mean, settings)
    batches = make_synthetic_batches(config, budgets, CPU)
    assert [batch.shape for batch in batches] == list(budgets.listed)
    assert [batch.budget for batch in batches] == list(range(len(batches)))
    for batch in batches:
        assert int((batch.next_sentence_labels >= 0).sum()) == sequences
        assert batch.cu_seqlens[-1] == batch.shape.tokens == len(batch.input_ids)
        real = int(batch.cu_seqlens[sequences])
        assert batch.shape.tokens - real <= budgets.spacing


@pytest.mark.parametrize("steps", ["0", "-3"])
def test_no_steps_are_refused(steps: str) -> None:
    with pytest.raises(InputError, match=f"--steps must be at least 1, is {steps}"):
        main(["probe", "--config", str(DEMO), "--steps", steps])


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such configuration file"):
        main(["probe", "--config", str(tmp_path / "no.toml"), "--steps", "1"])


def test_prose_without_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = {"samples_per_second": 1234.56, "step_seconds": {"median": 0.0125}}
    monkeypatch.setattr(bert_probe, "measure_steps", lambda *arguments: measured)
    assert main(["probe", "--config", str(DEMO), "--device", "cpu"]) == 0
    assert capsys.readouterr().out == "1,234.6 sequences/s on one rank (12.50 ms a step, median)\n"


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Start the command as a user does, in a folder that shows whatever it writes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bert.train", "probe", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip


def test_one_json_document_and_no_log(tmp_path: Path) -> None:
    arguments = ["--config", str(DEMO), "--steps", "3", "--json", "--device", "cpu"]
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    config = load_config(DEMO, Config)
    assert set(measured) == {
        "benchmark", "config", "tokens_per_micro_batch", "device", "steps", "samples_per_step",
        "samples_per_second", "step_seconds", "peak_memory_bytes",
    }  # fmt: skip
    assert (measured["benchmark"], measured["steps"]) == ("bert", 3)
    assert measured["peak_memory_bytes"] is None  # no GPU
    batch = config.batch
    samples = batch.local_batch_size * batch.gradient_accumulation_steps
    assert measured["samples_per_step"] == samples
    seconds = measured["step_seconds"]
    assert set(seconds) == {"median", "p10", "p90", "min", "max"}
    assert 0 < seconds["min"] <= seconds["p10"] <= seconds["median"]
    assert seconds["median"] <= seconds["p90"] <= seconds["max"]
    assert measured["samples_per_second"] == pytest.approx(samples / seconds["median"])
    assert ":::MLLOG" not in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_one_sentence_and_status_2(tmp_path: Path) -> None:
    done = run("--config", str(DEMO), "--steps", "many", folder=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "--steps" in done.stderr
