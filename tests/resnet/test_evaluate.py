"""Evaluation of ResNet: every image once over all ranks, one model on all of them, no trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.commands import InputError
from harness.config import load_config
from harness.precision import Precision
from resnet.config import Config
from resnet.data import EvaluationInput
from resnet.evaluate import average_batch_norm_statistics, evaluate
from resnet.model import batch_norm_buffers
from resnet.shards import read_manifest
from resnet.step import UNCOUNTED_LABEL, TrainingStep
from tests.harness.host_waits import let_device_hang
from tests.harness.test_gradients import flatten, fork_ranks, launch

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
WORLD_SIZE, CLASSES = 3, 12


class Oracle(nn.Module):
    """Finds the class that is written in an image's first pixel; notes how it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[bool, bool, torch.dtype]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.called.append((self.training, torch.is_grad_enabled(), images.dtype))
        return nn.functional.one_hot(images[:, 0, 0, 0].long(), CLASSES).float()


class Given:
    """An evaluation input of given batches: classes seen, classes in truth, how many count."""

    def __init__(self, *batches: tuple[list[int], list[int], int]) -> None:
        self.batches = batches

    def epoch_into(self, images: Tensor, labels: Tensor) -> Iterator[int]:
        for seen, truth, count in self.batches:
            images.copy_(torch.tensor(seen).view(-1, 1, 1, 1).expand(images.shape))
            labels.copy_(torch.tensor(truth))
            yield count


def make_oracle_step(precision: str = "fp32") -> TrainingStep:
    config = make_config()
    batch = replace(config.batch, local_batch_size=4, batch_norm_span=4)
    shape = replace(config.input, crop_size=8)
    config = replace(config, batch=batch, input=shape, precision=Precision(precision, 1.0))
    step = TrainingStep(config, CPU, 0, 1, [0.1])
    step.model = Oracle()  # type: ignore[assignment]
    return step


FULL = ([1, 2, 3, 4], [1, 2, 0, 4], 4)  # 3 of 4
# The last image again and again, to keep the shape: right, but not to be counted.
PADDED = ([5, 6, 6, 6], [0, 6, 6, 6], 2)  # 1 of 2


def test_padding_is_not_counted() -> None:
    step = make_oracle_step()
    assert evaluate(step, Given(FULL, PADDED), 6, 1) == 4 / 6
    assert evaluate(step, Given(FULL), 4, 1) == 3 / 4
    assert evaluate(step, Given(PADDED), 2, 1) == 1 / 2


def test_a_class_that_is_no_label_is_never_right() -> None:
    """Predictions are classes from 0; the label of what does not count is none of them."""
    assert UNCOUNTED_LABEL < 0


@pytest.mark.parametrize(("format_", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_model_is_asked_in_evaluation_and_trains_on(format_: str, dtype: torch.dtype) -> None:
    step = make_oracle_step(format_)
    assert evaluate(step, Given(FULL, PADDED), 6, 1) == 4 / 6
    assert step.model.called == [(False, False, dtype)] * 2
    assert step.model.training and torch.is_grad_enabled()


@pytest.mark.parametrize("expected", [5, 7, 8, 50_000])
def test_another_number_of_images_is_no_evaluation(expected: int) -> None:
    with pytest.raises(RuntimeError, match=f"evaluation saw 6 images of {expected}"):
        evaluate(make_oracle_step(), Given(FULL, PADDED), expected, 1)


def test_a_model_that_has_diverged_is_not_evaluated() -> None:
    step = make_oracle_step()
    step.parameters.pools[0].master[5] = torch.nan
    with pytest.raises(InputError, match="no longer finite"):
        evaluate(step, Given(FULL), 4, 1)
    assert step.model.called == []


def test_an_evaluation_begins_when_the_steps_before_are_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It calls a collective where no graph with others is under way, and waits with a limit."""
    step = make_oracle_step()
    let_device_hang(monkeypatch)
    monkeypatch.setattr(dist, "all_reduce", lambda *_: pytest.fail("called too early"))
    step.device = torch.device("cuda", 0)
    with pytest.raises(RuntimeError, match="Timed out waiting 20ms for the device"):
        evaluate(step, Given(FULL), 4, 2)


def make_config() -> Config:
    config: Config = load_config(ROOT / "resnet" / "configs" / "demo.toml", Config)
    return config


def make_step(rank: int, world_size: int = 1, local_batch: int = 16) -> TrainingStep:
    """A small model of 3 classes whose statistics differ from rank to rank."""
    config = make_config()
    config = replace(
        config,
        model=replace(config.model, classes=3),
        input=replace(config.input, crop_size=32),
        batch=replace(config.batch, local_batch_size=local_batch, batch_norm_span=local_batch),
    )
    torch.manual_seed(6)
    step = TrainingStep(config, CPU, rank, world_size, [0.1])
    set_statistics(step, rank)
    return step


def set_statistics(step: TrainingStep, *ranks: int) -> None:
    """Give each statistic the value of a rank, or the mean of several ranks' values."""
    for number, buffer in enumerate(batch_norm_buffers(step.model)):
        values = []
        for rank in ranks:
            generator = torch.Generator().manual_seed(100 * rank + number)
            values.append(torch.rand(buffer.shape, generator=generator) + 0.5)
        buffer.copy_(torch.stack(values).mean(0))


def make_input(folder: Path, rank: int, world_size: int, local_batch: int) -> EvaluationInput:
    config: Config = load_config(ROOT / "resnet" / "configs" / "demo.toml", Config)
    options = replace(config.input, crop_size=32, resize_shorter=36)
    manifest = read_manifest(folder)
    validation = EvaluationInput(manifest, options, rank, world_size, local_batch, CPU)
    validation.open()
    return validation


def run_rank(rank: int) -> dict[str, np.ndarray]:
    """Evaluate this rank's part twice, the second time after a change of the statistics."""
    step = make_step(rank, WORLD_SIZE, local_batch=4)
    found = {}
    validation = make_input(Path(sys.argv[2]), rank, WORLD_SIZE, 4)
    images = validation.manifest.val.images
    found["accuracy"] = np.array(evaluate(step, validation, images, WORLD_SIZE))
    found["statistics"] = flatten(batch_norm_buffers(step.model))
    found["part"] = np.array(validation.images)
    again = evaluate(step, validation, images, WORLD_SIZE)
    found["again"] = np.array(again)
    validation.close()
    try:  # one image too few over all ranks is found on every rank
        evaluate(step, Given() if rank == 1 else Given(FOUR_IMAGES), 8 + 1, WORLD_SIZE)
    except RuntimeError as error:
        found["refusal"] = np.array(str(error))
    return found


FOUR_IMAGES = ([0] * 4, [0] * 4, 4)


@pytest.fixture(scope="module")
def seen(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    folder = tmp_path_factory.mktemp("ranks")
    found = launch("tests.resnet.test_evaluate", folder, small_data / "resnet")
    assert len(found) == WORLD_SIZE
    return found


def test_statistics_are_averaged_over_ranks(seen: list[dict[str, np.ndarray]]) -> None:
    step = make_step(0)
    set_statistics(step, *range(WORLD_SIZE))
    mean = flatten(batch_norm_buffers(step.model))
    for found in seen:
        np.testing.assert_allclose(found["statistics"], mean, rtol=1e-6)
        assert np.array_equal(found["statistics"], seen[0]["statistics"])


def test_ranks_together_count_every_image_once(
    seen: list[dict[str, np.ndarray]], small_data: Path
) -> None:
    """The accuracy of all ranks is that of one process with the averaged statistics."""
    step = make_step(0)
    set_statistics(step, *range(WORLD_SIZE))
    validation = make_input(small_data / "resnet", 0, 1, 16)
    images = validation.manifest.val.images
    whole = evaluate(step, validation, images, 1)
    validation.close()
    assert sum(int(found["part"]) for found in seen) == images
    assert 0 < whole < 1
    assert [float(found["accuracy"]) for found in seen] == [whole] * WORLD_SIZE
    assert [float(found["again"]) for found in seen] == [whole] * WORLD_SIZE


def test_a_missing_image_is_found_on_every_rank(seen: list[dict[str, np.ndarray]]) -> None:
    for found in seen:
        assert str(found["refusal"]) == "evaluation saw 8 images of 9"


def test_a_single_rank_keeps_its_statistics() -> None:
    step = make_step(2)
    before = flatten(batch_norm_buffers(step.model))
    average_batch_norm_statistics(step.model, 1)
    assert np.array_equal(before, flatten(batch_norm_buffers(step.model)))


def test_an_evaluation_changes_nothing_on_a_single_rank(small_data: Path) -> None:
    step = make_step(1)
    tensors = [*step.model.parameters(), *step.model.buffers(), *step.optimizer.state()]
    before, random = flatten(tensors), torch.get_rng_state()
    validation = make_input(small_data / "resnet", 0, 1, 16)
    evaluate(step, validation, validation.manifest.val.images, 1)
    validation.close()
    assert np.array_equal(before, flatten(tensors))
    assert torch.equal(random, torch.get_rng_state())


if __name__ == "__main__":
    fork_ranks(run_rank, WORLD_SIZE, Path(sys.argv[1]))
