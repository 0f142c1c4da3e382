"""The kernels of two normalisations that are added, interpreted, against the definition in fp64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from harness.commands import InputError
from harness.ops import batch_norm_launches as launches
from harness.ops.kernels import record_launches
from harness.ops.table import resolve
from tests.harness.ops.test_batch_norm_triton import (
    CASES,
    EPS,
    MOMENTUM,
    ROUNDING,
    SUMS,
    channels_last,
    error,
)

OPERATION = "batch_norm_batch_norm_add_relu"
PROVIDERS = ["triton", "separate"]
DTYPES = list(ROUNDING)


@dataclass
class Case:
    """What goes in, and what has to come out, in fp64."""

    inputs: list[Tensor]  # x and the shortcut
    parameters: list[Tensor]  # weight, bias, of each
    statistics: list[Tensor]  # running mean and variance, of each
    training: bool
    directions: list[Tensor]
    result: Tensor
    moved: list[Tensor]
    gradients: list[Tensor]  # of inputs and parameters


def define(
    inputs: list[Tensor], parameters: list[Tensor], statistics: list[Tensor], training: bool
) -> Tensor:
    """torch's own normalisation of each, and the sum: moves the statistics."""
    parts = [
        F.batch_norm(x, *statistics[k : k + 2], *parameters[k : k + 2], training, MOMENTUM, EPS)
        for x, k in zip(inputs, (0, 2), strict=True)
    ]
    return parts[0] + parts[1]


def make_case(
    shape: tuple[int, ...], dtype: torch.dtype, training: bool = True, directions: int = 1
) -> Case:
    """Draw a case, and compute it in fp64 from the numbers as they were rounded."""
    torch.manual_seed(sum(shape))
    channels = shape[1]
    inputs = [
        channels_last((scale * torch.randn(shape) + mean).to(dtype))
        for scale, mean in ((3, 2), (0.5, -1))
    ]
    parameters = [torch.rand(channels) + 0.5, torch.randn(channels)]
    parameters += [torch.rand(channels) - 0.5, torch.randn(channels)]
    statistics = [torch.randn(channels), torch.rand(channels) + 0.5]
    statistics += [torch.randn(channels), torch.rand(channels) + 0.5]
    leaves = [tensor.double().requires_grad_() for tensor in (*inputs, *parameters)]
    moved = [tensor.double() for tensor in statistics]
    y = define(leaves[:2], leaves[2:], moved, training)
    # Where the ReLU bends, a rounding decides: nothing is asked there.
    given = [
        channels_last((torch.randn(shape) * (y.detach().abs() > 0.05)).to(dtype))
        for _ in range(directions)
    ]
    total = torch.stack([one.double() for one in given]).sum(0)
    gradients = list(torch.autograd.grad(y.relu(), leaves, total))
    result = y.relu().detach()
    return Case(inputs, parameters, statistics, training, given, result, moved, gradients)


def call(case: Case, provider: str, leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
    parameters, statistics = leaves[2:], case.statistics
    vectors = [*parameters[:2], *statistics[:2], *parameters[2:], *statistics[2:]]
    found: tuple[Tensor, Tensor] = resolve(OPERATION, provider)(
        *leaves[:2], *vectors, case.training, MOMENTUM, EPS
    )
    return found


def run(case: Case, provider: str = "triton") -> tuple[Tensor, list[Tensor]]:
    """The kernels' result and gradients; the case's running statistics are moved."""
    leaves = [tensor.detach().requires_grad_() for tensor in (*case.inputs, *case.parameters)]
    results = list(call(case, provider, leaves))[: len(case.directions)]
    return results[0], list(torch.autograd.grad(results, leaves, case.directions))


def check(case: Case, provider: str = "triton") -> None:
    dtype = case.inputs[0].dtype
    y, gradients = run(case, provider)
    assert y.dtype == dtype and y.stride() == case.inputs[0].stride()
    # One after the other rounds the shortcut's result once more on the way.
    roundings = 1 if provider == "triton" else 2
    assert error(y, case.result) <= roundings * ROUNDING[dtype]
    for moved, expected in zip(case.statistics, case.moved, strict=True):
        assert error(moved, expected) <= 2e-6
    for ours, theirs in zip(gradients[:2], case.gradients[:2], strict=True):
        assert ours.dtype == dtype and ours.stride() == case.inputs[0].stride()
        assert error(ours, theirs) <= 2 * ROUNDING[dtype]
    for ours, theirs in zip(gradients[2:], case.gradients[2:], strict=True):
        assert ours.dtype == torch.float32
        assert error(ours, theirs) <= SUMS[dtype]


@pytest.mark.parametrize(("dtype", "shape"), CASES)
def test_training_is_the_definition(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    check(make_case(shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_evaluation_is_the_definition_and_moves_nothing(dtype: torch.dtype, provider: str) -> None:
    case = make_case((3, 72, 5, 7), dtype, training=False)
    kept = [vector.clone() for vector in case.statistics]
    check(case, provider)
    assert all(torch.equal(a, b) for a, b in zip(kept, case.statistics, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_gradients_of_both_uses_of_a_block_are_added(dtype: torch.dtype, provider: str) -> None:
    check(make_case((4, 64, 9, 9), dtype, directions=2), provider)


@pytest.mark.parametrize("shape", [(1, 64, 17, 21), (1, 72, 17, 21)])
def test_parts_of_many_tiles_are_merged_by_their_counts(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "count_multiprocessors", lambda device: 1)
    monkeypatch.setattr(launches, "APPLY_PROGRAMS_PER_MULTIPROCESSOR", 4)
    case = make_case(shape, torch.float32)
    launch, parts = launches.plan_reduction(None, case.inputs[0], 2048, {})
    tiles = 17 * 21 / launch.constants["block_rows"]
    assert 1 < parts < tiles and tiles % 1 != 0
    assert launches.plan_apply(None, case.inputs[0], {})[1] > 1
    check(case)


def test_a_use_without_gradient_counts_as_none() -> None:
    case = make_case((3, 72, 5, 7), torch.float32)
    leaves = [tensor.detach().requires_grad_() for tensor in (*case.inputs, *case.parameters)]
    _, second = call(case, "triton", leaves)
    gradients = torch.autograd.grad(second, leaves, case.directions)
    for ours, theirs in zip(gradients, case.gradients, strict=True):
        assert error(ours, theirs) <= 2e-6


def test_equal_inputs_give_equal_bits() -> None:
    cases = [make_case((4, 64, 9, 9), torch.bfloat16) for _ in range(2)]
    (y, gradients), (y_2, gradients_2) = (run(case) for case in cases)
    assert torch.equal(y, y_2)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_2, strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_normalisation_has_the_statistics_that_it_has_alone(dtype: torch.dtype) -> None:
    """Bit for bit: the batch's and the running ones do not know of the other input."""
    case = make_case((4, 64, 9, 9), dtype)
    alone = [vector.clone() for vector in case.statistics]
    for x, k in zip(case.inputs, (0, 2), strict=True):
        vectors = [*case.parameters[k : k + 2], *alone[k : k + 2]]
        resolve("batch_norm", "triton")(x, *vectors, True, MOMENTUM, EPS)
    run(case)
    assert all(torch.equal(a, b) for a, b in zip(case.statistics, alone, strict=True))


def make_arguments(shape: tuple[int, ...], device: str = "cpu") -> dict[str, Any]:
    names = [name + end for name in ("", "shortcut_") for end in ("weight", "bias")]
    names += ["running_mean", "running_var", "shortcut_mean", "shortcut_var"]
    vectors = {name: torch.ones(shape[1], device=device) for name in names}
    inputs = {name: channels_last(torch.randn(shape, device=device)) for name in ("x", "shortcut")}
    return {**inputs, **vectors, "training": True, "momentum": MOMENTUM, "eps": EPS}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": torch.randn(2, 8, 3, 3)}, "channels_last strides"),
        ({"shortcut": torch.randn(2, 8, 3, 3)}, "residual with channels"),
        ({"shortcut": torch.randn(2, 8, 3, 1)}, "residual alike"),
        ({"shortcut_var": torch.ones(9)}, "8 channels"),
        ({"shortcut_weight": torch.ones(8).bfloat16()}, "fp32 parameters"),
    ],
)
def test_other_layouts_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        resolve(OPERATION, "triton")(**(make_arguments((2, 8, 3, 3)) | changes))


@pytest.mark.parametrize(
    ("provider", "forward", "backward", "evaluation"),
    [("triton", 5, 4, 1), ("separate", 6, 6, 2)],
)
def test_launches_are_few(provider: str, forward: int, backward: int, evaluation: int) -> None:
    arguments = make_arguments((102, 256, 56, 56), "meta")
    for name in ("x", "shortcut"):
        arguments[name].requires_grad_()
    with record_launches() as records:
        y, _ = resolve(OPERATION, provider)(**arguments)
    assert len(records) == forward
    with record_launches() as records:
        y.backward(torch.empty_like(y))
    assert len(records) == backward
    with record_launches() as records, torch.no_grad():
        resolve(OPERATION, provider)(**(arguments | {"training": False}))
    assert len(records) == evaluation
