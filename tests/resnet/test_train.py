"""ResNet's trainer on one rank: the rates that LARS gets, steps an epoch, points of evaluation.

tests/test_runs.py runs it on four ranks and reads the whole log.
"""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from harness.commands import InputError
from harness.ops.lars_update import lars_update
from harness.ranks import SharedFault
from resnet import train as resnet_train
from resnet.train import Run, main, prepare, train
from tests.one_rank import OneRank

# 96 images, 40 an update: ceil(96 / 40) = 3 updates an epoch, the last batch goes across its end.
SETTINGS: list[tuple[str, str, object]] = [
    ("model", "classes", 3),
    ("input", "crop_size", 32),
    ("input", "resize_shorter", 36),
    ("batch", "global_batch_size", 40),
    ("batch", "local_batch_size", 20),
    ("batch", "batch_norm_span", 20),
    ("batch", "gradient_accumulation_steps", 2),
    ("optimizer", "base_learning_rate", 0.01),
    ("optimizer", "warmup_epochs", 1),
    ("optimizer", "decay_epochs", 4),
    ("evaluation", "first_epoch", 1),
]


# Where harness.ops.lars_update takes the learning rate.
LEARNING_RATE = list(inspect.signature(lars_update).parameters).index("learning_rate")


class Machine(OneRank):
    """One CPU rank, ready to train."""

    def prepare(self) -> Run:
        return prepare(self.parse())


@pytest.fixture
def machine(tmp_path: Path, small_data: Path) -> Iterator[Machine]:
    threads = torch.get_num_threads()
    yield Machine("resnet", tmp_path, small_data / "resnet", SETTINGS)
    torch.set_num_threads(threads)
    if dist.is_initialized():
        dist.destroy_process_group()


def finish(run: Run) -> None:
    run.training.close()
    run.validation.close()
    run.progress.stop()


def test_lars_receives_the_schedules_rates(machine: Machine) -> None:
    run = machine.prepare()
    assert run.steps_per_epoch == 3 and run.evaluation_epochs == [1, 5]
    rates: list[float] = []
    operation = run.step.optimizer.operation

    def note(*arguments: Any) -> None:
        rates.append(float(arguments[LEARNING_RATE]))
        operation(*arguments)

    run.step.optimizer.operation = note
    assert train(run) is False
    finish(run)
    # W = 3 updates of warm-up, S = 12 in all, D = S - W + 1 = 10; trained to the next evaluation.
    wanted = [0.01 * s / 3 for s in range(4)]
    wanted += [1e-4 + (0.01 - 1e-4) * (1 - min(s - 3, 10) / 10) ** 2 for s in range(4, 15)]
    assert rates == [float(np.float32(rate)) for rate in wanted]
    assert wanted[13] == wanted[14] == 1e-4
    logged = {event["key"]: event["value"] for event in machine.events()}
    assert logged["lars_opt_learning_rate_decay_steps"] == 10


def test_epochs_blocks_and_evaluations_follow_the_configuration(machine: Machine) -> None:
    run = machine.prepare()
    drawn: list[int] = []
    draw = run.training.next_into

    def count(images: torch.Tensor, labels: torch.Tensor) -> None:
        draw(images, labels)
        drawn.append(len(labels))

    run.training.next_into = count  # type: ignore[method-assign]
    assert train(run) is False
    finish(run)
    assert drawn == [20] * (5 * 3 * 2)
    assert run.progress.samples == 5 * 3 * 40
    events = machine.events()
    epochs = [e["metadata"]["epoch_num"] for e in events if e["key"] == "epoch_stop"]
    assert epochs == [1, 2, 3, 4, 5]
    points = [e["metadata"]["epoch_num"] for e in events if e["key"] == "eval_accuracy"]
    assert points == [1, 5]
    blocks = [e["metadata"] for e in events if e["key"] == "block_start"]
    spans = [(block["first_epoch_num"], block["epoch_count"]) for block in blocks]
    assert spans == [(1, 1), (2, 4)]
    assert events[-1]["key"] == "run_stop" and events[-1]["metadata"]["status"] == "aborted"


def test_a_run_ends_at_the_evaluation_that_reaches_the_target(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resnet_train, "evaluate", lambda *_: 0.759)
    run = machine.prepare()
    assert train(run) is True
    finish(run)
    events = machine.events()
    assert [e["value"] for e in events if e["key"] == "eval_accuracy"] == [0.759]
    assert [event["key"] for event in events][-2:] == ["block_stop", "run_stop"]
    assert events[-1]["metadata"]["status"] == "success"
    assert run.progress.samples == 120


def test_just_below_the_target_is_not_reached(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.set("optimizer", "decay_epochs", 2)
    machine.set("evaluation", "first_epoch", 2)
    monkeypatch.setattr(resnet_train, "evaluate", lambda *_: 0.7589999)
    assert main(["run", "--system", str(machine.system), "--log", str(machine.log)]) == 1
    assert machine.events()[-1]["metadata"]["status"] == "aborted"


def test_no_data_is_read_before_the_clock_runs(machine: Machine) -> None:
    run = machine.prepare()
    descriptors = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert not [path for path in descriptors if machine.data in path.parents]
    assert str(machine.data) not in Path("/proc/self/maps").read_text()
    opened: list[str] = []
    for part in (run.training, run.validation):

        def open_later(open_now: Any = part.open) -> None:
            opened.append(machine.events()[-1]["key"])
            open_now()

        part.open = open_later  # type: ignore[method-assign]
    train(run)
    finish(run)
    assert opened == ["eval_samples", "eval_samples"]
    keys = [event["key"] for event in machine.events()]
    assert keys.index("run_start") < keys.index("eval_samples")


def test_weights_follow_the_seed_that_is_logged(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for seed in (5, 5, 6):
        monkeypatch.setattr(resnet_train, "draw_seed", lambda ranks, seed=seed: seed)
        machine.log.unlink(missing_ok=True)
        run = machine.prepare()
        finish(run)
        run.clock.close()
        dist.destroy_process_group()
        assert [e["value"] for e in machine.events() if e["key"] == "seed"] == [seed]
        weights.append(run.step.model.conv0.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_what_does_not_fit_is_told_before_the_clock(machine: Machine) -> None:
    machine.set("batch", "local_batch_size", 10)
    machine.set("batch", "batch_norm_span", 10)
    with pytest.raises(SharedFault, match="10 x gradient_accumulation_steps 2 x 1 ranks = 20"):
        machine.prepare()
    machine.set("batch", "local_batch_size", 20)
    machine.set("batch", "batch_norm_span", 20)
    shutil.rmtree(machine.data)
    with pytest.raises((InputError, SharedFault), match=str(machine.data)):
        machine.prepare()
    assert not machine.log.exists()


def test_a_log_that_stands_is_never_overwritten(machine: Machine) -> None:
    machine.log.write_text("an earlier run\n")
    with pytest.raises(FileExistsError):
        machine.prepare()
    assert machine.log.read_text() == "an earlier run\n"
