"""The sum of three embeddings, normalised, with dropout: the definition in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def embedding(
    ids: tuple[Tensor, Tensor, Tensor],
    tables: tuple[Tensor, Tensor, Tensor],
    weight: Tensor,
    bias: Tensor,
    dropout: float,
    eps: float,
    training: bool,
) -> tuple[Tensor, Tensor]:
    """dropout(layer_norm(words[i] + positions[p] + segments[s])), the input of the encoder.

    One tensor, returned twice, as harness.ops.dropout_add_layer_norm does.

    ids: of words, positions and segments, each (T,) int; tables: each (rows, hidden), of one type;
    weight, bias: (hidden,). Returns (T, hidden) in the tables' type. Sums and statistics are fp32
    (fp64 of fp64). Source: Devlin et al. 2018, section 3; mlcommons/training bert
    modeling.py embedding_postprocessor.
    """
    exact = torch.promote_types(tables[0].dtype, torch.float32)
    words, positions, segments = (
        F.embedding(rows, table).to(exact) for rows, table in zip(ids, tables, strict=True)
    )
    x = words + positions + segments
    y = F.layer_norm(x, weight.shape, weight.to(exact), bias.to(exact), eps)
    y = F.dropout(y.to(tables[0].dtype), dropout, training)
    return y, y
