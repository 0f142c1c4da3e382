"""The sum of three embeddings, normalised, with dropout, in one kernel each way.

Backward gathers the rows again in place of keeping their sum; its second half, which adds up the
rows of each table's gradient, is PyTorch's own.
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

Three = tuple[Tensor, Tensor, Tensor]


@triton.jit
def gather_sum(ids, tables, row, counted, column, inside, quarter, hidden: tl.constexpr):
    """The four quarters of the sum of one row of each table, each (tile, block), fp32."""
    result = (tl.zeros(inside.shape, tl.float32),) * 4
    for k in tl.static_range(3):
        number = tl.load(ids[k] + row, counted, other=0).to(tl.int64)
        place = number[:, None] * hidden + column[None, :]
        grown = ()
        for j in tl.static_range(4):
            part = tl.load(tables[k] + place + j * quarter, inside, other=0.0)
            grown = grown + (result[j] + part.to(tl.float32),)
        result = grown
    return result


@named_kernel
def forward_kernel(
    word_ids,
    position_ids,
    segment_ids,
    words,
    positions,
    segments,
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
):
    """`tile` tokens a program: y, and for backward each row's mean and 1 / standard deviation."""
    quarter: tl.constexpr = hidden // 4
    row = tl.program_id(0) * tile + tl.arange(0, tile)
    column = tl.arange(0, block)
    inside = (row < rows)[:, None] & (column < quarter)[None, :]
    ids = (word_ids, position_ids, segment_ids)
    tables = (words, positions, segments)
    z = gather_sum(ids, tables, row, row < rows, column, inside, quarter, hidden)
    mean, scale = measure_rows(z, inside, eps, hidden)
    draws = ()
    if threshold > 0:
        draws = draw_rows(seed, row, quarter, block)
    place = row.to(tl.int64)[:, None] * hidden + column[None, :]
    for j in tl.static_range(4):
        result = (z[j] - mean[:, None]) * scale[:, None]
        result = result * load_vector(gain, column, inside, j, quarter)
        result += load_vector(bias, column, inside, j, quarter)
        if threshold > 0:
            result = tl.where(draws[j] >= threshold, result * keep_scale, 0.0)
        tl.store(y + place + j * quarter, result.to(y.dtype.element_ty), inside)
    tl.store(means + row, mean, row < rows)
    tl.store(scales + row, scale, row < rows)


@named_kernel
def backward_kernel(
    grad,
    other,
    word_ids,
    position_ids,
    segment_ids,
    words,
    positions,
    segments,
    gain,
    seed,
    means,
    scales,
    grad_sum,
    partials,
    rows,
    keep_scale,
    hidden: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    programs: tl.constexpr,
    threshold: tl.constexpr,
    twice: tl.constexpr,
):
    """The gradient of each token's sum, and this program's sums for those of gain and bias."""
    quarter: tl.constexpr = hidden // 4
    program = tl.program_id(0)
    column = tl.arange(0, block)
    grad_gain = (tl.zeros((tile, block), tl.float32),) * 4
    grad_bias = (tl.zeros((tile, block), tl.float32),) * 4
    ids = (word_ids, position_ids, segment_ids)
    tables = (words, positions, segments)
    for start in range(program * tile, rows, programs * tile):
        row = start + tl.arange(0, tile)
        inside = (row < rows)[:, None] & (column < quarter)[None, :]
        z = gather_sum(ids, tables, row, row < rows, column, inside, quarter, hidden)
        draws = ()
        if threshold > 0:
            draws = draw_rows(seed, row, quarter, block)
        place = row.to(tl.int64)[:, None] * hidden + column[None, :]
        dy = ()
        for j in tl.static_range(4):
            part = load_gradient(grad, other, place, inside, j, quarter, twice)
            if threshold > 0:
                part = tl.where(draws[j] >= threshold, part * keep_scale, 0.0)
            dy = dy + (part,)
        mean = tl.load(means + row, row < rows, other=0.0)
        scale = tl.load(scales + row, row < rows, other=0.0)
        dz, grad_gain, grad_bias = differentiate_rows(
            z, dy, gain, mean, scale, grad_gain, grad_bias, column, inside, quarter, hidden
        )
        for j in tl.static_range(4):
            tl.store(grad_sum + place + j * quarter, dz[j].to(grad_sum.dtype.element_ty), inside)
    store_sums(partials, 0, grad_gain, program, column, programs, quarter, hidden)
    store_sums(partials, 1, grad_bias, program, column, programs, quarter, hidden)


def _forward(
    word_ids: Tensor,
    position_ids: Tensor,
    segment_ids: Tensor,
    words: Tensor,
    positions: Tensor,
    segments: Tensor,
    gain: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    dropout: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, hidden = len(word_ids), words.shape[1]
    threshold = 0 if seed is None else find_threshold(dropout)
    y = words.new_empty(rows, hidden)
    means = torch.empty(rows, dtype=torch.float32, device=words.device)
    scales = torch.empty_like(means)
    inputs = (word_ids, position_ids, segment_ids, words, positions, segments, gain, bias)
    # A seed that is not there is never read: another tensor stands for its address.
    outputs = (means if seed is None else seed, y, means, scales)
    size = words.element_size()
    launch = plan_rows(forward_kernel, rows, hidden, size, None, threshold=threshold)
    if rows:
        launch(*inputs, *outputs, rows, 1.0 / (1.0 - dropout), eps)
    return y, means, scales


def _backward(
    grad: Tensor,
    other: Tensor | None,
    word_ids: Tensor,
    position_ids: Tensor,
    segment_ids: Tensor,
    words: Tensor,
    positions: Tensor,
    segments: Tensor,
    gain: Tensor,
    seed: Tensor | None,
    means: Tensor,
    scales: Tensor,
    dropout: float,
) -> tuple[Tensor, Tensor]:
    rows, hidden = grad.shape
    threshold = 0 if seed is None else find_threshold(dropout)
    programs = PROGRAMS_PER_MULTIPROCESSOR * count_multiprocessors(grad.device)
    constants = {"threshold": threshold, "twice": other is not None}
    launch = plan_rows(backward_kernel, rows, hidden, grad.element_size(), programs, **constants)
    grad_sum = torch.empty_like(grad)
    partials = torch.empty(2, launch.grid[0], hidden, dtype=torch.float32, device=grad.device)
    inputs = (word_ids, position_ids, segment_ids, words, positions, segments, gain)
    others = (means if seed is None else seed, means, scales, grad_sum, partials)
    second = grad if other is None else other
    launch(grad, second, *inputs, *others, rows, 1.0 / (1.0 - dropout))
    return grad_sum, partials


_ARGUMENTS = (
    "Tensor word_ids, Tensor position_ids, Tensor segment_ids, Tensor words, Tensor positions, "
    "Tensor segments, Tensor gain"
)
_launch_forward = register_operation(
    f"embedding_forward({_ARGUMENTS}, Tensor bias, Tensor? seed, float dropout, float eps) -> "
    "(Tensor, Tensor, Tensor)",
    _forward,
)
_launch_backward = register_operation(
    f"embedding_backward(Tensor grad, Tensor? other, {_ARGUMENTS}, Tensor? seed, "
    "Tensor means, Tensor scales, float dropout) -> (Tensor, Tensor)",
    _backward,
)


class _Embedding(Function):
    @staticmethod
    def forward(
        ctx: Any,
        ids: Three,
        words: Tensor,
        positions: Tensor,
        segments: Tensor,
        gain: Tensor,
        bias: Tensor,
        dropout: float,
        eps: float,
    ) -> tuple[Tensor, Tensor]:
        seed = draw_seed(words.device) if dropout > 0 else None
        tables = (words, positions, segments)
        y, means, scales = _launch_forward(*ids, *tables, gain, bias, seed, dropout, eps)
        ctx.save_for_backward(*ids, *tables, gain, seed, means, scales)
        ctx.dropout, ctx.bias_type = dropout, bias.dtype
        ctx.set_materialize_grads(False)
        return y, y.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        ids, tables, gain = saved[:3], saved[3:6], saved[6]
        grad, other = take_gradients(gradients)
        if grad is None:
            return (None,) * 8
        grad_sum, partials = _launch_backward(grad, other, *saved, ctx.dropout)
        grads = [
            torch.ops.aten.embedding_dense_backward(grad_sum, rows, len(table), -1, False)
            for rows, table in zip(ids, tables, strict=True)
        ]
        grad_gain, grad_bias = sum_columns(partials, gain.dtype)
        return None, *grads, grad_gain, grad_bias.to(ctx.bias_type), None, None


def embedding(
    ids: Three,
    tables: Three,
    weight: Tensor,
    bias: Tensor,
    dropout: float,
    eps: float,
    training: bool,
) -> tuple[Tensor, Tensor]:
    """As harness.ops.embedding; ids are not checked against the tables, as on any GPU.

    tables of one type, contiguous, hidden a multiple of 4 and at most 4,096; ids contiguous. Gain
    and bias may be fp32 beside 16-bit tables. Raises InputError for other tensors.
    """
    for table in tables:
        check_rows("embedding", table)
    if not all(rows.is_contiguous() and rows.shape == ids[0].shape for rows in ids):
        raise InputError("embedding by triton takes three contiguous vectors of ids of one length")
    result: tuple[Tensor, Tensor] = _Embedding.apply(
        ids, *tables, weight, bias, dropout if training else 0.0, eps
    )
    return result
