"""The demonstration's first phase: reproducible, readable by the trainer, and it has learnt."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from bert.checkpoint import read_checkpoint
from bert.config import Config
from bert.data import EvaluationInput
from bert.model import BertForPretraining, pretraining_loss
from bert.shards import read_manifest
from bert.step import TrainingStep
from demo import initial_checkpoint
from demo.initial_checkpoint import make_initial_checkpoint
from harness.config import load_config

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config() -> Config:
    loaded: Config = load_config(ROOT / "bert" / "configs" / "demo.toml", Config)
    return loaded


def make(config: Config, data: Path, file: Path, seed: int, updates: int) -> Path:
    make_initial_checkpoint(config, data / "bert" / "train", file, seed, updates)
    return file


def test_the_seed_decides_every_byte(config: Config, small_data: Path, tmp_path: Path) -> None:
    files = [
        make(config, small_data, tmp_path / name, seed, 2)
        for name, seed in (("first", 4), ("same", 4), ("other", 5))
    ]
    first, same, other = (file.read_bytes() for file in files)
    assert first == same
    assert first != other and len(first) == len(other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "other", "same"]


def find_loss(model: BertForPretraining, config: Config, folder: Path) -> float:
    """The masked-word loss over the whole evaluation set, without dropout."""
    operations = TrainingStep(config, CPU, 0, 1, None, [0.1]).operations
    manifest = read_manifest(folder)
    (batch,) = EvaluationInput(manifest, 0, 1, manifest.examples, CPU).epoch()
    model.eval()
    with torch.no_grad():
        labels = batch.next_sentence_labels
        return float(pretraining_loss(model(batch), batch.masked_ids, labels, operations)[1])


def test_the_trainer_reads_it_and_it_has_learnt(
    config: Config, small_data: Path, tmp_path: Path
) -> None:
    losses = []
    for updates in (1, 40):
        file = make(config, small_data, tmp_path / f"{updates}.safetensors", 4, updates)
        state = read_checkpoint(file, config.model)
        model = TrainingStep(config, CPU, 0, 1, state, [0.1]).model
        assert all(torch.equal(p, state[name]) for name, p in model.named_parameters())
        assert all(p.dtype == torch.float32 for p in model.parameters())
        losses.append(find_loss(model, config, small_data / "bert" / "eval"))
    assert losses[1] < losses[0] - 1.0


def test_the_rate_rises_and_the_thread_ends(
    config: Config, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[list[float]] = []

    class Noted(TrainingStep):
        def __init__(self, *arguments: Any) -> None:
            rates.append(arguments[-1])
            super().__init__(*arguments)

    monkeypatch.setattr(initial_checkpoint, "TrainingStep", Noted)
    before = threading.active_count()
    make(config, small_data, tmp_path / "file", 4, 12)
    top = initial_checkpoint.LEARNING_RATE
    assert rates[0] == pytest.approx([top * min(1.0, n / 10) for n in range(1, 13)])
    assert threading.active_count() == before
