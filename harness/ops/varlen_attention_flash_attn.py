"""Attention within sequences by the flash-attn library, version 2."""

from __future__ import annotations

from flash_attn import flash_attn_varlen_func, flash_attn_varlen_qkvpacked_func
from torch import Tensor

from harness.ops.adjacency import find_packed_heads
from harness.ops.attention_arguments import check_attention_arguments


def varlen_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    longest_sequence: int,
    dropout: float,
    training: bool,
) -> Tensor:
    """harness.ops.varlen_attention for fp16 and bf16 on a GPU; arguments and shapes as there.

    Where the three are views of one tensor, as the fused projections make them, the library takes
    and differentiates that one. Raises InputError for other tensors. Source: Dao 2023
    (FlashAttention-2); flash_attn/flash_attn_interface.py, version 2.8.
    """
    check_attention_arguments("flash_attn", query, cu_seqlens)
    dropout = dropout if training else 0.0
    packed = find_packed_heads(query, key, value)
    if packed is not None:
        result: Tensor = flash_attn_varlen_qkvpacked_func(
            packed, cu_seqlens, longest_sequence, dropout_p=dropout
        )
        return result
    result = flash_attn_varlen_func(
        query,
        key,
        value,
        cu_seqlens,
        cu_seqlens,
        longest_sequence,
        longest_sequence,
        dropout_p=dropout,
    )
    return result
