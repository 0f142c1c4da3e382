"""ResNet's step: the mean gradient of the global batch, each rank normalising by its own images."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.config import load_config
from harness.gradients import list_gradients
from harness.precision import Precision
from resnet.config import LARS_TRUST_COEFFICIENT, Config
from resnet.model import ResNet, batch_norm_buffers
from resnet.step import TrainingStep
from resnet.train import warm_up
from tests.harness.test_gradients import flatten, fork_ranks, launch

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
WORLD_SIZE, IMAGES, CLASSES = 2, 6, 12


def make_config(accumulation: int = 1, precision: Precision | None = None) -> Config:
    config: Config = load_config(ROOT / "resnet" / "configs" / "demo.toml", Config)
    batch = replace(config.batch, gradient_accumulation_steps=accumulation)
    model = replace(config.model, classes=CLASSES)
    return replace(config, batch=batch, model=model, precision=precision or config.precision)


def make_batch(number: int) -> tuple[Tensor, Tensor]:
    """Images (IMAGES, 4, 32, 32) and labels, others for every number."""
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(IMAGES, 4, 32, 32, generator=generator) + 0.3 * number
    images[:, 3] = 0.0
    return images, torch.randint(CLASSES, (IMAGES,), generator=generator)


def make_step(config: Config, world_size: int = 1, seed: int = 3) -> TrainingStep:
    torch.manual_seed(seed)
    return TrainingStep(config, CPU, world_size)


def find_gradient(step: TrainingStep) -> np.ndarray:
    return flatten([parameter.grad for parameter in step.model.parameters()])


def take_steps(step: TrainingStep, rank: int, found: dict[str, np.ndarray]) -> None:
    """Two steps of two micro-batches."""
    for number in range(2):
        for micro_batch in range(2):
            step.accumulate(*make_batch(4 * number + 2 * micro_batch + rank))
        found[f"gradient {number}"] = find_gradient(step)
        step.update(0.5)
        found[f"weights {number}"] = flatten(list(step.model.parameters()))
        found[f"statistics {number}"] = flatten(batch_norm_buffers(step.model))


def run_rank(rank: int) -> dict[str, np.ndarray]:
    """Steps without and with a warm-up before, from the same start."""
    config = make_config(accumulation=2)
    found: dict[str, np.ndarray] = {}
    take_steps(make_step(config, WORLD_SIZE, seed=3 + rank), rank, found)
    warm = make_step(config, WORLD_SIZE, seed=3 + rank)
    warm_up(warm, config, CPU, local_batch=3)
    again: dict[str, np.ndarray] = {}
    take_steps(warm, rank, again)
    return {**found, **{f"warm {name}": array for name, array in again.items()}}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    found = launch("tests.resnet.test_step", tmp_path_factory.mktemp("ranks"))
    assert len(found) == WORLD_SIZE
    return found


def test_ranks_and_micro_batches_are_one_mean(seen: list[dict[str, np.ndarray]]) -> None:
    """Two ranks with two micro-batches are one process with the same four."""
    step = make_step(make_config(accumulation=4))
    for number in range(2):
        for micro_batch in range(4):
            step.accumulate(*make_batch(4 * number + micro_batch))
        gradient = find_gradient(step)
        step.update(0.5)
        weights = flatten(list(step.model.parameters()))
        for found in seen:
            error = np.linalg.norm(found[f"gradient {number}"] - gradient)
            assert error < 1e-3 * np.linalg.norm(gradient)
            error = np.linalg.norm(found[f"weights {number}"] - weights)
            assert error < 1e-4 * np.linalg.norm(weights)


def test_ranks_keep_the_same_weights_and_their_own_statistics(
    seen: list[dict[str, np.ndarray]],
) -> None:
    first, second = seen
    for number in range(2):
        assert np.array_equal(first[f"weights {number}"], second[f"weights {number}"])
        assert not np.allclose(first[f"statistics {number}"], second[f"statistics {number}"])
    # A rank's statistics of the first step are those of a process that saw its images alone.
    for rank, found in enumerate(seen):
        alone = make_step(make_config(accumulation=2))
        for micro_batch in range(2):
            alone.accumulate(*make_batch(2 * micro_batch + rank))
        statistics = flatten(batch_norm_buffers(alone.model))
        np.testing.assert_allclose(found["statistics 0"], statistics, rtol=1e-4, atol=1e-5)


def test_the_warm_up_leaves_no_trace_on_several_ranks(seen: list[dict[str, np.ndarray]]) -> None:
    for found in seen:
        names = [name for name in found if not name.startswith("warm ")]
        assert len(names) == 6
        for name in names:
            assert np.array_equal(found[name], found[f"warm {name}"]), name


def reference_loss(model: ResNet, images: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with 1 - smoothing on the label and smoothing spread over all classes."""
    log_shares = model(images).double().log_softmax(1)
    targets = torch.full_like(log_shares, smoothing / CLASSES)
    targets[torch.arange(len(labels)), labels] += 1 - smoothing
    return -(targets * log_shares).sum(1).mean()


def test_accumulation_is_the_mean_of_micro_gradients() -> None:
    config = make_config(accumulation=3)
    assert config.optimizer.label_smoothing == 0.1
    step, model = make_step(config), make_step(config).model
    wanted = 0.0
    for number in range(3):
        images, labels = make_batch(number)
        step.accumulate(images, labels)
        model.zero_grad()
        reference_loss(model, images, labels, 0.1).backward()
        wanted = wanted + flatten([p.grad for p in model.parameters()]) / 3
    gradient = find_gradient(step)
    assert np.linalg.norm(gradient - wanted) < 1e-4 * np.linalg.norm(wanted)


def test_update_forgets_the_gradients_and_starts_the_next_step() -> None:
    config = make_config(accumulation=2)
    step, again = make_step(config), make_step(config)
    for _ in range(2):
        for number in range(2):
            step.accumulate(*make_batch(number))
        step.update(0.0)
        assert all(gradient.abs().max() == 0 for gradient in list_gradients(step.optimizer))
    for number in range(2):
        step.accumulate(*make_batch(number))
        again.accumulate(*make_batch(number))
    # Rate 0 has changed no weight, so the third step's gradient is the first's.
    assert np.array_equal(find_gradient(step), find_gradient(again))


def test_lars_has_the_configurations_values_in_both_groups() -> None:
    config = make_config()
    step = make_step(config)
    step.accumulate(*make_batch(0))
    step.update(0.125)
    adapted, skipped = step.optimizer.param_groups
    assert (adapted["adapt"], skipped["adapt"]) == (True, False)
    assert len(adapted["params"]) + len(skipped["params"]) == len(list(step.model.parameters()))
    for group in (adapted, skipped):
        assert group["lr"] == 0.125
        assert group["momentum"] == config.optimizer.momentum
        assert group["weight_decay"] == config.optimizer.weight_decay
        assert group["trust_coefficient"] == LARS_TRUST_COEFFICIENT == 0.001
        assert group["eps"] == config.optimizer.epsilon


def find_given_gradient(precision: Precision, noise: float = 0.0) -> np.ndarray:
    """The gradient that the optimizer gets of one batch, its images off by a share of noise."""
    step = make_step(make_config(precision=precision))
    given: list[np.ndarray] = []
    step.optimizer.register_step_pre_hook(lambda *_: given.append(find_gradient(step)))
    images, labels = make_batch(1)
    generator = torch.Generator().manual_seed(9)
    step.accumulate(images * (1 + noise * torch.randn(images.shape, generator=generator)), labels)
    step.update(0.01)
    tensors = [*step.model.parameters(), *batch_norm_buffers(step.model)]
    assert all(tensor.dtype == torch.float32 for tensor in tensors)
    return given[0]


@pytest.mark.parametrize(
    ("precision", "rounding"), [(Precision("bf16", 1.0), 2**-8), (Precision("fp16", 128.0), 2**-11)]
)
def test_sixteen_bit_steps_differ_by_rounding_alone(precision: Precision, rounding: float) -> None:
    """The optimizer gets unscaled fp32 gradients, off by what rounded images would bring about.

    Few small images make normalisation sensitive, so the measure is the gradient's own.
    """
    exact = find_given_gradient(Precision("fp32", 1.0))
    shaken = find_given_gradient(Precision("fp32", 1.0), noise=rounding)
    near = find_given_gradient(precision)
    error = np.linalg.norm(near - exact) / np.linalg.norm(exact)
    assert near.dtype == np.float32
    assert 0 < error < 2.5 * np.linalg.norm(shaken - exact) / np.linalg.norm(exact) < 1


if __name__ == "__main__":
    fork_ranks(run_rank, WORLD_SIZE, Path(sys.argv[1]))
