"""Bias and GELU (tanh form) that give the FP8 operand of the next product, and so do its gradients.

Neither the activation nor its gradient is ever written in 16 bit: 6 bytes an element forward (4 to
find the largest magnitude and to compute it again, 2 in 8 bit) and 8 backward, where a cast of its
own would read and write 4 and 6 more.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from harness.ops.bias_gelu_triton import differentiate_gelu, find_gate, plan
from harness.ops.column_sums_triton import sum_columns
from harness.ops.float8 import E4M3, E5M2, GREATEST_SLOPE, Float8
from harness.ops.float8_history import MEASURED, Scaling
from harness.ops.float8_triton import (
    choose_grid,
    find_largest,
    find_scale,
    find_tile,
    make_operand,
    plan_cast,
    store_cast,
)
from harness.ops.kernels import (
    count_multiprocessors,
    named_kernel,
    register_operation,
)

PROGRAMS_PER_MULTIPROCESSOR = 4


@named_kernel
def largest_kernel(
    x,
    bias,
    largest,
    rows,
    features: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    programs: tl.constexpr,
):
    """The largest magnitude of gelu(x + bias) in this program's rows and columns, fp32."""
    program = tl.program_id(0)
    column = tl.program_id(1) * block + tl.arange(0, block)
    b = tl.load(bias + column, column < features, other=0.0).to(tl.float32)
    top = tl.zeros((tile, block), tl.float32)
    for start in range(program * tile, rows, programs * tile):
        row = start + tl.arange(0, tile)
        inside = (row < rows)[:, None] & (column < features)[None, :]
        place = row.to(tl.int64)[:, None] * features + column[None, :]
        z = tl.load(x + place, inside, other=0.0).to(tl.float32) + b[None, :]
        # Where there is no row there is the bias still.
        top = tl.maximum(top, tl.where(inside, tl.abs(z * find_gate(z)), 0.0))
    here = program * tl.num_programs(1) + tl.program_id(1)
    tl.store(largest + here, tl.max(tl.max(top, 1), 0))


@named_kernel
def cast_kernel(
    x,
    bias,
    largest,
    rows,
    columns,
    inverse,
    seen,
    height,
    width,
    limit: tl.constexpr,
    greatest: tl.constexpr,
    saturates: tl.constexpr,
    records: tl.constexpr,
    largest_scale: tl.constexpr,
    programs: tl.constexpr,
    searched: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
    transposes: tl.constexpr,
):
    """One tile a program: gelu(x + bias) scale in FP8, and the same transposed."""
    scale = find_scale(
        largest, inverse, seen, limit, greatest, largest_scale,
        saturates, records, programs, searched,
    )  # fmt: skip
    row, column, inside = find_tile(height, width, tile_rows, tile_columns)
    place = row.to(tl.int64)[:, None] * width + column[None, :]
    b = tl.load(bias + column, column < width, other=0.0).to(tl.float32)
    z = tl.load(x + place, inside, other=0.0).to(tl.float32) + b[None, :]
    # Where there is no row there is the bias still.
    value = tl.where(inside, z * find_gate(z), 0.0)
    store_cast(
        value, scale, rows, columns, seen, row, column, inside, height, width,
        greatest, saturates, records, transposes,
    )  # fmt: skip


@named_kernel
def cast_gradient_kernel(
    grad,
    x,
    bias,
    largest,
    rows,
    columns,
    inverse,
    partials,
    seen,
    height,
    width,
    limit: tl.constexpr,
    greatest: tl.constexpr,
    saturates: tl.constexpr,
    records: tl.constexpr,
    largest_scale: tl.constexpr,
    programs: tl.constexpr,
    searched: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
    transposes: tl.constexpr,
):
    """One tile a program: the gradient of x in both layouts, and its sums for the bias."""
    scale = find_scale(
        largest, inverse, seen, limit, greatest, largest_scale,
        saturates, records, programs, searched,
    )  # fmt: skip
    row, column, inside = find_tile(height, width, tile_rows, tile_columns)
    place = row.to(tl.int64)[:, None] * width + column[None, :]
    b = tl.load(bias + column, column < width, other=0.0).to(tl.float32)
    z = tl.load(x + place, inside, other=0.0).to(tl.float32) + b[None, :]
    dz = tl.load(grad + place, inside, other=0.0).to(tl.float32) * differentiate_gelu(z)
    store_cast(
        dz, scale, rows, columns, seen, row, column, inside, height, width,
        greatest, saturates, records, transposes,
    )  # fmt: skip
    tl.store(partials + tl.program_id(0) * width + column, tl.sum(dz, 0), column < width)


def _find_largest_gelu(x: Tensor, bias: Tensor) -> Tensor:
    programs = PROGRAMS_PER_MULTIPROCESSOR * count_multiprocessors(x.device)
    rows, features = x.shape
    search = plan(largest_kernel, rows, features, programs)
    largest = torch.empty(search.grid[0] * search.grid[1], dtype=torch.float32, device=x.device)
    search(x, bias, largest, rows)
    return largest


def _cast_gelu(
    x: Tensor,
    bias: Tensor,
    largest: Tensor,
    seen: Tensor | None,
    transposes: bool,
    delayed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    height, width = x.shape
    rows, columns, inverse = make_operand(height, width, E4M3, transposes, x.device)
    grid = choose_grid(height, width)
    cast = plan_cast(cast_kernel, grid, E4M3, largest, seen, transposes, delayed)
    outputs = (rows, columns if transposes else rows, inverse, inverse if seen is None else seen)
    cast(x, bias, largest, *outputs, height, width)
    return rows, columns, inverse


def _cast_gradient(
    grad: Tensor,
    x: Tensor,
    bias: Tensor,
    largest: Tensor,
    seen: Tensor | None,
    delayed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, width = x.shape
    rows, columns, inverse = make_operand(height, width, E5M2, True, x.device)
    grid = choose_grid(height, width)
    partials = torch.empty(1, grid[0], width, dtype=torch.float32, device=x.device)
    kernel = cast_gradient_kernel
    cast = plan_cast(kernel, grid, E5M2, largest, seen, True, delayed, GREATEST_SLOPE)
    outputs = (rows, columns, inverse, partials)
    cast(grad, x, bias, largest, *outputs, inverse if seen is None else seen, height, width)
    return outputs


_launch_search = register_operation(
    "find_largest_gelu(Tensor x, Tensor bias) -> Tensor", _find_largest_gelu
)
_launch_cast = register_operation(
    "cast_gelu_float8(Tensor x, Tensor bias, Tensor largest, Tensor(a!)? seen, bool transposes, "
    "bool delayed) -> (Tensor, Tensor, Tensor)",
    _cast_gelu,
)
_launch_gradient = register_operation(
    "cast_gelu_gradient_float8(Tensor grad, Tensor x, Tensor bias, Tensor largest, "
    "Tensor(a!)? seen, bool delayed) -> (Tensor, Tensor, Tensor, Tensor)",
    _cast_gradient,
)


def quantize_gelu(x: Tensor, bias: Tensor, transposes: bool, scaling: Scaling = MEASURED) -> Float8:
    """As harness.ops.float8.quantize_gelu; x: (T, features), contiguous; bias: (features,).

    scaling: as in harness.ops.float8_triton.quantize.
    """
    largest, delayed = scaling.find_largest(_launch_search, x, bias)
    rows, columns, inverse = _launch_cast(x, bias, largest, scaling.seen, transposes, delayed)
    return Float8(rows, columns if transposes else None, inverse)


def quantize_gelu_gradient(
    grad: Tensor, x: Tensor, bias: Tensor, scaling: Scaling = MEASURED
) -> tuple[Float8, Tensor]:
    """As harness.ops.float8.quantize_gelu_gradient; all contiguous, grad and x (T, features).

    The bias's gradient is a sum in a fixed order. scaling: of the product with the slope, as in
    harness.ops.float8_triton.quantize.
    """
    largest, delayed = scaling.find_largest(find_largest, grad)
    rows, columns, inverse, partials = _launch_gradient(
        grad, x, bias, largest, scaling.seen, delayed
    )
    return Float8(rows, columns, inverse), sum_columns(partials, bias.dtype)[0]
