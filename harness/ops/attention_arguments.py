"""What every fused attention demands of its tensors, each refusal one sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.commands import InputError

# A tensor without memory has shapes to count by and is never computed.
DEVICES = ("cuda", "meta")
FORMATS = (torch.float16, torch.bfloat16)


def check_attention_arguments(provider: str, query: Tensor, cu_seqlens: Tensor) -> None:
    """Raise InputError unless a fused kernel can take these; reads no tensor's values.

    query: (T, H, D), fp16 or bf16, on a GPU; cu_seqlens: (B + 1,) int32.
    """
    named = f"operation varlen_attention: provider {provider!r}"
    if query.device.type not in DEVICES:
        raise InputError(
            f"{named} needs tensors on a GPU, not on {query.device.type}: name the provider "
            "'torch' there"
        )
    if query.dtype not in FORMATS:
        raise InputError(
            f"{named} computes in fp16 and bf16, not {query.dtype}: set precision.format, or name "
            "the provider 'torch'"
        )
    if cu_seqlens.dtype != torch.int32:
        raise InputError(f"{named} takes cu_seqlens in int32, not {cu_seqlens.dtype}")
