"""Layer normalisation by NVIDIA apex's `fast_layer_norm` extension, and what stands before it.

The extension computes statistics in fp32 and everything else in the type of gain and bias, which
has to be that of 16-bit activations: the fp32 gain and bias of a model are rounded at each call,
and so are the gradients of both. Source of the calls, types and sizes: NVIDIA/apex at 6424da3b,
apex/contrib/layer_norm and apex/contrib/csrc/layer_norm. It has not run here: apex builds where
there is a CUDA compiler.
"""

# torch.autograd.Function has no types that mypy could check.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import fast_layer_norm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from harness.commands import InputError

# What apex compiles kernels for, up to the widest that a language model of this kind has.
WIDTHS = (768, 1024, 1536, 2048, 2304, 3072, 3840, 4096)
FORMATS = (torch.float32, torch.float16, torch.bfloat16)


class _LayerNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        gain = weight.to(x.dtype)
        y, means, scales = fast_layer_norm.ln_fwd(x, gain, bias.to(x.dtype), eps)
        ctx.save_for_backward(x, gain, means, scales)
        ctx.types = weight.dtype, bias.dtype
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, gain, means, scales = ctx.saved_tensors
        # No bias, because x is kept and not y; what follows are sums by parts of the rows.
        found = fast_layer_norm.ln_bwd(
            gradients[0].contiguous(), x, means, scales, gain, None, False
        )
        grad_x, grad_weight, grad_bias = found[:3]
        return grad_x, grad_weight.to(ctx.types[0]), grad_bias.to(ctx.types[1]), None


def check_rows(operation: str, x: Tensor) -> None:
    """Raise InputError, naming the operation, unless x is (rows, hidden) as apex takes it."""
    if x.dim() != 2 or not x.is_contiguous() or x.shape[1] not in WIDTHS or not len(x):
        raise InputError(
            f"{operation} by apex takes contiguous rows of {', '.join(map(str, WIDTHS))} elements, "
            f"not shape {tuple(x.shape)} with strides {x.stride()}"
        )
    if x.dtype not in FORMATS:
        raise InputError(f"{operation} by apex computes fp32, fp16 and bf16, not {x.dtype}")


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """As harness.ops.layer_norm, in apex's sizes and types; raises InputError for others."""
    check_rows("layer_norm", x)
    y: Tensor = _LayerNorm.apply(x, weight, bias, eps)
    return y


def dropout_add_layer_norm(
    x: Tensor,
    x_bias: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    dropout: float,
    eps: float,
    training: bool,
) -> tuple[Tensor, Tensor]:
    """As harness.ops.dropout_add_layer_norm: bias, dropout and addition by torch, the rest by apex.

    The two results are one tensor; autograd adds up their gradients. Raises InputError for other
    sizes and types.
    """
    check_rows("dropout_add_layer_norm", x)
    y: Tensor = _LayerNorm.apply(
        F.dropout(x + x_bias, dropout, training) + residual, weight, bias, eps
    )
    return y, y
