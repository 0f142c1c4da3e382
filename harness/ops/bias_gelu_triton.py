"""Bias and GELU (tanh form) in one kernel each way.

Only the matrix product's result is kept; backward computes the activation's slope from it again
and sums the bias's gradient on the way: 4 and 6 bytes an element in 16 bit.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd import Function

from harness.commands import InputError
from harness.ops.column_sums_triton import sum_columns
from harness.ops.kernels import (
    Launch,
    count_multiprocessors,
    divide_up,
    named_kernel,
    register_operation,
    round_up_to_power,
)

WIDEST_BLOCK = 256  # columns of a program: one warp reads a row of them in 16 bytes a thread
TILE_ROWS = 8
PROGRAMS_PER_MULTIPROCESSOR = 8


@triton.jit
def find_gate(y):
    """(1 + tanh(u)) / 2 = 1 / (1 + exp(-2u)), where u = sqrt(2 / pi) (y + 0.044715 y^3).

    As a GPU computes it in the fewest instructions: a power of 2, 2u / log(2) being
    y (2.3022082 + 0.1029432 y^2), and an inverse root squared in place of a division.
    """
    root = tl.rsqrt(1.0 + tl.exp2(y * (-2.302208198 - 0.1029432396 * y * y)))
    return root * root


@triton.jit
def differentiate_gelu(z):
    """d/dz of z gate(z); 2 u' = 1.5957691 (1 + 3 * 0.044715 z^2)."""
    gate = find_gate(z)
    inner = 1.5957691216057308 + 0.21406459313 * z * z
    return gate + z * gate * (1.0 - gate) * inner


@named_kernel
def forward_kernel(
    x, bias, y, rows, features: tl.constexpr, block: tl.constexpr, tile: tl.constexpr
):
    """`tile` rows of `block` columns a program: y gate(y), y = x + bias."""
    row = tl.program_id(0) * tile + tl.arange(0, tile)
    column = tl.program_id(1) * block + tl.arange(0, block)
    inside = (row < rows)[:, None] & (column < features)[None, :]
    place = row.to(tl.int64)[:, None] * features + column[None, :]
    b = tl.load(bias + column, column < features, other=0.0).to(tl.float32)
    z = tl.load(x + place, inside, other=0.0).to(tl.float32) + b[None, :]
    tl.store(y + place, (z * find_gate(z)).to(y.dtype.element_ty), inside)


@named_kernel
def backward_kernel(
    grad,
    x,
    bias,
    grad_x,
    partials,
    rows,
    features: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    programs: tl.constexpr,
):
    """The gradient of x, and this program's sums of it for the bias."""
    program = tl.program_id(0)
    column = tl.program_id(1) * block + tl.arange(0, block)
    b = tl.load(bias + column, column < features, other=0.0).to(tl.float32)
    total = tl.zeros((tile, block), tl.float32)
    for start in range(program * tile, rows, programs * tile):
        row = start + tl.arange(0, tile)
        inside = (row < rows)[:, None] & (column < features)[None, :]
        place = row.to(tl.int64)[:, None] * features + column[None, :]
        z = tl.load(x + place, inside, other=0.0).to(tl.float32) + b[None, :]
        dz = tl.load(grad + place, inside, other=0.0).to(tl.float32) * differentiate_gelu(z)
        total += dz
        tl.store(grad_x + place, dz.to(grad_x.dtype.element_ty), inside)
    tl.store(partials + program * features + column, tl.sum(total, 0), column < features)


def plan(kernel: Any, rows: int, features: int, programs: int | None) -> Launch:
    """Two rows a warp; `programs` for a loop over tiles of rows, None for a tile each."""
    block = min(round_up_to_power(features), WIDEST_BLOCK)
    constants: dict[str, int | float | bool] = {
        "features": features,
        "block": block,
        "tile": TILE_ROWS,
    }
    columns = divide_up(features, block)
    grid = divide_up(rows, TILE_ROWS)
    if programs is not None:
        grid = max(1, min(grid, divide_up(programs, columns)))
        constants["programs"] = grid
    return Launch(kernel, (grid, columns), constants, warps=4)


def _forward(x: Tensor, bias: Tensor) -> Tensor:
    rows, features = x.shape
    y = torch.empty_like(x)
    if rows:
        plan(forward_kernel, rows, features, None)(x, bias, y, rows)
    return y


def _backward(grad: Tensor, x: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    rows, features = x.shape
    programs = PROGRAMS_PER_MULTIPROCESSOR * count_multiprocessors(x.device)
    launch = plan(backward_kernel, rows, features, programs)
    grad_x = torch.empty_like(x)
    partials = torch.empty(1, launch.grid[0], features, dtype=torch.float32, device=x.device)
    launch(grad, x, bias, grad_x, partials, rows)
    return grad_x, partials


_launch_forward = register_operation("bias_gelu_forward(Tensor x, Tensor bias) -> Tensor", _forward)
_launch_backward = register_operation(
    "bias_gelu_backward(Tensor grad, Tensor x, Tensor bias) -> (Tensor, Tensor)", _backward
)


class _BiasGelu(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias)
        y: Tensor = _launch_forward(x, bias)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, bias = ctx.saved_tensors
        grad_x, partials = _launch_backward(grad.contiguous(), x, bias)
        return grad_x, sum_columns(partials, bias.dtype)[0]


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """As harness.ops.bias_gelu, computed in fp32 whatever the type of x.

    x: (T, features), contiguous; bias: (features,). The bias's gradient is a sum in a fixed
    order. Raises InputError for another layout.
    """
    if x.dim() != 2 or not x.is_contiguous() or bias.shape != x.shape[1:]:
        raise InputError(
            f"bias_gelu by triton takes contiguous x (T, features) and a bias (features,), not "
            f"shapes {tuple(x.shape)} and {tuple(bias.shape)} with strides {x.stride()}"
        )
    result: Tensor = _BiasGelu.apply(x, bias)
    return result
