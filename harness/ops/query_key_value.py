"""The three projections in front of attention, the definition in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def query_key_value(
    x: Tensor, weights: tuple[Tensor, Tensor, Tensor], biases: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of every token.

    x: (T, hidden); weights: query, key and value, each (hidden, hidden) as (out, in); biases: each
    (hidden,). Returns three (T, hidden). The three weights stay three tensors, because the trust
    ratio is taken of each by itself. Source: Vaswani et al. 2017, section 3.2.2.
    """
    query, key, value = (
        F.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)
    )
    return query, key, value
