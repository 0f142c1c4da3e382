"""The probe of ResNet's step: one JSON document, synthetic images, never a log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.commands import InputError
from harness.config import load_config
from harness.optimizers.flat_lars import FlatLARS
from resnet import probe as resnet_probe
from resnet.config import Config
from resnet.probe import fill_with_noise
from resnet.train import main
from tests.one_rank import change_value

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "resnet" / "configs" / "demo.toml"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_synthetic_batch_has_the_shape_of_the_data(dtype: torch.dtype) -> None:
    config = load_config(DEMO, Config)
    size = config.input.crop_size
    images = torch.full((40, size, size, config.input.channels), 7.0, dtype=dtype)
    images = images.permute(0, 3, 1, 2)
    labels = torch.full((40,), -1)
    state = torch.get_rng_state()
    fill_with_noise(config, images, labels)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert images[:, 3].abs().max() == 0 < images[:, 2].std()
    assert 0 <= labels.min() < labels.max() < config.model.classes
    again, again_labels = torch.empty_like(images), torch.empty_like(labels)
    fill_with_noise(config, again, again_labels)
    assert torch.equal(images, again) and torch.equal(labels, again_labels)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("steps", ["0", "-3"])
def test_no_steps_are_refused(steps: str) -> None:
    with pytest.raises(InputError, match=f"--steps must be at least 1, is {steps}"):
        main(["probe", "--config", str(DEMO), "--steps", steps])


def test_a_missing_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such configuration file"):
        main(["probe", "--config", str(tmp_path / "no.toml"), "--steps", "1"])


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch finds no GPU"):
        main(["probe", "--config", str(DEMO), "--steps", "1", "--device", "cuda"])


def test_a_step_is_measured_with_its_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "resnet.toml"
    text = change_value(DEMO.read_text(), "batch", "gradient_accumulation_steps", "3")
    text = change_value(text, "batch", "batch_norm_span", "2")
    file.write_text(change_value(text, "batch", "local_batch_size", "2"))
    calls: list[str] = []
    step_class = resnet_probe.TrainingStep
    backward, update = step_class.backward, FlatLARS.update

    def note_backward(step: Any, first: bool, last: bool) -> None:
        calls.append(f"{first} {last}")
        backward(step, first, last)

    def note_update(optimizer: Any) -> None:
        calls.append("update")
        update(optimizer)

    monkeypatch.setattr(step_class, "backward", note_backward)
    monkeypatch.setattr(FlatLARS, "update", note_update)
    assert main(["probe", "--config", str(file), "--steps", "1", "--device", "cpu"]) == 0
    one_step = ["True False", "False False", "False True", "update"]
    assert len(calls) % 4 == 0 and calls == one_step * (len(calls) // 4)
    out = capsys.readouterr().out
    assert "images/s on one rank" in out and len(out.splitlines()) == 1


def run(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Start the command as a user does, in a folder that shows whatever it writes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "resnet.train", "probe", *arguments]
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
        "benchmark", "config", "device", "steps", "samples_per_step", "samples_per_second",
        "step_seconds", "peak_memory_bytes",
    }  # fmt: skip
    assert (measured["benchmark"], measured["steps"]) == ("resnet", 3)
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", str(DEMO), "--steps", "0"], "error: --steps must be at least 1, is 0"),
        (["--config", "nowhere.toml"], "error: nowhere.toml: no such configuration file"),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(words)
