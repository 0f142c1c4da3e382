"""Two batch normalisations, their sum and ReLU by our own kernels: two passes each way for both.

Five launches forward in training (statistics and merge of each, apply), one in evaluation, four
backward. What moves, in elements of x: forward reads 4 and writes 1, backward reads 6 and writes 3,
and reads 1 more to add gradients. By the operations of harness.ops.batch_norm_triton one after the
other it is 18 1/8 where this is 14.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.ops import batch_norm_launches as launches
from harness.ops import batch_norm_pair_kernels as kernels
from harness.ops.batch_norm_one_by_one import compose_pair
from harness.ops.batch_norm_triton import (
    batch_norm,
    batch_norm_add_relu,
    check,
    check_gradient,
    count_rows,
    find_statistics,
    invert,
)
from harness.ops.kernels import register_operation

# Three sums and four tiles in registers where the other reduction has two and three.
PAIR_REDUCTION_TILE_BYTES = 2048
Vectors = list[Tensor]


def _apply(x: Tensor, other: Tensor, vectors: Vectors, eps: float, is_variance: bool) -> Tensor:
    y = torch.empty_like(x)
    launch, tiles = launches.plan_apply(kernels.apply_pair_kernel, x, {"is_variance": is_variance})
    launch(x, other, y, *vectors, count_rows(x), x.shape[1], tiles, eps)
    return y


def _reduce(
    gradient: Tensor, gradient_2: Tensor | None, x: Tensor, other: Tensor, vectors: Vectors
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    constants = {"add": gradient_2 is not None}
    launch, parts = launches.plan_reduction(
        kernels.reduce_pair_kernel, x, PAIR_REDUCTION_TILE_BYTES, constants
    )
    sums = [torch.empty(parts, x.shape[1], dtype=torch.float32, device=x.device) for _ in range(3)]
    masked = torch.empty_like(x)
    # A pointer that the kernel does not follow may be any.
    second = gradient if gradient_2 is None else gradient_2
    launch(gradient, second, x, other, masked, *vectors, *sums, count_rows(x), x.shape[1])
    return sums[0], sums[1], sums[2], masked


def _input_gradient(
    gradient: Tensor, x: Tensor, other: Tensor, vectors: Vectors
) -> tuple[Tensor, Tensor]:
    made = torch.empty_like(x), torch.empty_like(x)
    launch, tiles = launches.plan_apply(kernels.input_gradient_pair_kernel, x, {})
    launch(gradient, x, other, *made, *vectors, count_rows(x), x.shape[1], tiles)
    return made


# vectors: of x, then of the other, (C,) fp32 each: mean, spread, weight, bias ...
apply = register_operation(
    "batch_norm_apply_pair(Tensor x, Tensor other, Tensor[] vectors, float eps, "
    "bool is_variance) -> Tensor",
    _apply,
)
reduce = register_operation(
    "batch_norm_reduce_pair(Tensor gradient, Tensor? gradient_2, Tensor x, Tensor other, "
    "Tensor[] vectors) -> (Tensor, Tensor, Tensor, Tensor)",
    _reduce,
)
# ... and here: mean, inverse, weight, slope, offset.
input_gradient = register_operation(
    "batch_norm_input_gradient_pair(Tensor gradient, Tensor x, Tensor other, Tensor[] vectors) -> "
    "(Tensor, Tensor)",
    _input_gradient,
)


class _BatchNormPair(torch.autograd.Function):
    """Both normalisations, sum and ReLU; the result twice, so that its gradients come apart."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        other: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        other_weight: Tensor,
        other_bias: Tensor,
        other_mean: Tensor,
        other_var: Tensor,
        training: bool,
        momentum: float,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        own = find_statistics(x, (mean, var), training, momentum, eps)
        others = find_statistics(other, (other_mean, other_var), training, momentum, eps)
        vectors = [*own, weight, bias, *others, other_weight, other_bias]
        y = apply(x, other, vectors, eps, not training)
        ctx.save_for_backward(x, other, *vectors)
        ctx.training, ctx.eps = training, eps
        ctx.set_materialize_grads(False)
        return y, y.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, other, mean, spread, weight, bias, *others = ctx.saved_tensors
        other_mean, other_spread, other_weight, other_bias = others
        given = [check_gradient(g, x) for g in gradients if g is not None]
        if not given:
            return (None,) * 13
        second = given[1] if len(given) == 2 else None
        inverse, other_inverse = invert(spread, ctx), invert(other_spread, ctx)
        vectors = [mean, inverse, weight, bias, other_mean, other_inverse, other_weight, other_bias]
        sums, products, other_products, masked = reduce(given[0], second, x, other, vectors)
        rows = count_rows(x)
        weight_gradient, bias_gradient, *line = launches.finalize_backward(
            sums, products, inverse, weight, rows, ctx.training
        )
        other_weight_gradient, other_bias_gradient, *other_line = launches.finalize_backward(
            sums, other_products, other_inverse, other_weight, rows, ctx.training
        )
        vectors = [mean, inverse, weight, *line, other_mean, other_inverse, other_weight]
        made = input_gradient(masked, x, other, [*vectors, *other_line])
        own = (weight_gradient, bias_gradient, None, None)
        of_other = (other_weight_gradient, other_bias_gradient, None, None)
        return (*made, *own, *of_other, None, None, None)


def batch_norm_batch_norm_add_relu(
    x: Tensor,
    shortcut: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    shortcut_weight: Tensor,
    shortcut_bias: Tensor,
    shortcut_mean: Tensor,
    shortcut_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """As harness.ops.batch_norm_batch_norm_add_relu, for channels_last strides.

    The two results are one tensor; a gradient of each is added in the first pass of backward.
    Raises InputError for other layouts.
    """
    own = [weight, bias, running_mean, running_var]
    others = [shortcut_weight, shortcut_bias, shortcut_mean, shortcut_var]
    check(x, shortcut, [*own, *others], training)
    y: tuple[Tensor, Tensor] = _BatchNormPair.apply(  # type: ignore[no-untyped-call]
        x, shortcut, *own, *others, training, momentum, eps
    )
    return y


# The same by the kernels of one normalisation.
batch_norm_then_batch_norm_add_relu = compose_pair(batch_norm, batch_norm_add_relu)
