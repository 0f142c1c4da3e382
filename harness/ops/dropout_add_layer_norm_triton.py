"""Bias, dropout, residual addition and layer normalisation in one kernel each way.

Forward reads x and the residual and writes the result; backward reads both again with the
result's two gradients, writes two, and sums the bias's on the way: 6 and 12 bytes an element in 16
bit. Keeping the sum of x and residual would move as many and round it; adding the two gradients
apart would move 4 more, summing the bias's apart 2. The dropout mask is drawn again in place of
being stored, which costs no bytes.
"""

# Triton's language has no types that mypy could check, and no unpacking of tuples.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
# ruff: noqa: RUF005

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

from harness.commands import InputError
from harness.ops.column_sums_triton import sum_columns
from harness.ops.dropout_triton import draw_rows, draw_seed, find_threshold
from harness.ops.kernels import count_multiprocessors, named_kernel, register_operation
from harness.ops.layer_norm_rows_triton import (
    PROGRAMS_PER_MULTIPROCESSOR,
    check_rows,
    differentiate_rows,
    load_gradient,
    load_vector,
    measure_rows,
    plan_rows,
    store_sums,
    take_gradients,
)


@triton.jit
def load_sum(
    x, x_bias, residual, draws, place, inside, column, keep_scale, quarter, threshold, adds
):
    """The four quarters of dropout(x + x_bias) + residual in fp32, each (tile, block).

    Without the residual there is neither bias nor dropout.
    """
    result = ()
    for j in tl.static_range(4):
        z = tl.load(x + place + j * quarter, inside, other=0.0).to(tl.float32)
        if adds:
            # Nothing where there is no row: it stays 0.
            z += tl.where(inside, load_vector(x_bias, column, inside, j, quarter), 0.0)
        if threshold > 0:
            z = tl.where(draws[j] >= threshold, z * keep_scale, 0.0)
        if adds:
            z += tl.load(residual + place + j * quarter, inside, other=0.0).to(tl.float32)
        result = result + (z,)
    return result


@named_kernel
def forward_kernel(
    x,
    x_bias,
    residual,
    gain,
    bias,
    seed,
    y,
    means,
    scales,
    rows,
    keep_scale,
    eps,
    hidden: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    threshold: tl.constexpr,
    adds: tl.constexpr,
):
    """`tile` rows a program: y, and for backward each row's mean and 1 / standard deviation."""
    quarter: tl.constexpr = hidden // 4
    row = tl.program_id(0) * tile + tl.arange(0, tile)
    column = tl.arange(0, block)
    inside = (row < rows)[:, None] & (column < quarter)[None, :]
    place = row.to(tl.int64)[:, None] * hidden + column[None, :]
    draws = ()
    if threshold > 0:
        draws = draw_rows(seed, row, quarter, block)
    z = load_sum(
        x, x_bias, residual, draws, place, inside, column, keep_scale, quarter, threshold, adds
    )
    mean, scale = measure_rows(z, inside, eps, hidden)
    for j in tl.static_range(4):
        result = (z[j] - mean[:, None]) * scale[:, None]
        result = result * load_vector(gain, column, inside, j, quarter)
        result += load_vector(bias, column, inside, j, quarter)
        tl.store(y + place + j * quarter, result.to(y.dtype.element_ty), inside)
    tl.store(means + row, mean, row < rows)
    tl.store(scales + row, scale, row < rows)


@named_kernel
def backward_kernel(
    grad,
    other,
    x,
    x_bias,
    residual,
    gain,
    seed,
    means,
    scales,
    grad_x,
    grad_residual,
    partials,
    rows,
    keep_scale,
    hidden: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    programs: tl.constexpr,
    threshold: tl.constexpr,
    adds: tl.constexpr,
    twice: tl.constexpr,
):
    """Gradients of x and residual, and this program's sums for those of gain and bias."""
    quarter: tl.constexpr = hidden // 4
    program = tl.program_id(0)
    column = tl.arange(0, block)
    grad_gain = (tl.zeros((tile, block), tl.float32),) * 4
    grad_bias = (tl.zeros((tile, block), tl.float32),) * 4
    grad_x_bias = (tl.zeros((tile, block), tl.float32),) * 4
    for start in range(program * tile, rows, programs * tile):
        row = start + tl.arange(0, tile)
        inside = (row < rows)[:, None] & (column < quarter)[None, :]
        place = row.to(tl.int64)[:, None] * hidden + column[None, :]
        draws = ()
        if threshold > 0:
            draws = draw_rows(seed, row, quarter, block)
        z = load_sum(
            x, x_bias, residual, draws, place, inside, column, keep_scale, quarter, threshold, adds
        )
        dy = ()
        for j in tl.static_range(4):
            dy = dy + (load_gradient(grad, other, place, inside, j, quarter, twice),)
        mean = tl.load(means + row, row < rows, other=0.0)
        scale = tl.load(scales + row, row < rows, other=0.0)
        dz, grad_gain, grad_bias = differentiate_rows(
            z, dy, gain, mean, scale, grad_gain, grad_bias, column, inside, quarter, hidden
        )
        sums = ()
        for j in tl.static_range(4):
            here = place + j * quarter
            if adds:
                tl.store(grad_residual + here, dz[j].to(grad_residual.dtype.element_ty), inside)
            dx = dz[j]
            if threshold > 0:
                dx = tl.where(draws[j] >= threshold, dx * keep_scale, 0.0)
            tl.store(grad_x + here, dx.to(grad_x.dtype.element_ty), inside)
            if adds:
                # Where there is no row its scale is 0, and so is dx.
                sums = sums + (grad_x_bias[j] + dx,)
        if adds:
            grad_x_bias = sums
    store_sums(partials, 0, grad_gain, program, column, programs, quarter, hidden)
    store_sums(partials, 1, grad_bias, program, column, programs, quarter, hidden)
    if adds:
        store_sums(partials, 2, grad_x_bias, program, column, programs, quarter, hidden)


def _forward(
    x: Tensor,
    x_bias: Tensor | None,
    residual: Tensor | None,
    gain: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    dropout: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, hidden = x.shape
    threshold = 0 if seed is None else find_threshold(dropout)
    constants = {"threshold": threshold, "adds": residual is not None}
    launch = plan_rows(forward_kernel, rows, hidden, x.element_size(), None, **constants)
    y = torch.empty_like(x)
    means = torch.empty(rows, dtype=torch.float32, device=x.device)
    scales = torch.empty_like(means)
    # What is not there is never read: another tensor stands for its address.
    others = (
        x if x_bias is None else x_bias,
        x if residual is None else residual,
        gain,
        bias,
        means if seed is None else seed,
    )
    if rows:
        launch(x, *others, y, means, scales, rows, 1.0 / (1.0 - dropout), eps)
    return y, means, scales


def _backward(
    grad: Tensor,
    other: Tensor | None,
    x: Tensor,
    x_bias: Tensor | None,
    residual: Tensor | None,
    gain: Tensor,
    seed: Tensor | None,
    means: Tensor,
    scales: Tensor,
    dropout: float,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, hidden = x.shape
    threshold = 0 if seed is None else find_threshold(dropout)
    programs = PROGRAMS_PER_MULTIPROCESSOR * count_multiprocessors(x.device)
    constants = {
        "threshold": threshold,
        "adds": residual is not None,
        "twice": other is not None,
    }
    launch = plan_rows(backward_kernel, rows, hidden, x.element_size(), programs, **constants)
    grad_x = torch.empty_like(x)
    grad_residual = torch.empty_like(x) if residual is not None else x.new_empty(0)
    vectors = 2 if residual is None else 3
    partials = torch.empty(vectors, launch.grid[0], hidden, dtype=torch.float32, device=x.device)
    launch(
        grad,
        grad if other is None else other,
        x,
        x if x_bias is None else x_bias,
        x if residual is None else residual,
        gain,
        means if seed is None else seed,
        means,
        scales,
        grad_x,
        grad_x if residual is None else grad_residual,
        partials,
        rows,
        1.0 / (1.0 - dropout),
    )
    return grad_x, grad_residual, partials


_launch_forward = register_operation(
    "layer_norm_forward(Tensor x, Tensor? x_bias, Tensor? residual, Tensor gain, Tensor bias, "
    "Tensor? seed, float dropout, float eps) -> (Tensor, Tensor, Tensor)",
    _forward,
)
_launch_backward = register_operation(
    "layer_norm_backward(Tensor grad, Tensor? other, Tensor x, Tensor? x_bias, Tensor? residual, "
    "Tensor gain, Tensor? seed, Tensor means, Tensor scales, float dropout) -> "
    "(Tensor, Tensor, Tensor)",
    _backward,
)


class _LayerNorm(Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        x_bias: Tensor | None,
        residual: Tensor | None,
        gain: Tensor,
        bias: Tensor,
        dropout: float,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        seed = draw_seed(x.device) if dropout > 0 else None
        y, means, scales = _launch_forward(x, x_bias, residual, gain, bias, seed, dropout, eps)
        ctx.save_for_backward(x, x_bias, residual, gain, seed, means, scales)
        ctx.dropout, ctx.bias_type = dropout, bias.dtype
        ctx.set_materialize_grads(False)
        return y, y.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        x, x_bias, residual, gain, seed, means, scales = ctx.saved_tensors
        grad, other = take_gradients(gradients)
        if grad is None:
            return (None,) * 7
        grad_x, grad_residual, partials = _launch_backward(
            grad, other, x, x_bias, residual, gain, seed, means, scales, ctx.dropout
        )
        grad_gain, grad_bias, *rest = sum_columns(partials, torch.float32)
        return (
            grad_x,
            rest[0].to(x_bias.dtype) if rest else None,
            grad_residual if rest else None,
            grad_gain.to(gain.dtype),
            grad_bias.to(ctx.bias_type),
            None,
            None,
        )


def normalize(
    operation: str,
    x: Tensor,
    beside: tuple[Tensor, Tensor] | None,
    weight: Tensor,
    bias: Tensor,
    dropout: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """layer_norm(dropout(x + x_bias) + residual), twice, or layer_norm(x) where beside is None.

    x: (T, hidden), contiguous, hidden a multiple of 4 and at most 4,096; beside: x_bias (hidden,)
    and a residual like x; weight, bias: (hidden,). Raises InputError, naming the operation, for
    other tensors.
    """
    check_rows(operation, x)
    x_bias, residual = beside if beside is not None else (None, None)
    if residual is not None and x_bias is not None:
        if residual.shape != x.shape or residual.dtype != x.dtype:
            raise InputError(
                f"{operation} by triton takes a residual like x, not {residual.dtype} "
                f"{tuple(residual.shape)} beside {x.dtype} {tuple(x.shape)}"
            )
        if x_bias.shape != x.shape[1:]:
            raise InputError(
                f"{operation} by triton takes a bias for each column of x, not "
                f"{tuple(x_bias.shape)} beside {tuple(x.shape)}"
            )
        residual = residual.contiguous()
    result: tuple[Tensor, Tensor] = _LayerNorm.apply(
        x, x_bias, residual, weight, bias, dropout, eps
    )
    return result


def dropout_add_layer_norm(
    x: Tensor,
    x_bias: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    dropout: float,
    eps: float,
    training: bool,
) -> tuple[Tensor, Tensor]:
    """As harness.ops.dropout_add_layer_norm, the sums before the normalisation unrounded.

    hidden has to be a multiple of 4 and at most 4,096; gain and bias may be fp32 beside 16-bit x.
    Gradients of the three vectors are sums in a fixed order. Raises InputError for other tensors.
    """
    dropped = dropout if training else 0.0
    beside = (x_bias, residual)
    return normalize("dropout_add_layer_norm", x, beside, weight, bias, dropped, eps)
