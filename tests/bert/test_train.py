"""BERT's trainer on one rank: the rates that LAMB gets, the points of evaluation, early refusals.

tests/test_runs.py runs it on four ranks and reads the whole log.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from bert import train as bert_train
from bert.config import Config
from bert.train import Run, main, prepare, read_fitting_manifest, train
from harness.commands import InputError
from harness.config import load_config
from harness.ops.lamb_apply import lamb_apply
from harness.ranks import SharedFault
from tests.conftest import ROOT
from tests.one_rank import OneRank, change_value

DEMO = ROOT / "bert" / "configs" / "demo.toml"
# 16 sequences an update; evaluations at 40, 80, 120 samples come after update 3, 5 and 8.
SETTINGS: list[tuple[str, str, object]] = [
    ("batch", "global_batch_size", 16),
    ("batch", "local_batch_size", 8),
    ("batch", "gradient_accumulation_steps", 2),
    ("optimizer", "base_learning_rate", 0.002),
    ("optimizer", "training_steps", 9),
    ("optimizer", "warmup_steps", 4),
    ("optimizer", "start_warmup_step", -1),
    ("evaluation", "interval_samples", 40),
]


# Where harness.ops.lamb_apply takes the learning rate.
LEARNING_RATE = list(inspect.signature(lamb_apply).parameters).index("learning_rate")


class Machine(OneRank):
    """One CPU rank, ready to train."""

    def prepare(self) -> Run:
        return prepare(self.parse())


@pytest.fixture
def machine(tmp_path: Path, small_data: Path) -> Iterator[Machine]:
    threads = torch.get_num_threads()
    yield Machine("bert", tmp_path, small_data / "bert", SETTINGS)
    torch.set_num_threads(threads)
    if dist.is_initialized():
        dist.destroy_process_group()


def test_lamb_receives_the_schedules_rates(machine: Machine) -> None:
    run = machine.prepare()
    assert run.evaluation_updates == [3, 5, 8]
    rates: list[float] = []
    operations = run.step.optimizer.operations

    def note(*arguments: Any) -> None:
        rates.append(float(arguments[LEARNING_RATE]))
        operations.apply(*arguments)

    run.step.optimizer.operations = replace(operations, apply=note)
    assert train(run) is False
    run.training.close()
    run.progress.stop()
    # Warm-up from -1 over 4 updates: base (s + 1) / 4 for s = 0, 1, 2; then base (1 - s / 9).
    wanted = [0.002 * (s + 1) / 4 for s in range(3)] + [0.002 * (1 - s / 9) for s in range(3, 8)]
    assert rates == [float(np.float32(rate)) for rate in wanted]
    assert int(run.step.optimizer.schedule.number) == 8


def test_evaluations_follow_the_first_whole_batch_at_each_interval(machine: Machine) -> None:
    run = machine.prepare()
    assert train(run) is False
    run.training.close()
    run.progress.stop()
    events = machine.events()
    points = [e["metadata"]["epoch_num"] for e in events if e["key"] == "eval_accuracy"]
    assert points == [48, 80, 128]
    assert [e["value"] for e in events if e["key"] == "train_samples"] == [128]
    assert run.progress.samples == 128
    assert events[-1]["key"] == "run_stop" and events[-1]["metadata"]["status"] == "aborted"


def test_samples_of_a_skipped_update_are_not_counted(machine: Machine) -> None:
    run = machine.prepare()
    update = run.step.optimizer.update
    made: list[int] = []

    def overflow_once() -> None:
        made.append(len(made))
        if len(made) == 2:
            run.step.parameters.pools[0].owned_gradients[0] = torch.inf
        update()

    run.step.optimizer.update = overflow_once  # type: ignore[method-assign]
    assert train(run) is False
    run.training.close()
    run.progress.stop()
    events = machine.events()
    points = [e["metadata"]["epoch_num"] for e in events if e["key"] == "eval_accuracy"]
    assert len(made) == 8 and points == [32, 64, 112]
    logged = {e["key"]: e["value"] for e in events}
    assert (logged["train_samples"], logged["skipped_updates"]) == (112, 1)


def test_a_run_ends_at_the_evaluation_that_reaches_the_target(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = iter([0.5, 0.72, 0.9])
    monkeypatch.setattr(bert_train, "evaluate", lambda *_: next(values))
    run = machine.prepare()
    assert train(run) is True
    run.training.close()
    run.progress.stop()
    assert next(values) == 0.9
    events = machine.events()
    assert [e["value"] for e in events if e["key"] == "eval_accuracy"] == [0.5, 0.72]
    assert [e["value"] for e in events if e["key"] == "train_samples"] == [80]
    assert events[-1]["metadata"]["status"] == "success"
    keys = [event["key"] for event in events]
    last = ["block_stop", "epoch_stop", "train_samples", "skipped_updates", "run_stop"]
    assert keys[-5:] == last and events[-2]["value"] == 0


def test_no_data_is_open_before_the_clock_runs(machine: Machine) -> None:
    run = machine.prepare()
    maps = Path("/proc/self/maps").read_text()
    assert str(machine.data / "train") not in maps and str(machine.data / "eval") not in maps
    opened: list[str] = []
    open_training = run.training.open

    def open_later() -> None:
        opened.append(machine.events()[-1]["key"])
        open_training()

    run.training.open = open_later  # type: ignore[method-assign]
    train(run)
    run.training.close()
    run.progress.stop()
    keys = [event["key"] for event in machine.events()]
    assert opened == ["block_start"]
    assert keys.index("run_start") < keys.index("block_start")


def test_main_says_by_its_status_whether_the_target_was_reached(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bert_train, "evaluate", lambda *_: 0.8)
    assert main(["run", "--system", str(machine.system), "--log", str(machine.log)]) == 0


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("batch", "local_batch_size", 4, "4 x gradient_accumulation_steps 2 x 1 ranks = 8, but"),
        ("input", "max_sequence_length", 32, "was prepared with max_seq_length 64, the configur"),
        ("input", "max_predictions_per_sequence", 9, "max_predictions_per_seq 10, the configurat"),
        ("model", "layers", 3, "initial.safetensors"),
    ],
)
def test_what_does_not_fit_is_told_before_the_clock(
    machine: Machine, section: str, key: str, value: int, words: str
) -> None:
    machine.set(section, key, value)
    with pytest.raises((InputError, SharedFault)) as caught:
        machine.prepare()
    assert words in str(caught.value)
    assert not machine.log.exists() or '"run_start"' not in machine.log.read_text()


def test_a_run_too_short_for_an_evaluation_is_refused(machine: Machine) -> None:
    machine.set("optimizer", "training_steps", 2)
    with pytest.raises(InputError) as caught:
        machine.prepare()
    assert str(caught.value) == (
        f"{machine.config}: optimizer.training_steps is 2 and ends the run before its first "
        "evaluation, after update 3: raise it"
    )
    assert not machine.log.exists()


def test_another_interval_than_the_rules_is_the_demonstrations_alone(machine: Machine) -> None:
    text = machine.system.read_text().replace('profile = "demo"', 'profile = "lp2bm"')
    machine.system.write_text(text.replace("one_machine = true", "one_machine = false"))
    with pytest.raises(InputError, match="interval_samples is 40, the rule asks for 150000 at"):
        machine.prepare()
    assert not machine.log.exists()


def test_a_vocabulary_of_another_size_is_refused(small_data: Path, tmp_path: Path) -> None:
    file = tmp_path / "bert.toml"
    file.write_text(change_value(DEMO.read_text(), "model", "vocabulary_size", "30522"))
    config = load_config(file, Config)
    with pytest.raises(InputError, match="vocabulary size 161, the configuration says 30522"):
        read_fitting_manifest(small_data / "bert" / "train", config)
