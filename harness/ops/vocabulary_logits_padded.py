"""Scores of every word, in rows whose beginnings are aligned.

30,522 words of 2 bytes leave each row of logits, and of their gradient, at another alignment, for
which matrix products have slow kernels alone. Here the rows lie 30,528 elements apart; no word is
added, so softmax, loss and norms are those of the vocabulary.
"""

# torch.autograd.Function has no types that mypy could check.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

ALIGNMENT = 8  # elements: 16 bytes in 16 bit, as tensor cores' loads want it


class _AlignedLogits(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, word_embedding: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, word_embedding)
        words = len(word_embedding)
        stride = -(-words // ALIGNMENT) * ALIGNMENT
        logits = x.new_empty(len(x), stride)[:, :words]
        return torch.addmm(bias, x, word_embedding.t(), out=logits)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, word_embedding = ctx.saved_tensors
        return grad.mm(word_embedding), grad.t().mm(x), grad.sum(0)


def vocabulary_logits(x: Tensor, word_embedding: Tensor, bias: Tensor) -> Tensor:
    """As harness.ops.vocabulary_logits, all of one type; the result's rows are 16-byte aligned.

    The gradient that comes back may have any strides; a loss that writes it in the logits' place
    keeps it aligned. Source of the size: 30,528 is the vocabulary to which NVIDIA's
    mlcommons/training_results_v4.0 pads, there with 6 words of logit 0.
    """
    result: Tensor = _AlignedLogits.apply(x, word_embedding, bias)
    return result
