"""Batch normalisation by NVIDIA apex's `bnp` extension: fp16, channels last, no group of GPUs.

The extension is called directly: apex's own module keeps scratch memory a layer, and its bit mask
takes 2 ceil(C / 64) times the memory that the kernels touch. Forward and backward are a launch
each, whose programs wait for each other; gradients of a block's two uses are added by autograd.
Source of the calls, layouts and constants: NVIDIA/apex at 6424da3b,
apex/contrib/groupbn/batch_norm.py and apex/contrib/csrc/groupbn. Its calls fit the extension built
from there (docs/reproducing.md); its kernels have not run.
"""

from __future__ import annotations

import functools
from typing import Any

import bnp
import torch
from torch import Tensor

from harness.commands import InputError
from harness.ops.batch_norm_one_by_one import compose_pair, compose_pool

PROGRAMS_PER_MULTIPROCESSOR = 2  # apex's max_cta_per_sm
SPARE_PROGRAMS = 12  # apex's cta_launch_margin
RETIRED_BYTES = 8192  # counters of programs that are through, zero at the start of a launch
NO_PEERS = (None, None, None, None)
MASK_ROWS = 32


@functools.lru_cache
def _plan(occupancy: str, index: int) -> tuple[int, int]:
    """Programs on a multiprocessor and in a grid, for the kernel of that occupancy function."""
    programs = min(getattr(bnp, occupancy)(), PROGRAMS_PER_MULTIPROCESSOR)
    count = torch.cuda.get_device_properties(index).multi_processor_count
    return programs, max(count * programs - SPARE_PROGRAMS, 1)


def _last(occupancy: str, x: Tensor) -> tuple[Any, ...]:
    """The arguments with which every call in training ends: no group, grid, one stream."""
    magic = torch.zeros(1, dtype=torch.int32)  # on the host; of use to groups alone
    return (*NO_PEERS, 1, magic, *_plan(occupancy, x.device.index), False)


def _retired(x: Tensor) -> Tensor:
    return torch.zeros(RETIRED_BYTES, dtype=torch.uint8, device=x.device)


def _vector(x: Tensor) -> Tensor:
    return torch.empty(x.size(3), dtype=torch.float32, device=x.device)


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        training: bool,
        momentum: float,
        eps: float,
        relu: bool,
    ) -> Tensor:
        if not training:
            y = bnp.bn_fwd_eval_nhwc(
                x, weight, bias, mean, var, _retired(x), 1, momentum, eps, relu
            )
            return y  # type: ignore[no-any-return]
        batch = (_vector(x), _vector(x))
        ctx.save_for_backward(x, weight, bias, mean, var, *batch)
        ctx.constants = (momentum, eps, relu)
        y = bnp.bn_fwd_nhwc(
            *(x, weight, bias, mean, var, *batch, _retired(x), momentum, eps, relu),
            *_last("bn_fwd_nhwc_occupancy", x),
        )
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        found = bnp.bn_bwd_nhwc(
            *(x, _check_gradient(gradients[0], x), *rest, _retired(x), *ctx.constants),
            *_last("bn_bwd_nhwc_occupancy", x),
        )
        return (*found, *[None] * 6)


class _BatchNormAddReLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        residual: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        training: bool,
        momentum: float,
        eps: float,
    ) -> Tensor:
        vectors = (weight, bias, mean, var)
        if not training:
            y = bnp.bn_addrelu_fwd_eval_nhwc(x, residual, *vectors, _retired(x), 1, momentum, eps)
            return y  # type: ignore[no-any-return]
        rows, channels = x.numel() // x.size(3), x.size(3)
        words = -(-rows // MASK_ROWS) * MASK_ROWS * 2 * -(-channels // 64)
        mask = torch.empty(words, dtype=torch.int32, device=x.device)
        batch = (_vector(x), _vector(x))
        ctx.save_for_backward(x, *vectors, *batch, mask)
        ctx.constants = (momentum, eps)
        y = bnp.bn_addrelu_fwd_nhwc(
            *(x, residual, *vectors, *batch, mask, _retired(x), momentum, eps),
            *_last("bn_addrelu_fwd_nhwc_occupancy", x),
        )
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        found = bnp.bn_addrelu_bwd_nhwc(
            *(x, _check_gradient(gradients[0], x), *rest, _retired(x), *ctx.constants),
            *_last("bn_addrelu_bwd_nhwc_occupancy", x),
        )
        return (*found, *[None] * 5)


def _channels_last(x: Tensor) -> Tensor:
    """(N, C, H, W) with channels_last strides as contiguous (N, H, W, C), what bnp takes."""
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        raise InputError(
            "batch normalisation by apex takes (N, C, H, W) with channels_last strides, not "
            f"shape {tuple(x.shape)} with strides {x.stride()}"
        )
    if x.dtype != torch.float16:
        raise InputError(f"batch normalisation by apex computes fp16 alone, not {x.dtype}")
    if x.shape[1] % 4:
        raise InputError(f"batch normalisation by apex takes channels by fours, not {x.shape[1]}")
    return x.permute(0, 2, 3, 1)


def _check_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    if gradient.dtype != x.dtype or not gradient.is_contiguous():
        raise InputError(
            "batch normalisation by apex got a gradient of another layout than its output: "
            f"{gradient.dtype}, (N, H, W, C) strides {gradient.stride()}"
        )
    return gradient


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """As harness.ops.batch_norm, in apex's layout and type; raises InputError for others."""
    vectors = (weight, bias, running_mean, running_var)
    y: Tensor = _BatchNorm.apply(  # type: ignore[no-untyped-call]
        _channels_last(x), *vectors, training, momentum, eps, False
    )
    return y.permute(0, 3, 1, 2)


def batch_norm_relu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> Tensor:
    """As harness.ops.batch_norm_relu, in apex's layout and type; raises InputError for others."""
    vectors = (weight, bias, running_mean, running_var)
    y: Tensor = _BatchNorm.apply(  # type: ignore[no-untyped-call]
        _channels_last(x), *vectors, training, momentum, eps, True
    )
    return y.permute(0, 3, 1, 2)


def batch_norm_add_relu(
    x: Tensor,
    residual: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """As harness.ops.batch_norm_add_relu, in apex's layout and type; raises InputError for others.

    The two results are one tensor; autograd adds up their gradients.
    """
    y: Tensor = _BatchNormAddReLU.apply(  # type: ignore[no-untyped-call]
        _channels_last(x),
        _channels_last(residual),
        *(weight, bias, running_mean, running_var),
        *(training, momentum, eps),
    )
    y = y.permute(0, 3, 1, 2)
    return y, y


# apex has no kernel of two normalisations, and none of pooling.
batch_norm_batch_norm_add_relu = compose_pair(batch_norm, batch_norm_add_relu)
batch_norm_relu_max_pool = compose_pool(batch_norm_relu)
