"""The projections in front of attention as one product, their three gradients joined by Triton."""

# torch.autograd.Function has no types that mypy could check.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.autograd import Function

from harness.ops.joined_gradients_triton import join_gradients
from harness.ops.query_key_value_fused import (
    multiply_backward,
    multiply_forward,
    split_projections,
)


class _JoinedProjection(Function):
    """Three results, whose gradients arrive apart; putting them together sums the biases'."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, query: Tensor, key: Tensor, value: Tensor, *biases: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return split_projections(multiply_forward(ctx, x, (query, key, value), biases))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        first, second, third = gradients
        grad, grad_bias = join_gradients((first, second, third), first.dtype)
        grad_x, grad_weights = multiply_backward(ctx, grad)
        return grad_x, *grad_weights, *grad_bias.chunk(3)


def query_key_value(
    x: Tensor, weights: tuple[Tensor, Tensor, Tensor], biases: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """As harness.ops.query_key_value_fused, for an attention that gives three gradients.

    Those are PyTorch's own (`flash`) and Transformer Engine's (`te`). One kernel puts them side by
    side and sums the biases' gradients in a fixed order. Raises InputError as there.
    """
    query, key, value = _JoinedProjection.apply(x, *weights, *biases)
    return query, key, value
