"""A fully connected layer with its three matrix products in FP8, by torch._scaled_mm.

The operands follow the 16-bit activations and weights: weights are cast anew each time, so that
nothing but the model's own parameters is updated, saved or restored, and where `delays` the
magnitudes of harness.ops.float8_history.
"""

# torch.autograd.Function has no types that mypy could check.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from harness.ops.float8 import E4M3, E5M2, Float8, check_sizes, multiply
from harness.ops.float8_history import (
    GRADIENT,
    INPUT,
    MEASURED,
    ROLES,
    WEIGHT,
    Scaling,
    find_scaling,
)
from harness.ops.float8_triton import quantize


def choose_scalings(weight: Tensor, delays: bool, records: bool) -> tuple[Scaling, ...]:
    """Of the input, the weight and the result's gradient of one product, in this order."""
    if not delays:
        return (MEASURED,) * ROLES
    return tuple(find_scaling(weight, role, records) for role in (INPUT, WEIGHT, GRADIENT))


def multiply_forward(
    ctx: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    differentiates: bool,
    scalings: tuple[Scaling, ...],
) -> Tensor:
    """x W^T + b in e4m3 -> the type of x; keeps for backward what it needs, 8 bits an element.

    differentiates: whether a backward pass may follow. An autograd function cannot tell: inside it
    gradients are off, and parameters ask for theirs even where evaluation has turned them off.
    """
    check_sizes(x, weight)
    left = quantize(x.contiguous(), E4M3, differentiates, scalings[INPUT])
    right = quantize(weight, E4M3, differentiates, scalings[WEIGHT])
    ctx.dtype, ctx.scaling = x.dtype, scalings[GRADIENT]
    ctx.save_for_backward(left.columns, left.inverse, right.columns, right.inverse)
    return multiply(left.rows, left.inverse, right.rows, right.inverse, x.dtype, bias, fast=True)


def multiply_backward(ctx: Any, cast: Float8) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight, from that of the result and what forward kept."""
    x, x_inverse, weight, weight_inverse = ctx.saved_tensors
    assert cast.columns is not None
    grad_x = multiply(cast.rows, cast.inverse, weight, weight_inverse, ctx.dtype)
    grad_weight = multiply(cast.columns, cast.inverse, x, x_inverse, ctx.dtype)
    return grad_x, grad_weight


class _Float8Linear(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        differentiates: bool,
        scalings: tuple[Scaling, ...],
    ) -> Tensor:
        return multiply_forward(ctx, x, weight, bias, differentiates, scalings)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad_bias = grad.sum(0) if ctx.needs_input_grad[2] else None
        cast = quantize(grad.contiguous(), E5M2, True, ctx.scaling)
        return *multiply_backward(ctx, cast), grad_bias, None, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, delays: bool = False) -> Tensor:
    """As harness.ops.linear with operands of FP8 and sums of more.

    x, weight and bias of one 16-bit type; rows, in and out multiples of 16. delays: whether casts
    may be scaled by the step before (harness.ops.float8_history). Raises InputError for others.
    """
    differentiates = torch.is_grad_enabled()
    scalings = choose_scalings(weight, delays, differentiates)
    result: Tensor = _Float8Linear.apply(x, weight, bias, differentiates, scalings)
    return result


delayed = functools.partial(linear, delays=True)
