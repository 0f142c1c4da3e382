"""Attention within sequences by Transformer Engine: cuDNN's fused kernels or flash-attn."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor
from transformer_engine.pytorch import DotProductAttention

from harness.ops.attention_arguments import check_attention_arguments


@cache
def make_module(heads: int, size: int, dropout: float) -> Any:
    """The library's module for one shape of head and one dropout; it holds no parameters."""
    return DotProductAttention(
        num_attention_heads=heads,
        kv_channels=size,
        attention_dropout=dropout,
        qkv_format="thd",
        attn_mask_type="padding",
    )


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

    The library finds by itself that the three are views of one tensor. Raises InputError for other
    tensors. Source: NVIDIA/TransformerEngine transformer_engine/pytorch, DotProductAttention
    (qkv_format "thd": tokens of all sequences in a row).
    """
    check_attention_arguments("te", query, cu_seqlens)
    module = make_module(query.shape[1], query.shape[2], dropout if training else 0.0)
    context: Tensor = module(
        query,
        key,
        value,
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        max_seqlen_q=longest_sequence,
        max_seqlen_kv=longest_sequence,
    )
    return context.view(query.shape)
