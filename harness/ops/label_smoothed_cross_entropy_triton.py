"""Cross-entropy with label smoothing in two kernels: one reads the logits, one turns them.

Forward reads the logits once and keeps a number for each row; backward reads them again and writes
their gradient in their place. Three passes over the logits in all, 2 launches forward, 1 backward.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from harness.commands import InputError
from harness.ops.kernels import Launch, named_kernel, register_operation, round_up_to_power

MOST_CLASSES = 16384  # a row has to fit the registers of one program


@named_kernel
def forward_kernel(
    logits, labels, losses, log_sums, smoothing, classes: tl.constexpr, block: tl.constexpr
):
    """One program a row: log sum exp, and -sum_c t_c (x_c - log sum exp)."""
    row = tl.program_id(0)
    column = tl.arange(0, block)
    inside = column < classes
    x = tl.load(logits + row.to(tl.int64) * classes + column, inside, other=-float("inf"))
    x = x.to(tl.float32)
    label = tl.load(labels + row)
    top = tl.max(x, 0)
    log_sum = top + tl.log(tl.sum(tl.exp(x - top), 0))
    total = tl.sum(tl.where(inside, x, 0.0), 0)
    chosen = tl.sum(tl.where(column == label, x, 0.0), 0)
    loss = log_sum - (1.0 - smoothing) * chosen - smoothing * total / classes
    # A label that is no class has no loss: say so where it will be seen.
    loss = tl.where((label >= 0) & (label < classes), loss, float("nan"))
    tl.store(losses + row, loss)
    tl.store(log_sums + row, log_sum)


@named_kernel
def backward_kernel(
    logits, labels, log_sums, gradient, rows, smoothing, classes: tl.constexpr, block: tl.constexpr
):
    """One program a row: (softmax - t) times the loss's gradient / rows, written over the row."""
    row = tl.program_id(0)
    column = tl.arange(0, block)
    inside = column < classes
    place = logits + row.to(tl.int64) * classes + column
    x = tl.load(place, inside, other=-float("inf")).to(tl.float32)
    label = tl.load(labels + row)
    target = tl.where(column == label, 1.0 - smoothing, 0.0) + smoothing / classes
    scale = tl.load(gradient) / rows
    scale = tl.where((label >= 0) & (label < classes), scale, float("nan"))
    slope = (tl.exp(x - tl.load(log_sums + row)) - target) * scale
    tl.store(place, slope.to(logits.dtype.element_ty), inside)


def plan(kernel: Any, rows: int, classes: int) -> Launch:
    """One program a row; a warp for every 256 classes, four at least."""
    block = round_up_to_power(classes)
    warps = min(max(block // 256, 4), 16)
    return Launch(kernel, (rows,), {"classes": classes, "block": block}, warps)


def _forward(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    rows, classes = logits.shape
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    log_sums = torch.empty_like(losses)
    plan(forward_kernel, rows, classes)(logits, labels, losses, log_sums, smoothing)
    return losses, log_sums


def _backward(
    logits: Tensor, labels: Tensor, log_sums: Tensor, gradient: Tensor, smoothing: float
) -> None:
    rows, classes = logits.shape
    plan(backward_kernel, rows, classes)(logits, labels, log_sums, gradient, rows, smoothing)


_launch_forward = register_operation(
    "cross_entropy_forward(Tensor logits, Tensor labels, float smoothing) -> (Tensor, Tensor)",
    _forward,
)
_launch_backward = register_operation(
    "cross_entropy_backward(Tensor(a!) logits, Tensor labels, Tensor log_sums, Tensor gradient, "
    "float smoothing) -> ()",
    _backward,
)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        losses, log_sums = _launch_forward(logits, labels, smoothing)
        ctx.save_for_backward(logits, labels, log_sums)
        ctx.smoothing = smoothing
        return torch.mean(losses)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        logits, labels, log_sums = ctx.saved_tensors
        _launch_backward(logits, labels, log_sums, gradients[0], ctx.smoothing)
        # What was saved is gone: a second backward pass must not take it for logits.
        torch.autograd.graph.increment_version(logits)
        return logits, None, None


def label_smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """As harness.ops.label_smoothed_cross_entropy; the backward pass overwrites the logits.

    logits: (N, C), contiguous, fp32, bf16 or fp16, at most 16,384 classes; labels: (N,) int64. The
    loss is NaN where a label is no class. Raises InputError for another layout. After the backward
    pass `logits` holds its gradient, and a second backward pass raises RuntimeError.
    Source of the saved log sum exp: NVIDIA apex contrib/xentropy; of the gradient's place:
    Dao-AILab/flash-attention flash_attn/ops/triton/cross_entropy.py (inplace_backward).
    """
    if logits.dim() != 2 or not logits.is_contiguous() or labels.shape != logits.shape[:1]:
        raise InputError(
            f"label_smoothed_cross_entropy by triton takes contiguous logits (N, C) and labels "
            f"(N,), not shapes {tuple(logits.shape)} and {tuple(labels.shape)} with strides "
            f"{logits.stride()}"
        )
    if logits.shape[1] > MOST_CLASSES:
        raise InputError(
            f"label_smoothed_cross_entropy by triton takes at most {MOST_CLASSES} classes, "
            f"not {logits.shape[1]}"
        )
    loss: Tensor = _CrossEntropy.apply(logits, labels, smoothing)
    return loss
