"""Casting to FP8 in two kernels: the largest magnitude, then both layouts in one pass.

16-bit x is read twice and written twice in 8 bit: 6 bytes an element.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
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
    number = tl.arange(0, searched)
    top = tl.max(tl.load(largest + number, number < programs, other=0.0), 0)
    scale = tl.where(top > 0, tl.minimum(limit / top, largest_scale), 1.0)
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    column = tl.program_id(1) * tile_columns + tl.arange(0, tile_columns)
    inside = (row < height)[:, None] & (column < width)[None, :]
    place = row.to(tl.int64)[:, None] * width + column[None, :]
    value = tl.load(x + place, inside, other=0.0).to(tl.float32) * scale
    value = value.to(rows.dtype.element_ty)
    tl.store(rows + place, value, inside)
    if transposes:
        there = column.to(tl.int64)[:, None] * height + row[None, :]
        turned = (column < width)[:, None] & (row < height)[None, :]
        tl.store(columns + there, tl.trans(value), turned)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0):
        tl.store(inverse, 1.0 / scale)


def plan_largest(elements: int, multiprocessors: int) -> Launch:
    """A few programs on each multiprocessor, each with a loop over its blocks."""
    grid = max(1, min(divide_up(elements, BLOCK), PROGRAMS_PER_MULTIPROCESSOR * multiprocessors))
    return Launch(largest_kernel, (grid,), {"block": BLOCK, "programs": grid}, warps=8)


def plan_cast(
    height: int, width: int, programs: int, dtype: torch.dtype, transposes: bool
) -> Launch:
    """A tile a program; each looks through the largest magnitudes of all `programs`."""
    constants: dict[str, int | float | bool] = {
        "limit": LARGEST[dtype],
        "largest_scale": LARGEST_SCALE,
        "programs": programs,
        "searched": round_up_to_power(programs),
        "tile_rows": TILE_ROWS,
        "tile_columns": TILE_COLUMNS,
        "transposes": transposes,
    }
    grid = (divide_up(height, TILE_ROWS), divide_up(width, TILE_COLUMNS))
    return Launch(cast_kernel, grid, constants, warps=8)


def _quantize(x: Tensor, dtype: torch.dtype, transposes: bool) -> tuple[Tensor, Tensor, Tensor]:
    height, width = x.shape
    search = plan_largest(x.numel(), count_multiprocessors(x.device))
    programs = search.grid[0]
    largest = torch.empty(programs, dtype=torch.float32, device=x.device)
    search(x, largest, x.numel())
    rows = torch.empty(height, width, dtype=dtype, device=x.device)
    columns = torch.empty((width, height) if transposes else (0, 0), dtype=dtype, device=x.device)
    inverse = torch.empty((), dtype=torch.float32, device=x.device)
    cast = plan_cast(height, width, programs, dtype, transposes)
    cast(x, largest, rows, columns if transposes else rows, inverse, height, width)
    return rows, columns, inverse


_launch = register_operation(
    "quantize_float8(Tensor x, ScalarType dtype, bool transposes) -> (Tensor, Tensor, Tensor)",
    _quantize,
)


def quantize(x: Tensor, dtype: torch.dtype, transposes: bool) -> Float8:
    """As harness.ops.float8.quantize. Raises InputError unless x is a contiguous matrix."""
    if x.dim() != 2 or not x.is_contiguous() or x.numel() == 0:
        raise InputError(
            f"the cast to FP8 takes a contiguous matrix, not shape {tuple(x.shape)} with strides "
            f"{x.stride()}"
        )
    rows, columns, inverse = _launch(x, dtype, transposes)
    return Float8(rows, columns if transposes else None, inverse)
