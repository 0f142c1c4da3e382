"""The kernels of normalisation, ReLU and pooling, interpreted, against the definition in fp64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from harness.commands import InputError
from harness.ops import batch_norm_launches as launches
from harness.ops import batch_norm_pool_triton as pool
from harness.ops.kernels import record_launches
from harness.ops.table import resolve
from tests.harness.ops.test_batch_norm_triton import (
    EPS,
    MOMENTUM,
    ROUNDING,
    SUMS,
    channels_last,
    error,
)

OPERATION = "batch_norm_relu_max_pool"
PROVIDERS = ["triton", "separate"]
DTYPES = list(ROUNDING)
# Odd and even sides, a single row, fewer and more channels than a tile has.
SHAPES = [(2, 72, 7, 9), (2, 64, 6, 5), (1, 8, 11, 12), (3, 16, 1, 3), (1, 256, 4, 4)]


def make_inputs(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, list[Tensor]]:
    """x with no two values of a channel alike, and weight, bias, running mean and variance."""
    torch.manual_seed(sum(shape))
    images, channels, height, width = shape
    count = images * height * width
    # Multiples of 1/16 up to 8 or so are numbers of every type, and so is the order among them.
    values = torch.stack([torch.randperm(count) for _ in range(channels)], 1) / 16 - count / 40
    x = values.view(images, height, width, channels).permute(0, 3, 1, 2)
    vectors = [torch.rand(channels) + 0.5, torch.randn(channels)]
    vectors[0][::3] *= -1  # the largest comes from the smallest
    vectors += [torch.randn(channels), torch.rand(channels) + 0.5]
    return channels_last(x.to(dtype)), vectors


def define(x: Tensor, vectors: list[Tensor], training: bool, dtype: torch.dtype) -> Tensor:
    """In fp64; which value of a window is the largest is asked of values rounded as they are."""
    weight, bias, mean, var = vectors
    y = F.relu(F.batch_norm(x, mean, var, weight, bias, training, MOMENTUM, EPS))
    rounded = y.detach().to(dtype).double()
    _, places = F.max_pool2d(rounded, 3, 2, 1, return_indices=True)
    return y.flatten(2).gather(2, places.flatten(2)).view(places.shape)


def run(
    x: Tensor, vectors: list[Tensor], training: bool, provider: str, direction: Tensor
) -> tuple[Tensor, list[Tensor]]:
    leaves = [tensor.detach().requires_grad_() for tensor in (x, *vectors[:2])]
    y = resolve(OPERATION, provider)(*leaves, *vectors[2:], training, MOMENTUM, EPS)
    return y, list(torch.autograd.grad(y, leaves, direction))


def check(shape: tuple[int, ...], dtype: torch.dtype, training: bool, provider: str) -> None:
    x, vectors = make_inputs(shape, dtype)
    leaves = [tensor.double().requires_grad_() for tensor in (x, *vectors[:2])]
    moved = [vector.double() for vector in vectors[2:]]
    expected = define(leaves[0], [*leaves[1:], *moved], training, dtype)
    # Where the ReLU bends, a rounding decides: nothing is asked there.
    direction = torch.randn(expected.shape) * (expected.detach() > 0.05)
    direction = channels_last(direction.to(dtype))
    gradients = torch.autograd.grad(expected, leaves, direction.double())
    y, found = run(x, vectors, training, provider, direction)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    assert error(y, expected.detach()) <= ROUNDING[dtype]
    for ours, theirs in zip(vectors[2:], moved, strict=True):
        assert error(ours, theirs) <= 2e-6
    assert found[0].dtype == dtype and found[0].stride() == x.stride()
    # torch's pooling adds up a pixel's gradients in their type before they are used.
    roundings = 2 if provider == "triton" else 4
    assert error(found[0], gradients[0]) <= roundings * ROUNDING[dtype]
    for ours, theirs in zip(found[1:], gradients[1:], strict=True):
        assert ours.dtype == torch.float32 and error(ours, theirs) <= SUMS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_training_is_the_definition(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    check(shape, dtype, True, "triton")


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_after_the_other_is_the_definition(dtype: torch.dtype) -> None:
    check(SHAPES[0], dtype, True, "separate")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_evaluation_is_the_definition_and_moves_nothing(dtype: torch.dtype, provider: str) -> None:
    check(SHAPES[0], dtype, False, provider)
    x, vectors = make_inputs(SHAPES[0], dtype)
    kept = [vector.clone() for vector in vectors]
    with torch.no_grad():
        resolve(OPERATION, provider)(x, *vectors, False, MOMENTUM, EPS)
    assert all(torch.equal(a, b) for a, b in zip(kept, vectors, strict=True))


@pytest.mark.parametrize("shape", [(2, 64, 17, 11), (1, 72, 16, 21)])
def test_parts_of_many_tiles_are_merged_by_their_counts(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "count_multiprocessors", lambda device: 1)
    monkeypatch.setattr(launches, "APPLY_PROGRAMS_PER_MULTIPROCESSOR", 2)
    x, _ = make_inputs(shape, torch.float32)
    parts = launches.plan_reduction(None, x, pool.POOL_TILE_BYTES, {})[1]
    assert parts > 1
    assert launches.plan_apply(None, x, {}, pool.POOL_TILE_BYTES)[1] > 1
    check(shape, torch.float32, True, "triton")


def test_the_first_of_equal_values_is_taken_and_none_of_zeros() -> None:
    """As torch's pooling has it; a window of zeros hands no gradient on, as the ReLU would not."""
    x = channels_last(torch.ones(1, 8, 4, 4))
    mean, spread, weight = torch.zeros(8), torch.ones(8), torch.ones(8)
    bias = torch.tensor([0.0, -1.0, -2.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    y, taken = pool.apply(x, mean, spread, weight, bias, EPS, False, True)
    assert torch.equal(y[0, :4, 0, 0], torch.tensor([1.0, 0.0, 0.0, 2.0]))
    assert taken[0, 0].tolist() == [[4, 3], [1, 0]]
    assert taken[0, 1].tolist() == taken[0, 2].tolist() == [[9, 9], [9, 9]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_statistics_are_those_of_normalisation_alone(dtype: torch.dtype) -> None:
    x, vectors = make_inputs(SHAPES[0], dtype)
    alone = [vector.clone() for vector in vectors]
    resolve("batch_norm_relu", "triton")(x, *alone, True, MOMENTUM, EPS)
    resolve(OPERATION, "triton")(x, *vectors, True, MOMENTUM, EPS)
    assert all(torch.equal(a, b) for a, b in zip(vectors, alone, strict=True))


def test_equal_inputs_give_equal_bits() -> None:
    found = []
    for _ in range(2):
        x, vectors = make_inputs((2, 64, 9, 9), torch.bfloat16)
        direction = channels_last(torch.randn(2, 64, 5, 5).bfloat16())
        y, gradients = run(x, vectors, True, "triton", direction)
        found.append([y.detach(), *gradients])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x": torch.randn(2, 8, 3, 3)}, "channels_last strides"),
        ({"bias": torch.ones(9)}, "8 channels"),
    ],
)
def test_other_layouts_are_refused(changes: dict[str, Any], words: str) -> None:
    names = ("weight", "bias", "running_mean", "running_var")
    arguments: dict[str, Any] = {name: torch.ones(8) for name in names}
    arguments |= {"x": channels_last(torch.randn(2, 8, 3, 3)), "training": True}
    with pytest.raises(InputError, match=words):
        resolve(OPERATION, "triton")(**(arguments | changes), momentum=MOMENTUM, eps=EPS)


def test_launches_are_few() -> None:
    x = channels_last(torch.empty(102, 64, 112, 112, device="meta")).requires_grad_()
    vectors = [torch.ones(64, device="meta") for _ in range(4)]
    for training, forward in ((True, 3), (False, 1)):
        with record_launches() as records, torch.set_grad_enabled(training):
            y = resolve(OPERATION, "triton")(x, *vectors, training, MOMENTUM, EPS)
        assert len(records) == forward and y.shape == (102, 64, 56, 56)
        if training:
            with record_launches() as records:
                y.backward(torch.empty_like(y))
            assert len(records) == 3
