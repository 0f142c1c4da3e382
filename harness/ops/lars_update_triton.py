"""The update of LARS over flat buffers in three kernels, one where no tensor is adapted.

Of every parameter the first reads weight and gradient for their norms, the second adds up a few
numbers, the third reads weight, momentum and gradient and writes weight, momentum and the model's
copy: 26 bytes in all with 16-bit gradients and weights.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from harness.ops.chunk_sums_triton import check_buffers, plan_tiles, sum_chunks
from harness.ops.kernels import named_kernel, register_operation


@named_kernel
def norms_kernel(
    master, gradients, partials, gradient_scale, chunks, chunk: tl.constexpr, rows: tl.constexpr
):
    """One program a tile of whole chunks: squares of weight and gradient, summed by chunk."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    inside = (row < chunks)[:, None]
    place = row.to(tl.int64)[:, None] * chunk + tl.arange(0, chunk)[None, :]
    weight = tl.load(master + place, inside, other=0.0)
    gradient = tl.load(gradients + place, inside, other=0.0).to(tl.float32) / gradient_scale
    tl.store(partials + 2 * row, tl.sum(weight * weight, 1), row < chunks)
    tl.store(partials + 2 * row + 1, tl.sum(gradient * gradient, 1), row < chunks)


@named_kernel
def apply_kernel(
    master,
    momenta,
    gradients,
    weights,
    chunk_tensors,
    adapted,
    sums,
    learning_rate,
    momentum,
    weight_decay,
    trust_coefficient,
    eps,
    gradient_scale,
    chunks,
    chunk: tl.constexpr,
    rows: tl.constexpr,
    adapts: tl.constexpr,
    copies: tl.constexpr,
):
    """One program a tile of whole chunks: momentum and weight moved, the model's copy rounded."""
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    there = row < chunks
    inside = there[:, None]
    place = row.to(tl.int64)[:, None] * chunk + tl.arange(0, chunk)[None, :]
    weight = tl.load(master + place, inside, other=0.0)
    moved = tl.load(momenta + place, inside, other=0.0)
    update = tl.load(gradients + place, inside, other=0.0).to(tl.float32) / gradient_scale
    scale = tl.zeros((rows,), tl.float32) + tl.load(learning_rate)
    if adapts:
        tensor = tl.load(chunk_tensors + row, there, other=0)
        flag = tl.load(adapted + tensor, there, other=0.0)
        weight_norm = tl.sqrt(tl.load(sums + 2 * tensor, there, other=0.0))
        gradient_norm = tl.sqrt(tl.load(sums + 2 * tensor + 1, there, other=0.0))
        guarded = (flag > 0) & (weight_norm > 0) & (gradient_norm > 0)
        divisor = tl.where(guarded, gradient_norm + weight_decay * weight_norm + eps, 1.0)
        scale *= tl.where(guarded, trust_coefficient * weight_norm / divisor, 1.0)
        update += (weight_decay * flag)[:, None] * weight
    moved = momentum * moved + scale[:, None] * update
    weight -= moved
    tl.store(momenta + place, moved, inside)
    tl.store(master + place, weight, inside)
    if copies:
        tl.store(weights + place, weight.to(weights.dtype.element_ty), inside)


def _measure(
    master: Tensor, gradients: Tensor, chunk_tensors: Tensor, gradient_scale: float
) -> Tensor:
    chunks = chunk_tensors.numel()
    partials = torch.empty(chunks, 2, dtype=torch.float32, device=master.device)
    launch = plan_tiles(norms_kernel, chunks, master.numel() // chunks)
    launch(master, gradients, partials, gradient_scale, chunks)
    return partials


def _apply(
    master: Tensor,
    momenta: Tensor,
    gradients: Tensor,
    weights: Tensor,
    chunk_tensors: Tensor,
    adapted: Tensor,
    sums: Tensor,
    learning_rate: Tensor,
    numbers: list[float],
    adapts: bool,
    copies: bool,
) -> None:
    chunks = chunk_tensors.numel()
    launch = plan_tiles(
        apply_kernel, chunks, master.numel() // chunks, adapts=adapts, copies=copies
    )
    tensors = (master, momenta, gradients, weights, chunk_tensors, adapted, sums, learning_rate)
    launch(*tensors, *numbers, chunks)


_launch_norms = register_operation(
    "lars_norms(Tensor master, Tensor gradients, Tensor chunk_tensors, float gradient_scale) -> "
    "Tensor",
    _measure,
)
_launch_apply = register_operation(
    "lars_apply(Tensor(a!) master, Tensor(b!) momenta, Tensor gradients, Tensor(c!) weights, "
    "Tensor chunk_tensors, Tensor adapted, Tensor sums, Tensor learning_rate, float[] numbers, "
    "bool adapts, bool copies) -> ()",
    _apply,
)


def lars_update(
    master: Tensor,
    momenta: Tensor,
    gradients: Tensor,
    weights: Tensor | None,
    chunk_tensors: Tensor,
    tensor_chunks: Tensor,
    adapted: Tensor,
    any_adapted: bool,
    learning_rate: Tensor,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    eps: float,
    gradient_scale: float,
) -> None:
    """As harness.ops.lars_update, with sums in a fixed order. Raises ValueError for odd chunks."""
    check_buffers("lars_update", chunk_tensors, master, momenta, gradients, weights)
    sums = adapted
    if any_adapted:
        partials = _launch_norms(master, gradients, chunk_tensors, gradient_scale)
        sums = sum_chunks(partials, tensor_chunks)
    numbers = [momentum, weight_decay, trust_coefficient, eps, gradient_scale]
    copy = master.new_empty(0) if weights is None else weights
    _launch_apply(
        master, momenta, gradients, copy, chunk_tensors, adapted, sums, learning_rate, numbers,
        any_adapted, weights is not None,
    )  # fmt: skip
