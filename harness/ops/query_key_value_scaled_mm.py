"""The three projections in front of attention as one FP8 product over three parameters."""

# torch.autograd.Function has no types that mypy could check.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from harness.ops.float8_history import Scaling
from harness.ops.float8_join_triton import quantize_joined
from harness.ops.linear_scaled_mm import choose_scalings, multiply_backward, multiply_forward
from harness.ops.query_key_value_fused import join_projections, split_projections


class _Float8Projection(Function):
    @staticmethod
    def forward(
        ctx: Any,
        differentiates: bool,
        scalings: tuple[Scaling, ...],
        x: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *biases: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias = join_projections((query, key, value), (biases[0], biases[1], biases[2]))
        product = multiply_forward(ctx, x, weight, bias, differentiates, scalings)
        return split_projections(product)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        first, second, third = gradients
        cast, grad_bias = quantize_joined((first, second, third), ctx.dtype, ctx.scaling)
        grad_x, grad_weight = multiply_backward(ctx, cast)
        return None, None, grad_x, *grad_weight.chunk(3), *grad_bias.chunk(3)


def query_key_value(
    x: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    biases: tuple[Tensor, Tensor, Tensor],
    delays: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """As harness.ops.query_key_value_triton with operands of FP8: one scale for the three weights.

    All of one 16-bit type; T and hidden multiples of 16. delays: as in
    harness.ops.linear_scaled_mm; the first weight has the history. Raises InputError otherwise, and
    where the parameters do not lie next to each other.
    """
    differentiates = torch.is_grad_enabled()
    scalings = choose_scalings(weights[0], delays, differentiates)
    query, key, value = _Float8Projection.apply(differentiates, scalings, x, *weights, *biases)
    return query, key, value


delayed = functools.partial(query_key_value, delays=True)
