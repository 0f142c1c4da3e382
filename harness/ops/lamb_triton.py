"""Both halves of LAMB's update over flat buffers, in three kernels.

Of every parameter the first reads weight, moments and gradient, writes the moments and keeps the
norms by chunk; the second adds up a few numbers; the third reads weight and moments, makes the
update again rather than to store it, and writes weight and the model's copy: 40 bytes in all with
16-bit gradients and weights.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.ops.chunk_sums_triton import check_buffers, plan_tiles, sum_chunks
from harness.ops.kernels import named_kernel, register_operation
from harness.optimizers.flat_lamb import FlatLAMB, LambOperations
from harness.parameters import FlatParameters


@triton.jit
def compute_update(weight, mean, square, corrections, eps, decay):
    """(m / c1) / (sqrt(v / c2) + eps) + d w."""
    first = mean / tl.load(corrections)
    return first / (tl.sqrt(square / tl.load(corrections + 1)) + eps) + decay * weight


@named_kernel
def moments_kernel(
    master,
    means,
    squares,
    gradients,
    chunk_tensors,
    adapted,
    factor,
    overflow,
    corrections,
    partials,
    beta1,
    beta2,
    eps,
    weight_decay,
    chunks,
    chunk: tl.constexpr,
    rows: tl.constexpr,
):
    """One program a tile of whole chunks: moments moved, squares of weight and update by chunk."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    there = row < chunks
    inside = there[:, None]
    place = row.to(tl.int64)[:, None] * chunk + tl.arange(0, chunk)[None, :]
    keep = tl.load(overflow) != 0
    weight = tl.load(master + place, inside, other=0.0)
    mean = tl.load(means + place, inside, other=0.0)
    square = tl.load(squares + place, inside, other=0.0)
    gradient = tl.load(gradients + place, inside, other=0.0).to(tl.float32) * tl.load(factor)
    mean = tl.where(keep, mean, beta1 * mean + (1.0 - beta1) * gradient)
    square = tl.where(keep, square, beta2 * square + (1.0 - beta2) * gradient * gradient)
    tl.store(means + place, mean, inside)
    tl.store(squares + place, square, inside)
    tensor = tl.load(chunk_tensors + row, there, other=0)
    decay = weight_decay * tl.load(adapted + tensor, there, other=0.0)
    update = compute_update(weight, mean, square, corrections, eps, decay[:, None])
    tl.store(partials + 2 * row, tl.sum(weight * weight, 1), there)
    tl.store(partials + 2 * row + 1, tl.sum(update * update, 1), there)


@named_kernel
def apply_kernel(
    master,
    means,
    squares,
    weights,
    chunk_tensors,
    adapted,
    sums,
    overflow,
    learning_rate,
    corrections,
    eps,
    weight_decay,
    chunks,
    chunk: tl.constexpr,
    rows: tl.constexpr,
    copies: tl.constexpr,
):
    """One program a tile of whole chunks: the weight moved, the model's copy rounded."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    there = row < chunks
    inside = there[:, None]
    place = row.to(tl.int64)[:, None] * chunk + tl.arange(0, chunk)[None, :]
    weight = tl.load(master + place, inside, other=0.0)
    mean = tl.load(means + place, inside, other=0.0)
    square = tl.load(squares + place, inside, other=0.0)
    tensor = tl.load(chunk_tensors + row, there, other=0)
    flag = tl.load(adapted + tensor, there, other=0.0)
    weight_norm = tl.sqrt(tl.load(sums + 2 * tensor, there, other=0.0))
    update_norm = tl.sqrt(tl.load(sums + 2 * tensor + 1, there, other=0.0))
    guarded = (flag > 0) & (weight_norm > 0) & (update_norm > 0)
    ratio = tl.where(guarded, weight_norm / tl.where(guarded, update_norm, 1.0), 1.0)
    scale = tl.load(learning_rate) * ratio
    decay = weight_decay * flag
    update = compute_update(weight, mean, square, corrections, eps, decay[:, None])
    moved = weight - scale[:, None] * update
    weight = tl.where(tl.load(overflow) != 0, weight, moved)
    tl.store(master + place, weight, inside)
    if copies:
        tl.store(weights + place, weight.to(weights.dtype.element_ty), inside)


def _move(
    master: Tensor,
    means: Tensor,
    squares: Tensor,
    gradients: Tensor,
    chunk_tensors: Tensor,
    adapted: Tensor,
    factor: Tensor,
    overflow: Tensor,
    corrections: Tensor,
    numbers: list[float],
) -> Tensor:
    chunks = chunk_tensors.numel()
    partials = torch.empty(chunks, 2, dtype=torch.float32, device=master.device)
    launch = plan_tiles(moments_kernel, chunks, master.numel() // chunks)
    tensors = (master, means, squares, gradients, chunk_tensors, adapted, factor, overflow)
    launch(*tensors, corrections, partials, *numbers, chunks)
    return partials


def _apply(
    master: Tensor,
    means: Tensor,
    squares: Tensor,
    weights: Tensor,
    chunk_tensors: Tensor,
    adapted: Tensor,
    sums: Tensor,
    overflow: Tensor,
    learning_rate: Tensor,
    corrections: Tensor,
    numbers: list[float],
    copies: bool,
) -> None:
    chunks = chunk_tensors.numel()
    launch = plan_tiles(apply_kernel, chunks, master.numel() // chunks, copies=copies)
    tensors = (master, means, squares, weights, chunk_tensors, adapted, sums, overflow)
    launch(*tensors, learning_rate, corrections, *numbers, chunks)


_launch_moments = register_operation(
    "lamb_moments(Tensor master, Tensor(a!) means, Tensor(b!) squares, Tensor gradients, Tensor "
    "chunk_tensors, Tensor adapted, Tensor factor, Tensor overflow, Tensor corrections, float[] "
    "numbers) -> Tensor",
    _move,
)
_launch_apply = register_operation(
    "lamb_apply(Tensor(a!) master, Tensor means, Tensor squares, Tensor(b!) weights, Tensor "
    "chunk_tensors, Tensor adapted, Tensor sums, Tensor overflow, Tensor learning_rate, Tensor "
    "corrections, float[] numbers, bool copies) -> ()",
    _apply,
)


def lamb_moments(
    master: Tensor,
    means: Tensor,
    squares: Tensor,
    gradients: Tensor,
    chunk_tensors: Tensor,
    tensor_chunks: Tensor,
    adapted: Tensor,
    factor: Tensor,
    overflow: Tensor,
    corrections: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> Tensor:
    """As harness.ops.lamb_moments, with sums in a fixed order; ValueError for odd chunks."""
    check_buffers("lamb_moments", chunk_tensors, master, means, squares, gradients)
    partials: Tensor = _launch_moments(
        master, means, squares, gradients, chunk_tensors, adapted, factor, overflow, corrections,
        [beta1, beta2, eps, weight_decay],
    )  # fmt: skip
    sums: Tensor = sum_chunks(partials, tensor_chunks)
    return sums


def lamb_apply(
    master: Tensor,
    means: Tensor,
    squares: Tensor,
    weights: Tensor | None,
    chunk_tensors: Tensor,
    adapted: Tensor,
    sums: Tensor,
    overflow: Tensor,
    learning_rate: Tensor,
    corrections: Tensor,
    eps: float,
    weight_decay: float,
) -> None:
    """As harness.ops.lamb_apply. Raises ValueError for odd chunks."""
    check_buffers("lamb_apply", chunk_tensors, master, means, squares, weights)
    copy = master.new_empty(0) if weights is None else weights
    _launch_apply(
        master, means, squares, copy, chunk_tensors, adapted, sums, overflow, learning_rate,
        corrections, [eps, weight_decay], weights is not None,
    )  # fmt: skip


def lamb(
    parameters: FlatParameters,
    learning_rates: Sequence[float],
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    max_gradient_norm: float | None,
    gradient_scale: float,
    device: torch.device,
) -> FlatLAMB:
    """As harness.ops.lamb, with both halves by the kernels above."""
    return FlatLAMB(
        parameters,
        LambOperations(lamb_moments, lamb_apply),
        learning_rates,
        betas,
        eps,
        weight_decay,
        max_gradient_norm,
        gradient_scale,
        device,
    )
