"""Attention within each sequence of a packed run of tokens, the definition in plain PyTorch."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    longest_sequence: int,
    dropout: float,
    training: bool,
) -> Tensor:
    """softmax(q k^T / sqrt(D)) v for each sequence by itself, with dropout on the probabilities.

    query, key, value: (T, H, D), all sequences one after the other, no padding; cu_seqlens:
    (B + 1,) int32, 0 first and T last, sequence b being tokens cu_seqlens[b] to cu_seqlens[b + 1]
    (an empty one, as repeated last entries make, is allowed); longest_sequence: at least the
    longest length, which other providers size their grid by. Returns (T, H, D). Raises
    RuntimeError where the lengths do not add up to T.
    Source: Vaswani et al. 2017, section 3.2.1; the reference's additive mask of -10000 on padding
    underflows to probability 0, so leaving padding out is exact.
    """
    del longest_sequence  # one sequence at a time needs no common length
    ends = cu_seqlens.tolist()
    lengths = [end - start for start, end in pairwise(ends) if end > start]
    # One split and one cat: slices would each add a full-sized gradient in backward.
    queries, keys, values = (
        torch.split_with_sizes(heads.transpose(0, 1).unsqueeze(0), lengths, dim=2)
        for heads in (query, key, value)
    )
    dropout = dropout if training else 0.0
    contexts = [
        F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        for q, k, v in zip(queries, keys, values, strict=True)
    ]
    return torch.cat(contexts, dim=2).squeeze(0).transpose(0, 1)
