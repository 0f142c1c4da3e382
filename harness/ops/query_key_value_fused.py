"""The three projections in front of attention as one matrix product over three parameters."""

# torch.autograd.Function has no types that mypy could check.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from harness.commands import InputError
from harness.ops.adjacency import join_adjacent


def join_projections(
    weights: tuple[Tensor, Tensor, Tensor], biases: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Three adjacent (hidden, hidden) weights and (hidden,) biases as (3 hidden, hidden) and one.

    Raises InputError where they do not lie next to each other: joining them by a copy at every
    step would be the slow path under a fast name.
    """
    weight, bias = join_adjacent(weights), join_adjacent(biases)
    if weight is None or bias is None:
        raise InputError(
            "operation query_key_value: the fused providers need the weights of query, key and "
            "value, and their biases, next to each other in memory, as flat parameters lay them; "
            "where they are apart, name the provider 'torch'"
        )
    return weight, bias


def multiply_forward(
    ctx: Any, x: Tensor, weights: tuple[Tensor, Tensor, Tensor], biases: tuple[Tensor, ...]
) -> Tensor:
    """x W^T + b over the joined parameters, (T, 3 hidden); keeps for backward what it needs.

    Raises InputError for types that differ, and as join_projections does.
    """
    weight, bias = join_projections(weights, (biases[0], biases[1], biases[2]))
    if x.dtype != weight.dtype:
        raise InputError(
            f"operation query_key_value: the fused providers multiply {x.dtype} activations by "
            f"weights of the same type, not {weight.dtype}; they take no autocast"
        )
    ctx.save_for_backward(x, weight)
    return torch.addmm(bias, x, weight.t())


def multiply_backward(
    ctx: Any, grad: Tensor
) -> tuple[Tensor | None, tuple[Tensor, Tensor, Tensor]]:
    """Gradients of x, where it wants one, and of the three weights, parts of one product."""
    x, weight = ctx.saved_tensors
    grad_x = grad.mm(weight) if ctx.needs_input_grad[0] else None
    query, key, value = grad.t().mm(x).chunk(3)
    return grad_x, (query, key, value)


def split_projections(projections: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(T, 3 hidden) -> three views (T, hidden)."""
    query, key, value = projections.unflatten(1, (3, -1)).unbind(1)
    return query, key, value


class _FusedProjection(Function):
    """One result, so that an attention that takes it as a whole gives one gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, query: Tensor, key: Tensor, value: Tensor, *biases: Tensor
    ) -> Tensor:
        return multiply_forward(ctx, x, (query, key, value), biases)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        grad_x, grad_weights = multiply_backward(ctx, grad)
        return grad_x, *grad_weights, *grad.sum(0).chunk(3)


def query_key_value(
    x: Tensor, weights: tuple[Tensor, Tensor, Tensor], biases: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """harness.ops.query_key_value by one matrix product forward and two backward.

    Arguments, shapes and types as there; x and weights are of one type. The three results are
    views of one (T, 3 hidden) tensor, so that attention can take it as a whole: for `flash_attn`,
    whose gradient then comes in one piece. Raises InputError where the parameters do not lie next
    to each other or the types differ.
    """
    return split_projections(_FusedProjection.apply(x, *weights, *biases))
