"""Scores of every word of the vocabulary, the definition in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def vocabulary_logits(x: Tensor, word_embedding: Tensor, bias: Tensor) -> Tensor:
    """x E^T + b, E being the word embedding itself.

    x: (M, hidden); word_embedding: (vocabulary, hidden); bias: (vocabulary,). Returns
    (M, vocabulary) in the type of x. Source: mlcommons/training bert run_pretraining.py
    get_masked_lm_output.
    """
    return F.linear(x, word_embedding, bias)
