"""Casting to FP8 in two kernels: the largest magnitude, then both layouts in one pass.

16-bit x is read twice and written twice in 8 bit: 6 bytes an element. What makes the operand of a
product out of something else casts it on the way, with the parts below: see float8_gelu_triton and
float8_join_triton.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.commands import InputError
from harness.ops.float8 import LARGEST, LARGEST_SCALE, Float8
from harness.ops.kernels import (
    Launch,
    count_multiprocessors,
    divide_up,
    named_kernel,
    register_operation,
    round_up_to_power,
)

BLOCK = 4096  # elements of x that a program takes at a time
PROGRAMS_PER_MULTIPROCESSOR = 4
TILE_ROWS, TILE_COLUMNS = 128, 64


@triton.jit
def find_scale(
    largest,
    limit: tl.constexpr,
    largest_scale: tl.constexpr,
    programs: tl.constexpr,
    searched: tl.constexpr,
):
    """What takes the largest of the magnitudes that `programs` programs found to the limit."""
    number = tl.arange(0, searched)
    top = tl.max(tl.load(largest + number, number < programs, other=0.0), 0)
    return tl.where(top > 0, tl.minimum(limit / top, largest_scale), 1.0)


@triton.jit
def find_tile(height, width, tile_rows: tl.constexpr, tile_columns: tl.constexpr):
    """Rows and columns of this program's tile, and which of its elements there are."""
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    column = tl.program_id(1) * tile_columns + tl.arange(0, tile_columns)
    return row, column, (row < height)[:, None] & (column < width)[None, :]


@triton.jit
def store_inverse(inverse, scale):
    """1 / scale, by the first program."""
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0) & (tl.program_id(2) == 0):
        tl.store(inverse, 1.0 / scale)


@triton.jit
def store_cast(
    value,
    rows,
    columns,
    row,
    column,
    inside,
    height,
    width,
    transposes: tl.constexpr,
):
    """A scaled tile in FP8 at (row, column) of (height, width), and turned of (width, height)."""
    cast = value.to(rows.dtype.element_ty)
    tl.store(rows + row.to(tl.int64)[:, None] * width + column[None, :], cast, inside)
    if transposes:
        there = column.to(tl.int64)[:, None] * height + row[None, :]
        tl.store(columns + there, tl.trans(cast), tl.trans(inside))


@named_kernel
def largest_kernel(x, largest, elements, block: tl.constexpr, programs: tl.constexpr):
    """This program's largest magnitude, fp32."""
    program = tl.program_id(0)
    top = tl.zeros((block,), tl.float32)
    for start in range(program * block, elements, programs * block):
        place = start + tl.arange(0, block)
        size = tl.abs(tl.load(x + place, place < elements, other=0.0).to(tl.float32))
        top = tl.maximum(top, size)
    tl.store(largest + program, tl.max(top, 0))


@named_kernel
def cast_kernel(
    x,
    largest,
    rows,
    columns,
    inverse,
    height,
    width,
    limit: tl.constexpr,
    largest_scale: tl.constexpr,
    programs: tl.constexpr,
    searched: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_columns: tl.constexpr,
    transposes: tl.constexpr,
):
    """One tile a program: x scale in FP8, and the same transposed."""
    scale = find_scale(largest, limit, largest_scale, programs, searched)
    row, column, inside = find_tile(height, width, tile_rows, tile_columns)
    place = row.to(tl.int64)[:, None] * width + column[None, :]
    value = tl.load(x + place, inside, other=0.0).to(tl.float32) * scale
    store_cast(value, rows, columns, row, column, inside, height, width, transposes)
    store_inverse(inverse, scale)


def plan_largest(elements: int, multiprocessors: int) -> Launch:
    """A few programs on each multiprocessor, each with a loop over its blocks."""
    grid = max(1, min(divide_up(elements, BLOCK), PROGRAMS_PER_MULTIPROCESSOR * multiprocessors))
    return Launch(largest_kernel, (grid,), {"block": BLOCK, "programs": grid}, warps=8)


def choose_constants(
    limit: float, programs: int, transposes: bool
) -> dict[str, int | float | bool]:
    """What all casts are compiled with; each program looks through `programs` magnitudes."""
    return {
        "limit": limit,
        "largest_scale": LARGEST_SCALE,
        "programs": programs,
        "searched": round_up_to_power(programs),
        "tile_rows": TILE_ROWS,
        "tile_columns": TILE_COLUMNS,
        "transposes": transposes,
    }


def choose_grid(height: int, width: int) -> tuple[int, int]:
    """A program for each tile."""
    return divide_up(height, TILE_ROWS), divide_up(width, TILE_COLUMNS)


def make_operand(
    height: int, width: int, dtype: torch.dtype, transposes: bool, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Memory for rows, columns (of no elements where not asked for) and the inverse scale."""
    rows = torch.empty(height, width, dtype=dtype, device=device)
    columns = torch.empty((width, height) if transposes else (0, 0), dtype=dtype, device=device)
    return rows, columns, torch.empty((), dtype=torch.float32, device=device)


def _find_largest(x: Tensor) -> Tensor:
    search = plan_largest(x.numel(), count_multiprocessors(x.device))
    largest = torch.empty(search.grid[0], dtype=torch.float32, device=x.device)
    search(x, largest, x.numel())
    return largest


def _cast(
    x: Tensor, largest: Tensor, dtype: torch.dtype, transposes: bool
) -> tuple[Tensor, Tensor, Tensor]:
    height, width = x.shape
    rows, columns, inverse = make_operand(height, width, dtype, transposes, x.device)
    constants = choose_constants(LARGEST[dtype], largest.numel(), transposes)
    cast = Launch(cast_kernel, choose_grid(height, width), constants, warps=8)
    cast(x, largest, rows, columns if transposes else rows, inverse, height, width)
    return rows, columns, inverse


# The largest magnitude that each program found of its share, fp32.
find_largest = register_operation("find_largest(Tensor x) -> Tensor", _find_largest)
_launch_cast = register_operation(
    "cast_float8(Tensor x, Tensor largest, ScalarType dtype, bool transposes) -> "
    "(Tensor, Tensor, Tensor)",
    _cast,
)


def quantize(x: Tensor, dtype: torch.dtype, transposes: bool) -> Float8:
    """As harness.ops.float8.quantize. Raises InputError unless x is a contiguous matrix."""
    if x.dim() != 2 or not x.is_contiguous() or x.numel() == 0:
        raise InputError(
            f"the cast to FP8 takes a contiguous matrix, not shape {tuple(x.shape)} with strides "
            f"{x.stride()}"
        )
    rows, columns, inverse = _launch_cast(x, find_largest(x), dtype, transposes)
    return Float8(rows, columns if transposes else None, inverse)
