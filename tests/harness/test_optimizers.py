"""LARS and LAMB against the reference's outputs, published vectors and an oracle in fp64."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from harness.optimizers import LAMB, LARS

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden"
Array = NDArray[np.float64]
SHAPES = [(16, 3, 5, 5), (8, 16, 1, 1), (10, 8), (8, 8), (7, 5), (16,), (10,), (1,), (12, 4)]
ADAPTED = [0, 1, 2, 3, 4, 8]
ZERO_WEIGHT, ZERO_GRADIENT = 3, 4
STEPS = 200


def make_parameters(arrays: list[Array]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor(array, dtype=torch.float32)) for array in arrays]


def make_groups(parameters: list[torch.nn.Parameter], adapted: list[int]) -> list[dict[str, Any]]:
    skipped = [i for i in range(len(parameters)) if i not in adapted]
    return [
        {"params": [parameters[i] for i in adapted]},
        {"params": [parameters[i] for i in skipped], "adapt": False},
    ]


def relative_error(ours: torch.Tensor, theirs: Array | torch.Tensor) -> float:
    expected = torch.as_tensor(theirs).double()
    size = float(expected.norm())
    return float((ours.detach().double() - expected).norm()) / (size if size > 0 else 1.0)


# --- the reference's own outputs


def read_golden(name: str) -> dict[str, Any]:
    path = GOLDEN / name
    if not path.is_file():
        pytest.skip(f"the reference outputs {name} are not beside this checkout")
    with np.load(path, allow_pickle=False) as golden:
        return {key: golden[key] for key in golden.files}


def replay(
    golden: dict[str, Any],
    is_skipped: Callable[[str], bool],
    make: Callable[[list[dict[str, Any]]], torch.optim.Optimizer],
) -> None:
    names = [key.removeprefix("init/") for key in golden if key.startswith("init/")]
    parameters = make_parameters([golden[f"init/{name}"] for name in names])
    adapted = [i for i, name in enumerate(names) if not is_skipped(name)]
    assert 0 < len(adapted) < len(names)
    optimizer = make(make_groups(parameters, adapted))
    for step, rate in enumerate(golden["lr"]):
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        for name, parameter in zip(names, parameters, strict=True):
            parameter.grad = torch.from_numpy(golden[f"grad{step}/{name}"])
        optimizer.step()
        for name, parameter in zip(names, parameters, strict=True):
            error = relative_error(parameter, golden[f"param{step}/{name}"])
            assert error <= 1e-5, (step, name, error)


def test_lars_is_the_reference_over_its_eight_steps() -> None:
    golden = read_golden("resnet/lars.npz")
    options = {key: float(golden[key]) for key in ("momentum", "weight_decay")}
    options |= {"trust_coefficient": float(golden["eeta"]), "eps": float(golden["epsilon"])}
    replay(
        golden,
        lambda name: "batch_normalization" in name or "bias" in name,
        lambda groups: LARS(groups, lr=0.0, **options),
    )


def test_lamb_is_the_reference_over_its_six_steps() -> None:
    golden = read_golden("bert/lamb.npz")
    replay(
        golden,
        lambda name: "LayerNorm" in name or "bias" in name,
        lambda groups: LAMB(
            groups,
            lr=0.0,
            betas=(float(golden["beta1"]), float(golden["beta2"])),
            eps=float(golden["epsilon"]),
            weight_decay=float(golden["weight_decay"]),
        ),
    )


# --- the published vector of LARS with the learning rate inside the momentum


def test_lars_gives_the_vector_of_its_form() -> None:
    (weight,) = make_parameters([np.array([0.3, -0.4, 0.5])])
    optimizer = LARS([weight], lr=1.0, momentum=0.9, weight_decay=5e-5)
    gradients = [(0.01, 0.02, -0.03), (-0.02, 0.01, 0.005), (0.03, -0.01, 0.02)]
    for rate, gradient in zip((1, 5.25, 10.5), gradients, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(
        weight.detach(), [0.29966154, -0.40209797, 0.49600289], rtol=0, atol=5e-8
    )


# --- oracles in fp64


def lars_oracle(
    weight: Array, momentum: Array, gradient: Array, rate: float, adapt: bool
) -> tuple[Array, Array]:
    decay, scale = 1e-4, 1.0
    if adapt:
        weight_norm, gradient_norm = np.linalg.norm(weight), np.linalg.norm(gradient)
        if weight_norm > 0 and gradient_norm > 0:
            scale = 0.001 * weight_norm / (gradient_norm + decay * weight_norm)
        gradient = gradient + decay * weight
    momentum = 0.9 * momentum + rate * scale * gradient
    return weight - momentum, momentum


def draw_gradients(random: np.random.Generator, step: int) -> list[Array]:
    gradients = [
        (random.standard_normal(shape) * 10 ** random.uniform(-3, 0)).astype(np.float32)
        for shape in SHAPES
    ]
    if step < 3:
        gradients[ZERO_WEIGHT][:] = 0  # its weight stays zero until then
    if step % 2:
        gradients[ZERO_GRADIENT][:] = 0
    return [gradient.astype(np.float64) for gradient in gradients]


def draw_weights(random: np.random.Generator) -> list[Array]:
    weights = [random.standard_normal(shape).astype(np.float32) for shape in SHAPES]
    weights[ZERO_WEIGHT][:] = 0
    return [weight.astype(np.float64) for weight in weights]


def test_lars_is_its_equation_over_200_steps() -> None:
    random = np.random.default_rng(1)
    weights = draw_weights(random)
    momenta = [np.zeros_like(weight) for weight in weights]
    parameters = make_parameters(weights)
    parameters[0].data = parameters[0].data.contiguous(memory_format=torch.channels_last)
    optimizer = LARS(make_groups(parameters, ADAPTED), lr=0.1, weight_decay=1e-4)
    for step in range(STEPS):
        rate = 2.0 * (1 - step / STEPS) ** 2
        gradients = draw_gradients(random, step)
        for i, gradient in enumerate(gradients):
            parameters[i].grad = torch.tensor(gradient, dtype=torch.float32)
            weights[i], momenta[i] = lars_oracle(
                weights[i], momenta[i], gradient, rate, i in ADAPTED
            )
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        if step == 2:
            assert not parameters[ZERO_WEIGHT].any()
    for parameter, weight in zip(parameters, weights, strict=True):
        assert relative_error(parameter, weight) < 1e-5
    assert parameters[0].is_contiguous(memory_format=torch.channels_last)


class LambOracle:
    def __init__(self, weights: list[Array], limit: float | None) -> None:
        self.weights, self.limit, self.t = weights, limit, 0
        self.means = [np.zeros_like(weight) for weight in weights]
        self.squares = [np.zeros_like(weight) for weight in weights]

    def step(self, gradients: list[Array], rate: float) -> None:
        beta1, beta2, eps, decay = 0.88, 0.95, 1e-6, 0.02
        self.t += 1
        if self.limit is not None:
            norm = math.sqrt(sum((gradient**2).sum() for gradient in gradients))
            gradients = [gradient / max(norm / self.limit, 1) for gradient in gradients]
        for i, gradient in enumerate(gradients):
            weight = self.weights[i]
            self.means[i] = beta1 * self.means[i] + (1 - beta1) * gradient
            self.squares[i] = beta2 * self.squares[i] + (1 - beta2) * gradient**2
            root = np.sqrt(self.squares[i] / (1 - beta2**self.t))
            update = self.means[i] / (1 - beta1**self.t) / (root + eps)
            ratio = 1.0
            if i in ADAPTED:
                update = update + decay * weight
                if np.linalg.norm(weight) > 0 and np.linalg.norm(update) > 0:
                    ratio = np.linalg.norm(weight) / np.linalg.norm(update)
            self.weights[i] = weight - rate * ratio * update


@pytest.mark.parametrize("limit", [1.0, 30.0, None])
def test_lamb_is_its_equation_over_200_steps(limit: float | None) -> None:
    random = np.random.default_rng(2)
    weights = draw_weights(random)
    parameters = make_parameters(weights)
    parameters[0].data = parameters[0].data.contiguous(memory_format=torch.channels_last)
    oracle = LambOracle(weights, limit)
    optimizer = LAMB(
        make_groups(parameters, ADAPTED),
        lr=0.1,
        betas=(0.88, 0.95),
        weight_decay=0.02,
        max_grad_norm=limit,
    )
    norms = []
    for step in range(STEPS):
        rate = 0.02 * (1 - step / STEPS)
        gradients = draw_gradients(random, step)
        norms.append(math.sqrt(sum((gradient**2).sum() for gradient in gradients)))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = torch.tensor(gradient, dtype=torch.float32)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        oracle.step(gradients, rate)
        if step == 2:
            assert not parameters[ZERO_WEIGHT].any()
    for parameter, weight in zip(parameters, oracle.weights, strict=True):
        assert relative_error(parameter, weight) < 1e-5
    assert min(norms) < 30 < max(norms)  # a limit of 30 binds in some steps and not in others


# --- guards


def test_lars_ratio_is_one_for_a_zero_weight_or_a_zero_gradient() -> None:
    zero, still = make_parameters([np.zeros(4), np.full(4, 0.5)])
    optimizer = LARS([zero, still], lr=2.0, momentum=0.0, weight_decay=0.25)
    zero.grad, still.grad = torch.full((4,), 0.125), torch.zeros(4)
    optimizer.step()
    assert torch.equal(zero, torch.full((4,), -0.25))
    assert torch.equal(still, torch.full((4,), 0.5 - 2.0 * 0.25 * 0.5))


def test_lamb_ratio_is_one_for_a_zero_weight_or_a_zero_update() -> None:
    zero, still = make_parameters([np.zeros(4), np.full(4, 0.5)])
    optimizer = LAMB([zero, still], lr=0.5, weight_decay=0.0, max_grad_norm=None)
    zero.grad, still.grad = torch.full((4,), 0.125), torch.zeros(4)
    optimizer.step()
    assert torch.allclose(zero, torch.full((4,), -0.5), rtol=1e-4)
    assert torch.equal(still, torch.full((4,), 0.5))


def test_lamb_adapts_without_decay() -> None:
    (weight,) = make_parameters([np.array([3.0, 4.0])])
    optimizer = LAMB([weight], lr=0.1, weight_decay=0.0, max_grad_norm=None)
    weight.grad = torch.tensor([0.2, 0.2])
    before = weight.detach().clone()
    optimizer.step()
    # |w| = 5, and the first update has the direction (1, 1)
    assert torch.allclose(before - weight, torch.full((2,), 0.5 / math.sqrt(2)), rtol=1e-4)


def test_lamb_clips_over_all_groups_and_leaves_the_gradients() -> None:
    gradients = ([0.9, 1.2], [0.8, 0.0])  # together of norm 1.7
    norm = 1.7

    def update(limit: float | None, factor: float) -> list[torch.Tensor]:
        parameters = make_parameters([np.array([1.0, 2.0]), np.array([1.0, -1.0])])
        optimizer = LAMB(make_groups(parameters, [0]), lr=0.1, eps=0.5, max_grad_norm=limit)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = factor * torch.tensor(gradient)
        optimizer.step()
        assert parameters[0].grad is not None
        assert torch.equal(parameters[0].grad, factor * torch.tensor(gradients[0]))
        return [parameter.detach() for parameter in parameters]

    for ours, expected in zip(update(1.0, 1.0), update(None, 1 / norm), strict=True):
        assert torch.allclose(ours, expected, rtol=1e-6)
    for ours, expected in zip(update(2.0, 1.0), update(None, 1.0), strict=True):
        assert torch.equal(ours, expected)


def test_lamb_counts_updates_and_not_those_of_one_group() -> None:
    parameters = make_parameters([np.array([1.0]), np.array([1.0])])
    optimizer = LAMB(make_groups(parameters, [0]), lr=0.5, eps=1e-12, max_grad_norm=None)
    parameters[0].grad = torch.tensor([1.0])
    optimizer.step()
    parameters[1].grad = torch.tensor([1.0])
    optimizer.step()
    # m = 0.1 and v = 0.001 after its first gradient, corrected as of update 2
    update = (0.1 / (1 - 0.9**2)) / math.sqrt(0.001 / (1 - 0.999**2))
    assert parameters[1].item() == pytest.approx(1 - 0.5 * update, rel=1e-6)
