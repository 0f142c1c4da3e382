"""Attention within sequences by the flash-attention kernels inside PyTorch itself.

They are private operators (aten::_flash_attention_forward and _backward), so their signature is
compared with the one below before the run. Dropout draws from torch's generator: seed and offset
lie on the device, and a CUDA graph's replay advances them.
"""

# torch.autograd.Function has no types that mypy could check.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from harness.commands import InputError
from harness.ops.attention_arguments import check_attention_arguments

# The positional arguments and results this file relies on: PyTorch 2.7 to 2.14.
FORWARD_ARGUMENTS = (
    "query key value cum_seq_q cum_seq_k max_q max_k dropout_p is_causal return_debug_mask"
)
FORWARD_RESULTS = "output softmax_logsumexp rng_state unused debug_attn_mask"
BACKWARD_ARGUMENTS = (
    "grad_out query key value out logsumexp cum_seq_q cum_seq_k max_q max_k dropout_p is_causal "
    "rng_state unused"
)


def check_signature(schema: Any, arguments: str, results: str = "") -> None:
    """Raise InputError unless an operator takes these arguments and gives these results.

    schema: a torch.FunctionSchema; arguments: names of the positional ones, separated by spaces;
    results: likewise, or none to be compared. Named arguments may follow if they have defaults.
    """
    positional = [a.name for a in schema.arguments if not a.kwarg_only]
    demanded = [a.name for a in schema.arguments if a.kwarg_only and not a.has_default_value()]
    named = [value.name for value in schema.returns] if results else []
    if positional != arguments.split() or named != results.split() or demanded:
        raise InputError(
            f"operation varlen_attention: PyTorch {torch.__version__} has another signature of "
            f"{schema.name} than provider 'flash' was written for; name 'flash_attn' or 'te'"
        )


check_signature(
    torch.ops.aten._flash_attention_forward.default._schema, FORWARD_ARGUMENTS, FORWARD_RESULTS
)
check_signature(torch.ops.aten._flash_attention_backward.default._schema, BACKWARD_ARGUMENTS)


def check_build() -> None:
    """Raise InputError where a PyTorch that finds a GPU was built without these kernels."""
    if torch.cuda.is_available() and not torch.backends.cuda.is_flash_attention_available():
        raise InputError(
            f"operation varlen_attention: PyTorch {torch.__version__} was built without the "
            "kernels of provider 'flash'; name 'flash_attn' or 'te'"
        )


check_build()


class _FlashAttention(Function):
    """The two operators, with the first's random state handed to the second."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        cu_seqlens: Tensor,
        longest: int,
        dropout: float,
    ) -> Tensor:
        context: Tensor
        context, logsumexp, rng_state, unused, _ = torch.ops.aten._flash_attention_forward(
            query, key, value, cu_seqlens, cu_seqlens, longest, longest, dropout, False, False
        )
        ctx.save_for_backward(query, key, value, context, logsumexp, cu_seqlens, rng_state, unused)
        ctx.longest, ctx.dropout = longest, dropout
        return context

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value, context, logsumexp, cu_seqlens, rng_state, unused = ctx.saved_tensors
        grads = torch.ops.aten._flash_attention_backward(
            grad.contiguous(),
            query,
            key,
            value,
            context,
            logsumexp,
            cu_seqlens,
            cu_seqlens,
            ctx.longest,
            ctx.longest,
            ctx.dropout,
            False,
            rng_state,
            unused,
        )
        return *grads, None, None, None


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

    Raises InputError for other tensors. Source: Dao 2023 (FlashAttention-2); PyTorch
    aten/src/ATen/native/native_functions.yaml.
    """
    check_attention_arguments("flash", query, cu_seqlens)
    result: Tensor = _FlashAttention.apply(
        query, key, value, cu_seqlens, longest_sequence, dropout if training else 0.0
    )
    return result
