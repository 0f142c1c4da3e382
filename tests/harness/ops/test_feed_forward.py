"""The two fully connected layers of every provider against the definition."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.commands import InputError
from harness.ops.float8 import E4M3, E5M2, quantize, quantize_gelu, quantize_gelu_gradient
from harness.ops.table import resolve
from tests.harness.ops.gradients import LIMITS, compare, decode, measure_error

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

pytestmark = [
    pytest.mark.usefixtures("rounded_float8"),
    pytest.mark.filterwarnings("ignore:overflow encountered in exp"),
]
SHORT = [torch.bfloat16, torch.float16]


def define(x: Tensor, inner_weight: Tensor, inner_bias: Tensor, outer_weight: Tensor) -> Tensor:
    active = F.gelu(x @ inner_weight.T + inner_bias, approximate="tanh")
    return active @ outer_weight.T


def draw(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(8)
    x, bias = torch.randn(48, 64), torch.randn(96)
    matrices = (torch.randn(96, 64) / 8, torch.randn(64, 96) / 10)
    return [tensor.to(dtype) for tensor in (x, matrices[0], bias, matrices[1])]


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("provider", ["torch", "triton"])
def test_result_and_gradients_are_the_definition(provider: str, dtype: torch.dtype) -> None:
    # Three roundings to the type in a row, and one in the definition of GELU more.
    compare(resolve("feed_forward", provider), define, draw(dtype), 3 * LIMITS[dtype])


@pytest.mark.parametrize("dtype", SHORT)
def test_in_fp8_it_is_the_definition_but_for_the_rounding_of_operands(dtype: torch.dtype) -> None:
    compare(resolve("feed_forward", "scaled_mm"), define, draw(dtype), 0.12)


@pytest.mark.parametrize("dtype", SHORT)
def test_in_fp8_it_is_its_products_of_rounded_operands(dtype: torch.dtype) -> None:
    inputs = [tensor.requires_grad_() for tensor in draw(dtype)]
    x, inner, bias, outer = (tensor.detach() for tensor in inputs)
    y = resolve("feed_forward", "scaled_mm")(*inputs)
    grad = torch.randn(48, 64).to(dtype)
    ours = torch.autograd.grad(y, inputs, grad)
    x8, inner8, outer8 = (decode(quantize(tensor, E4M3, False)) for tensor in (x, inner, outer))
    product = (x8 @ inner8.T).to(dtype)
    active8 = decode(quantize_gelu(product, bias, False))
    grad8 = decode(quantize(grad, E5M2, False))
    cast, grad_bias = quantize_gelu_gradient((grad8 @ outer8).to(dtype), product, bias)
    middle8 = decode(cast)
    expected = (active8 @ outer8.T, middle8 @ inner8, middle8.T @ x8, grad_bias, grad8.T @ active8)
    # A number of the product that is rounded the other way may be cast the other way.
    limit = 0.02 if dtype == torch.bfloat16 else 4e-3
    found = (y, *ours)
    for one, other in zip(found, expected, strict=True):
        assert measure_error(one, other) < limit
        assert one.dtype == dtype


def test_in_fp8_what_is_kept_in_16_bit_is_the_first_product_alone() -> None:
    inputs = [tensor.requires_grad_() for tensor in draw(torch.bfloat16)]
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    operation = resolve("feed_forward", "scaled_mm")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        operation(*inputs)
    wide = [tensor.shape for tensor in kept if tensor.dtype == torch.bfloat16]
    assert wide == [(48, 96), (96,)]
    # Transposed operands of backward: of x, both weights and the activation.
    short = sorted(tuple(tensor.shape) for tensor in kept if tensor.dtype == E4M3)
    assert short == [(64, 48), (64, 96), (96, 48), (96, 64)]
    with torch.no_grad():
        assert torch.equal(operation(*inputs), operation(*inputs))


def test_sizes_that_fp8_cannot_take_are_refused() -> None:
    x, inner, bias, outer = draw(torch.bfloat16)
    operation = resolve("feed_forward", "scaled_mm")
    with pytest.raises(InputError, match=r"multiples of 16, not x \(47, 64\)"):
        operation(x[:47], inner, bias, outer)
    with pytest.raises(InputError, match="one 16-bit type"):
        operation(x, inner, bias, outer.half())
