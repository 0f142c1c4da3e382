"""Attention within sequences by Transformer Engine: cuDNN's fused kernels or flash-attn."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn
from transformer_engine.pytorch import DotProductAttention

from harness.commands import InputError
from harness.ops.attention_arguments import check_attention_arguments

# What the library computes with where it has neither, as on an A100 without flash-attn: it fills
# all sequences up and keeps their L^2 probabilities. Its module has that under this name.
FALLBACK = "unfused_attention"


class Refusal(nn.Module):
    """Stands in the place of the library's fallback, which it would take without a word."""

    def forward(self, *_: Any, **__: Any) -> Tensor:
        """Raise InputError."""
        raise InputError(
            "operation varlen_attention: Transformer Engine has no fused kernels for provider 'te' "
            "on this GPU: name the provider 'flash', or install flash-attn for it"
        )


@cache
def make_module(heads: int, size: int, dropout: float) -> Any:
    """The library's module for one shape of head and one dropout; it holds no parameters.

    Raises InputError where its fallback is not found.
    """
    module = DotProductAttention(
        num_attention_heads=heads,
        kv_channels=size,
        attention_dropout=dropout,
        qkv_format="thd",
        attn_mask_type="padding",
    )
    if not hasattr(module, FALLBACK):
        raise InputError(
            "operation varlen_attention: provider 'te' was written for Transformer Engine 2.4 to "
            "2.18 and does not know this one: name the provider 'flash'"
        )
    setattr(module, FALLBACK, Refusal())
    return module


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
    tensors, and where it has no fused kernels for these on this GPU. Source:
    NVIDIA/TransformerEngine transformer_engine/pytorch, DotProductAttention (qkv_format "thd":
    tokens of all sequences in a row).
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
