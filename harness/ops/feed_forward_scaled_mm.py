"""The two fully connected layers in FP8, by torch._scaled_mm, with GELU inside the casts.

Between the products the activation and its gradient exist in FP8 alone: what is kept and read in 16
bit is the first product.
"""

# torch.autograd.Function has no types that mypy could check.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from harness.ops.float8 import E4M3, E5M2, check_sizes, multiply
from harness.ops.float8_gelu_triton import quantize_gelu, quantize_gelu_gradient
from harness.ops.float8_history import GRADIENT, INPUT, WEIGHT
from harness.ops.float8_triton import quantize
from harness.ops.linear_scaled_mm import choose_scalings


class _Float8FeedForward(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        inner_weight: Tensor,
        inner_bias: Tensor,
        outer_weight: Tensor,
        differentiates: bool,
        delays: bool,
    ) -> Tensor:
        first = choose_scalings(inner_weight, delays, differentiates)
        second = choose_scalings(outer_weight, delays, differentiates)
        left = quantize(x.contiguous(), E4M3, differentiates, first[INPUT])
        inner = quantize(inner_weight, E4M3, differentiates, first[WEIGHT])
        product = multiply(left.rows, left.inverse, inner.rows, inner.inverse, x.dtype, fast=True)
        active = quantize_gelu(product, inner_bias, differentiates, second[INPUT])
        outer = quantize(outer_weight, E4M3, differentiates, second[WEIGHT])
        ctx.scalings = first[GRADIENT], second[GRADIENT]
        turned = [tensor for cast in (left, inner, active, outer) for tensor in cast[1:]]
        ctx.save_for_backward(product, inner_bias, *turned)
        return multiply(active.rows, active.inverse, outer.rows, outer.inverse, x.dtype, fast=True)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        product, inner_bias, *turned = ctx.saved_tensors
        left, left_inverse, inner, inner_inverse = turned[:4]
        active, active_inverse, outer, outer_inverse = turned[4:]
        dtype = product.dtype
        cast = quantize(grad.contiguous(), E5M2, True, ctx.scalings[1])
        assert cast.columns is not None
        grad_outer = multiply(cast.columns, cast.inverse, active, active_inverse, dtype)
        grad_active = multiply(cast.rows, cast.inverse, outer, outer_inverse, dtype)
        cast, grad_bias = quantize_gelu_gradient(grad_active, product, inner_bias, ctx.scalings[0])
        assert cast.columns is not None
        grad_inner = multiply(cast.columns, cast.inverse, left, left_inverse, dtype)
        grad_x = multiply(cast.rows, cast.inverse, inner, inner_inverse, dtype)
        return grad_x, grad_inner, grad_bias, grad_outer, None, None


def feed_forward(
    x: Tensor,
    inner_weight: Tensor,
    inner_bias: Tensor,
    outer_weight: Tensor,
    delays: bool = False,
) -> Tensor:
    """As harness.ops.feed_forward with operands of FP8 and sums of more.

    All of one 16-bit type; T, hidden and inner multiples of 16. delays: as in
    harness.ops.linear_scaled_mm. Raises InputError for others.
    """
    check_sizes(x, inner_weight)
    check_sizes(x, outer_weight)
    result: Tensor = _Float8FeedForward.apply(
        x, inner_weight, inner_bias, outer_weight, torch.is_grad_enabled(), delays
    )
    return result


delayed = functools.partial(feed_forward, delays=True)
