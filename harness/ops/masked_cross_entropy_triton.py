"""The masked language model's loss: forward reads the logits once, backward overwrites them.

One program holds a whole row of 30,522 logits in registers. Three passes over the logits in all,
and their gradient takes no memory of its own.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

from harness.commands import InputError
from harness.ops.kernels import (
    VECTOR_BYTES,
    Launch,
    divide_up,
    named_kernel,
    register_operation,
    round_up_to_power,
)
from harness.ops.masked_cross_entropy import IGNORED_LABEL

WIDEST_ROW = 65536  # a row has to fit the registers of one program
BACKWARD_BLOCK = 4096


@named_kernel
def forward_kernel(
    logits,
    labels,
    losses,
    log_sums,
    stride,
    words: tl.constexpr,
    vector: tl.constexpr,
    block: tl.constexpr,
):
    """One program a row: log sum exp, and log sum exp - x[label], or 0 where nothing counts."""
    # A bound that `vector` does not divide would narrow every load: the rest is loaded apart.
    whole: tl.constexpr = words // vector * vector
    row = tl.program_id(0)
    label = tl.load(labels + row)
    start = logits + row.to(tl.int64) * stride
    column = tl.arange(0, block)
    x = tl.load(start + column, column < whole, other=-float("inf")).to(tl.float32)
    last = whole + tl.arange(0, vector)
    rest = tl.load(start + last, last < words, other=-float("inf")).to(tl.float32)
    top = tl.maximum(tl.max(x, 0), tl.max(rest, 0))
    log_sum = top + tl.log(tl.sum(tl.exp(x - top), 0) + tl.sum(tl.exp(rest - top), 0))
    # A label that is no word has no loss: say so where it will be seen.
    is_word = (label >= 0) & (label < words)
    chosen = tl.load(start + label, is_word, other=0.0).to(tl.float32)
    loss = tl.where(is_word, log_sum - chosen, float("nan"))
    tl.store(losses + row, tl.where(label == -1, 0.0, loss))
    tl.store(log_sums + row, log_sum)


@triton.jit
def turn(place, column, inside, label, log_sum, factor):
    """Write (softmax - 1[label]) factor over logits."""
    x = tl.load(place, inside, other=0.0).to(tl.float32)
    slope = (tl.exp(x - log_sum) - tl.where(column == label, 1.0, 0.0)) * factor
    tl.store(place, slope.to(place.dtype.element_ty), inside)


@named_kernel
def backward_kernel(
    logits,
    labels,
    log_sums,
    scale,
    stride,
    words: tl.constexpr,
    vector: tl.constexpr,
    block: tl.constexpr,
):
    """`block` words of a row a program: the gradient in place, 0 in a row that does not count."""
    whole: tl.constexpr = words // vector * vector
    row = tl.program_id(0)
    label = tl.load(labels + row)
    log_sum = tl.load(log_sums + row)
    factor = tl.where(label == -1, 0.0, tl.load(scale))
    start = logits + row.to(tl.int64) * stride
    column = tl.program_id(1) * block + tl.arange(0, block)
    turn(start + column, column, column < whole, label, log_sum, factor)
    if tl.program_id(1) == 0:
        last = whole + tl.arange(0, vector)
        turn(start + last, last, last < words, label, log_sum, factor)


def plan(kernel: Any, logits: Tensor) -> Launch:
    """A whole row a program forward, a part of a row backward."""
    rows, words = logits.shape
    block = round_up_to_power(words)
    blocks = 1
    if kernel is backward_kernel:
        block = min(block, BACKWARD_BLOCK)
        blocks = divide_up(words, block)
    vector = VECTOR_BYTES // logits.element_size()
    warps = min(max(block // 2048, 4), 32)
    constants: dict[str, int | float | bool] = {"words": words, "vector": vector, "block": block}
    return Launch(kernel, (rows, blocks), constants, warps)


def _forward(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    rows = len(logits)
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    log_sums = torch.empty_like(losses)
    if rows:
        plan(forward_kernel, logits)(logits, labels, losses, log_sums, logits.stride(0))
    return losses, log_sums


def _backward(logits: Tensor, labels: Tensor, log_sums: Tensor, scale: Tensor) -> None:
    if len(logits):
        plan(backward_kernel, logits)(logits, labels, log_sums, scale, logits.stride(0))


_launch_forward = register_operation(
    "masked_cross_entropy_forward(Tensor logits, Tensor labels) -> (Tensor, Tensor)", _forward
)
_launch_backward = register_operation(
    "masked_cross_entropy_backward(Tensor(a!) logits, Tensor labels, Tensor log_sums, "
    "Tensor scale) -> ()",
    _backward,
)


class _MaskedCrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        losses, log_sums = _launch_forward(logits, labels)
        count = (labels != IGNORED_LABEL).sum() + 1e-5
        ctx.save_for_backward(logits, labels, log_sums, count)
        loss: Tensor = losses.sum() / count
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        logits, labels, log_sums, count = ctx.saved_tensors
        _launch_backward(logits, labels, log_sums, grad / count)
        # What was saved is gone: a second backward pass must not take it for logits.
        torch.autograd.graph.increment_version(logits)
        return logits, None


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """As harness.ops.masked_cross_entropy; the backward pass overwrites the logits.

    logits: (M, vocabulary), fp32, bf16 or fp16, each row contiguous, rows at any distance;
    labels: (M,) int64. The loss is NaN where a label is neither a word nor -1. After the backward
    pass `logits` holds its gradient, and a second backward pass raises RuntimeError. Raises
    InputError for another layout.
    Source of the gradient's place: Dao-AILab/flash-attention flash_attn/ops/triton/cross_entropy.py
    (inplace_backward).
    """
    if logits.dim() != 2 or logits.stride(1) != 1 or labels.shape != logits.shape[:1]:
        raise InputError(
            f"masked_cross_entropy by triton takes logits (M, vocabulary) with contiguous rows and "
            f"labels (M,), not shapes {tuple(logits.shape)} and {tuple(labels.shape)} with strides "
            f"{logits.stride()}"
        )
    if logits.shape[1] > WIDEST_ROW:
        raise InputError(
            f"masked_cross_entropy by triton takes at most {WIDEST_ROW} words, "
            f"not {logits.shape[1]}"
        )
    if logits.requires_grad and logits.is_leaf:
        logits = logits.clone()  # a leaf is the caller's own: its values stay
    loss: Tensor = _MaskedCrossEntropy.apply(logits, labels)
    return loss
