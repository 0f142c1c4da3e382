"""GELU and its gradient as FP8 operands, the kernels interpreted, against their definitions."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.ops import float8
from harness.ops.float8 import E4M3, E5M2, GREATEST_SLOPE, LARGEST, Float8
from tests.harness.ops.gradients import decode, measure_error

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from harness.ops.float8_gelu_triton import quantize_gelu, quantize_gelu_gradient

pytestmark = [
    pytest.mark.usefixtures("rounded_float8"),
    # exp(large) is infinity, and 1 / (1 + infinity) is what it should be.
    pytest.mark.filterwarnings("ignore:overflow encountered in exp"),
]
SHORT = [torch.bfloat16, torch.float16]
SHAPES = [(48, 80), (130, 70), (1, 5), (9, 272)]


def draw(shape: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(4)
    grad, x, bias = 1e-3 * torch.randn(shape), 2 * torch.randn(shape), torch.randn(shape[1])
    return grad.to(dtype), x.to(dtype), bias.to(dtype)


def assert_alike(ours: Float8, theirs: Float8) -> None:
    """The same but for numbers whose last bit of fp32 decides how they are rounded."""
    assert ours.columns is not None and theirs.columns is not None
    assert torch.equal(ours.rows.t().double(), ours.columns.double())
    assert abs(ours.inverse / theirs.inverse - 1) < 1e-6
    same = ours.rows.view(torch.uint8) == theirs.rows.view(torch.uint8)
    assert (~same).sum() <= 1 + 0.005 * same.numel()
    step = 1 / 8 if theirs.rows.dtype == E4M3 else 1 / 4
    apart = (ours.rows.double() - theirs.rows.double()).abs()
    assert (apart <= theirs.rows.double().abs() * step + 2.0**-9).all()


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_activation_is_that_of_the_definition(
    dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    _, x, bias = draw(shape, dtype)
    ours = quantize_gelu(x, bias, True)
    assert_alike(ours, float8.quantize_gelu(x, bias, True))
    exact = F.gelu(x.double() + bias.double(), approximate="tanh")
    assert measure_error(decode(ours), exact) < 0.04  # half of e4m3's last bit is 1/16 at most
    assert ours.rows.double().abs().max() == LARGEST[E4M3]
    alone = quantize_gelu(x, bias, False)
    assert alone.columns is None
    assert torch.equal(alone.rows.double(), ours.rows.double())


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_is_that_of_the_definition(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    grad, x, bias = draw(shape, dtype)
    (ours, sums), (theirs, expected) = (
        function(grad, x, bias)
        for function in (quantize_gelu_gradient, float8.quantize_gelu_gradient)
    )
    assert_alike(ours, theirs)
    z = (x.double() + bias.double()).requires_grad_()
    (exact,) = torch.autograd.grad(F.gelu(z, approximate="tanh"), z, grad.double())
    assert measure_error(decode(ours), exact) < 0.08  # half of e5m2's last bit is 1/8 at most
    # The bound of the slope costs less than half of the range.
    assert LARGEST[E5M2] / 2 < ours.rows.double().abs().max() <= LARGEST[E5M2] or shape == (1, 5)
    limit = 4e-3 if dtype == torch.bfloat16 else 1e-3
    assert measure_error(sums, exact.sum(0)) < limit and sums.dtype == expected.dtype == dtype


def test_no_slope_is_steeper_than_the_bound() -> None:
    z = torch.linspace(-12.0, 12.0, 240_001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(F.gelu(z, approximate="tanh").sum(), z)
    assert 0.9999 * GREATEST_SLOPE < slope.abs().max() < GREATEST_SLOPE


@pytest.mark.filterwarnings("ignore:(divide by zero|overflow|invalid value) encountered")
def test_of_nothing_and_of_what_is_no_number() -> None:
    grad, x, bias = draw((16, 16), torch.bfloat16)
    nothing = quantize_gelu(torch.zeros_like(x), torch.zeros_like(bias), True)
    assert nothing.inverse == 1 and not nothing.rows.double().any()
    cast, sums = quantize_gelu_gradient(torch.zeros_like(grad), x, bias)
    assert cast.inverse == 1 and not cast.rows.double().any() and not sums.any()
    grad[3, 5] = float("nan")
    cast, sums = quantize_gelu_gradient(grad, x, bias)
    assert cast.columns is not None
    assert cast.rows.double()[3, 5].isnan() and cast.columns.double()[5, 3].isnan()
    assert sums[5].isnan() and sums.isnan().sum() == 1
    x[2, 7] = float("nan")
    assert quantize_gelu(x, bias, True).rows.double()[2, 7].isnan()


def test_a_bias_where_there_is_no_row_decides_no_scale() -> None:
    x = torch.full((1, 16), -100.0).bfloat16()
    bias = torch.full((16,), 100.5).bfloat16()  # gelu(0.5) in the row, 100.5 behind it
    ours = quantize_gelu(x, bias, True)
    assert_alike(ours, float8.quantize_gelu(x, bias, True))


def test_programs_that_take_many_rows_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    grad, x, bias = draw((50, 24), torch.bfloat16)
    before: Any = quantize_gelu(x, bias, True), *quantize_gelu_gradient(grad, x, bias)
    for name in ("float8_gelu_triton", "float8_triton"):
        module = importlib.import_module(f"harness.ops.{name}")
        monkeypatch.setattr(module, "count_multiprocessors", lambda device: 0)  # one program
    after: Any = quantize_gelu(x, bias, True), *quantize_gelu_gradient(grad, x, bias)
    for one, other in zip(before[:2], after[:2], strict=True):
        assert torch.equal(one.rows.double(), other.rows.double())
    assert torch.equal(before[2], after[2])
