"""FP8: the casts against their definition, and products with operands of FP8, all interpreted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.commands import InputError
from harness.ops.float8 import E4M3, E5M2, LARGEST, Float8, quantize
from harness.ops.table import resolve
from tests.harness.ops.gradients import compare, decode, measure_error

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from harness.ops import float8, float8_triton

pytestmark = pytest.mark.usefixtures("rounded_float8")

SHORT = [torch.bfloat16, torch.float16]


def equal(ours: Float8, theirs: Float8) -> bool:
    assert ours.columns is not None and theirs.columns is not None
    pairs = ((ours.rows, theirs.rows), (ours.columns, theirs.columns))
    same = all(torch.equal(one.view(torch.uint8), other.view(torch.uint8)) for one, other in pairs)
    # 1 / scale may differ in its last bit: torch takes the reciprocal, a kernel divides.
    return same and bool((ours.inverse / theirs.inverse - 1).abs() < 2e-7)


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("target", [E4M3, E5M2])
@pytest.mark.parametrize("shape", [(48, 80), (130, 70), (1, 5)])
def test_casts_are_the_definition_bit_for_bit(
    dtype: torch.dtype, target: torch.dtype, shape: tuple[int, int]
) -> None:
    torch.manual_seed(1)
    x = (0.01 * torch.randn(shape)).to(dtype)
    ours = float8_triton.quantize(x, target, True)
    assert equal(ours, quantize(x, target, True))
    assert torch.equal(ours.rows.t().double(), ours.columns.double())  # type: ignore[union-attr]
    # A number has 4 or 3 significant bits, so half of the last is 1/16 or 1/8 of it at most.
    step = 1 / 16 if target == E4M3 else 1 / 8
    normal = x.double().abs() > x.double().abs().max() / 2**14
    error = ((decode(ours) - x.double()).abs() / x.double().abs())[normal]
    assert error.max() <= step * 1.001
    assert ours.rows.double().abs().max() == LARGEST[target]


def test_casts_without_the_transpose() -> None:
    x = torch.randn(40, 33).bfloat16()
    for function in (quantize, float8_triton.quantize):
        assert function(x, E4M3, False).columns is None
    ours = float8_triton.quantize(x, E4M3, False)
    assert torch.equal(ours.rows.double(), quantize(x, E4M3, False).rows.double())


@pytest.mark.filterwarnings("ignore:(divide by zero|overflow|invalid value) encountered")
@pytest.mark.parametrize("function", [quantize, float8_triton.quantize])
def test_casts_of_nothing_and_of_what_is_no_number(function: Any) -> None:
    zeros = function(torch.zeros(16, 16, dtype=torch.bfloat16), E5M2, True)
    assert zeros.inverse == 1 and not zeros.rows.double().any()
    least = torch.full((16, 16), 1e-40).bfloat16()
    assert decode(function(least, E5M2, True)).isfinite().all()
    for wrong in (float("nan"), float("inf")):
        x = torch.ones(16, 16).bfloat16()
        x[3, 5] = wrong
        cast = function(x, E5M2, True)
        assert cast.rows.double()[3, 5].isnan() and cast.columns.double()[5, 3].isnan()


def test_casts_refuse_other_layouts() -> None:
    for wrong in (torch.ones(4, 6).bfloat16().T, torch.ones(3).bfloat16(), torch.ones(0, 4)):
        with pytest.raises(InputError, match="contiguous matrix"):
            float8_triton.quantize(wrong, E4M3, True)


def make_inputs(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(2)
    shapes = ((48, 64), (32, 64), (32,))
    return [torch.randn(shape).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", SHORT)
def test_linear_is_its_three_products_of_rounded_operands(dtype: torch.dtype) -> None:
    x, weight, bias = (tensor.requires_grad_() for tensor in make_inputs(dtype))
    grad = torch.randn(48, 32).to(dtype)
    y = resolve("linear", "scaled_mm")(x, weight, bias)
    to_x, to_weight, to_bias = torch.autograd.grad(y, (x, weight, bias), grad)
    x8, weight8 = (decode(quantize(t.detach(), E4M3, False)) for t in (x, weight))
    grad8 = decode(quantize(grad, E5M2, False))
    limit = 4e-3 if dtype == torch.bfloat16 else 5e-4  # one rounding of the result
    assert measure_error(y, x8 @ weight8.T + bias.double()) < limit
    assert measure_error(to_x, grad8 @ weight8) < limit
    assert measure_error(to_weight, grad8.T @ x8) < limit
    assert measure_error(to_bias, grad.double().sum(0)) < limit
    assert (y.dtype, to_x.dtype, to_weight.dtype, to_bias.dtype) == (dtype,) * 4


@pytest.mark.parametrize("dtype", SHORT)
def test_linear_in_fp8_is_the_definition_but_for_its_rounding(dtype: torch.dtype) -> None:
    inputs = make_inputs(dtype)
    # Two e4m3 operands: 2.7 % each of a random product; e5m2 gradients: 5.3 %.
    compare(resolve("linear", "scaled_mm"), F.linear, inputs, 0.08)
    operation = resolve("linear", "scaled_mm")
    compare(lambda x, weight: operation(x, weight, None), F.linear, inputs[:2], 0.08)


def test_projections_in_fp8_are_those_of_one_joined_weight() -> None:
    torch.manual_seed(3)
    store, bias_store = torch.randn(96, 32).bfloat16(), torch.randn(96).bfloat16()
    weights = tuple(part.requires_grad_() for part in store.detach().chunk(3))
    biases = tuple(part.requires_grad_() for part in bias_store.detach().chunk(3))
    x = torch.randn(48, 32).bfloat16().requires_grad_()
    results = resolve("query_key_value", "scaled_mm")(x, weights, biases)
    joined = [store.clone().requires_grad_(), bias_store.clone().requires_grad_()]
    expected = resolve("linear", "scaled_mm")(x, *joined)
    assert torch.equal(torch.cat(results, 1), expected)
    grad = torch.randn(48, 96).bfloat16()
    ours = torch.autograd.grad(results, (x, *weights, *biases), grad.chunk(3, 1))
    theirs = torch.autograd.grad(expected, (x, *joined), grad)
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(torch.cat(ours[1:4]), theirs[1])
    assert torch.equal(torch.cat(ours[4:]), theirs[2])


def test_evaluation_keeps_no_transposes() -> None:
    x, weight, bias = make_inputs(torch.bfloat16)
    sizes: list[bool] = []
    linear = resolve("linear", "scaled_mm")
    module = pytest.importorskip("harness.ops.linear_scaled_mm")
    real = module.quantize

    def watch(tensor: Tensor, dtype: torch.dtype, transposes: bool, scaling: Any) -> Float8:
        sizes.append(transposes)
        cast: Float8 = real(tensor, dtype, transposes, scaling)
        return cast

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(module, "quantize", watch)
        linear(x, weight, bias)
        linear(x, weight.requires_grad_(), bias)
    assert sizes == [False] * 4


def test_sizes_and_types_that_fp8_cannot_take_are_refused() -> None:
    linear = resolve("linear", "scaled_mm")
    x, weight, bias = make_inputs(torch.bfloat16)
    with pytest.raises(InputError, match=r"multiples of 16, not x \(47, 64\)"):
        linear(x[:47], weight, bias)
    with pytest.raises(InputError, match="one 16-bit type, not"):
        linear(x.float(), weight.float(), bias)
    with pytest.raises(InputError, match=r"torch.bfloat16 and torch.float16"):
        linear(x, weight.half(), bias)


def test_a_gpu_without_fp8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float8, "find_capability", lambda index: ((8, 0), (8, 9), (9, 0))[index])
    with pytest.raises(InputError, match=r"compute capability 8\.9 or more, not 8\.0"):
        float8.check_device(torch.device("cuda", 0))
    for index in (1, 2):
        float8.check_device(torch.device("cuda", index))
