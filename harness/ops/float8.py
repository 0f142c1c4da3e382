"""Tensors in FP8 with one scale each, and the matrix products of them.

Per-tensor current scaling: the largest magnitude of the very tensor decides its scale, on the
device, and nothing is kept from step to step. By that of the step before: float8_history.
Activations and weights are e4m3, gradients e5m2. Source: Micikevicius et al. 2022, "FP8 formats
for deep learning"; MLPerf training rules, Numerical formats (fp8 is pre-approved).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from harness.commands import InputError
from harness.ops.bias_gelu import bias_gelu

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
LARGEST = {E4M3: 448.0, E5M2: 57344.0}
# Of GELU in the tanh form, 1.128993 at 1.4185, rounded up.
GREATEST_SLOPE = 1.129
LARGEST_SCALE = 3e38  # of a tensor of almost nothing: no infinity may come of it
OLDEST_CAPABILITY = (8, 9)  # of GPUs whose tensor cores take FP8 (torch's ScaledBlas.cpp)
MULTIPLE = 16  # of every side of an FP8 matrix: what the kernels of torch._scaled_mm take


class Float8(NamedTuple):
    """A matrix in FP8: rows (R, C), columns the transpose (C, R); true value = FP8 value x inverse.

    Both are contiguous, because FP8 products take their operands along the summed dimension alone.
    inverse: (), fp32. columns is None where it was not asked for.
    """

    rows: Tensor
    columns: Tensor | None
    inverse: Tensor


def quantize(x: Tensor, dtype: torch.dtype, transposes: bool) -> Float8:
    """x (R, C) in FP8, rounded to nearest, the largest magnitude at the format's largest.

    The definition, in plain PyTorch: what the kernels of harness.ops.float8_triton are tested
    against. A tensor of zeros has scale 1; what is not finite in x is NaN in the result.
    """
    return _cast(x, x.abs().amax().float(), LARGEST[dtype], dtype, transposes)


def quantize_gelu(x: Tensor, bias: Tensor, transposes: bool) -> Float8:
    """gelu(x + bias) in e4m3, rounded once: the definition, as quantize, computed in fp64."""
    return quantize(bias_gelu(x.double(), bias.double()), E4M3, transposes)


def quantize_gelu_gradient(grad: Tensor, x: Tensor, bias: Tensor) -> tuple[Float8, Tensor]:
    """The gradient of x before gelu(x + bias) in e5m2, and that of the bias: the definition.

    grad: (T, features), that of the result. What bounds its product with GELU's slope decides the
    scale: the largest magnitude of grad times the greatest slope, which leaves at most a few of
    e5m2's 32 powers of two unused and spares another pass over two tensors.
    """
    # PyTorch's slope in fp32 is nothing below -5, where 1e-5 is left: e5m2 can tell.
    z = x.double() + bias.double()
    dz = torch.ops.aten.gelu_backward(grad.double(), z, approximate="tanh")
    limit = LARGEST[E5M2] / GREATEST_SLOPE
    cast = _cast(dz, grad.abs().amax().float(), limit, E5M2, True)
    return cast, dz.sum(0).to(bias.dtype)


def _cast(x: Tensor, largest: Tensor, limit: float, dtype: torch.dtype, transposes: bool) -> Float8:
    scale = torch.where(largest > 0, (limit / largest).clamp(max=LARGEST_SCALE), 1.0)
    rows = (x.float() * scale).to(dtype)
    columns = rows.t().contiguous() if transposes else None
    return Float8(rows, columns, 1.0 / scale)


def multiply(
    left: Tensor,
    left_inverse: Tensor,
    right: Tensor,
    right_inverse: Tensor,
    dtype: torch.dtype,
    bias: Tensor | None = None,
    fast: bool = False,
) -> Tensor:
    """left (M, K) times the transpose of right (N, K), both FP8 and contiguous -> (M, N) in dtype.

    fast: sum in the tensor cores' own precision, enough for a forward pass.
    """
    return torch._scaled_mm(
        left,
        right.t(),
        scale_a=left_inverse,
        scale_b=right_inverse,
        bias=bias,
        out_dtype=dtype,
        use_fast_accum=fast,
    )


@functools.lru_cache
def find_capability(index: int | None) -> tuple[int, int]:
    """The compute capability of a GPU."""
    return torch.cuda.get_device_capability(index)


def check_device(device: torch.device) -> None:
    """Raise InputError for a GPU without FP8, where the cast itself would not compile."""
    if device.type == "cuda" and (found := find_capability(device.index)) < OLDEST_CAPABILITY:
        raise InputError(
            "FP8 products need a GPU of compute capability {}.{} or more, not {}.{}: name the "
            "provider 'torch' for linear, 'triton' for query_key_value and feed_forward".format(
                *OLDEST_CAPABILITY, *found
            )
        )


def check_sizes(x: Tensor, weight: Tensor) -> None:
    """Raise InputError unless x (rows, in) and weight (out, in) can be multiplied in FP8."""
    check_device(x.device)
    if x.dtype not in (torch.bfloat16, torch.float16) or weight.dtype != x.dtype:
        raise InputError(
            f"FP8 products take activations and weights of one 16-bit type, not {x.dtype} and "
            f"{weight.dtype}: set precision.format, or name the provider 'torch'"
        )
    sizes = (*x.shape, *weight.shape)
    if any(size % MULTIPLE for size in sizes):
        raise InputError(
            f"FP8 products take sizes that are multiples of {MULTIPLE}, not x {tuple(x.shape)} and "
            f"weight {tuple(weight.shape)}: choose such a number of tokens"
        )
