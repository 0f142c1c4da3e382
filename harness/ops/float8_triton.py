"""Casting to FP8 in two kernels: the largest magnitude, then both layouts in one pass.

16-bit x is read twice and written twice in 8 bit: 6 bytes an element; 4 where the step before says
how to scale. What makes the operand of a product out of something else casts it on the way, with
the parts below: see float8_gelu_triton and float8_join_triton.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.commands import InputError
from harness.ops.float8 import LARGEST, LARGEST_SCALE, Float8
from harness.ops.float8_history import MARGINS, MEASURED, Scaling
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
def note_magnitude(seen, size):
    """What the next step scales by is no smaller than this finite magnitude."""
    # The end of the kernel orders it: a fence in each program would empty its multiprocessor's L1.
    tl.atomic_max(seen, size, sem="relaxed")


@triton.jit
def find_scale(
    largest,
    inverse,
    seen,
    limit: tl.constexpr,
    greatest: tl.constexpr,
    largest_scale: tl.constexpr,
    saturates: tl.constexpr,
    records: tl.constexpr,
    programs: tl.constexpr,
    searched: tl.constexpr,
):
    """What takes the largest of the magnitudes that `programs` programs found to the limit.

    The first program stores its inverse. records: and what was measured, for the next step; where
    it was not (saturates), each tile notes its own.
    """
    number = tl.arange(0, searched)
    top = tl.max(tl.load(largest + number, number < programs, other=0.0), 0)
    scale = tl.where(top > 0, tl.minimum(limit / top, largest_scale), 1.0)
    if (tl.program_id(0) == 0) & (tl.program_id(1) == 0) & (tl.program_id(2) == 0):
        tl.store(inverse, 1.0 / scale)
        if records and not saturates:
            note_magnitude(seen, tl.where(top < float("inf"), top * (greatest / limit), 0.0))
    return scale


@triton.jit
def find_tile(height, width, tile_rows: tl.constexpr, tile_columns: tl.constexpr):
    """Rows and columns of this program's tile, and which of its elements there are."""
    row = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    column = tl.program_id(1) * tile_columns + tl.arange(0, tile_columns)
    return row, column, (row < height)[:, None] & (column < width)[None, :]


@triton.jit
def store_cast(
    value,
    scale,
    rows,
    columns,
    seen,
    row,
    column,
    inside,
    height,
    width,
    greatest: tl.constexpr,
    saturates: tl.constexpr,
    records: tl.constexpr,
    transposes: tl.constexpr,
):
    """A tile in FP8 at (row, column) of (height, width), and turned of (width, height).

    saturates: what the scale takes past the greatest number of the format becomes that number,
    also where fp32 ends; what is not finite becomes none. records: seen then takes the largest
    finite magnitude.
    """
    scaled = value * scale
    if saturates:
        size = tl.abs(value)
        finite = size < float("inf")
        if records:
            note_magnitude(seen, tl.max(tl.max(tl.where(finite, size, 0.0), 1), 0))
        cut = tl.minimum(tl.maximum(scaled, -greatest), greatest)
        scaled = tl.where(finite, cut, float("nan"))
    cast = scaled.to(rows.dtype.element_ty)
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
    """One tile a program: x scale in FP8, and the same transposed."""
    scale = find_scale(
        largest, inverse, seen, limit, greatest, largest_scale,
        saturates, records, programs, searched,
    )  # fmt: skip
    row, column, inside = find_tile(height, width, tile_rows, tile_columns)
    place = row.to(tl.int64)[:, None] * width + column[None, :]
    value = tl.load(x + place, inside, other=0.0).to(tl.float32)
    store_cast(
        value, scale, rows, columns, seen, row, column, inside, height, width,
        greatest, saturates, records, transposes,
    )  # fmt: skip


def plan_largest(multiprocessors: int) -> Launch:
    """A few programs on each multiprocessor, each with a loop over its blocks.

    As many for every size, the idle ones included: casts are compiled for their number, and a step
    of a size that warm-up did not see compiles nothing.
    """
    grid = max(1, PROGRAMS_PER_MULTIPROCESSOR * multiprocessors)
    return Launch(largest_kernel, (grid,), {"block": BLOCK, "programs": grid}, warps=8)


def plan_cast(
    kernel: Any,
    grid: tuple[int, ...],
    dtype: torch.dtype,
    largest: Tensor,
    seen: Tensor | None,
    transposes: bool,
    delayed: bool,
    bound: float = 1.0,
) -> Launch:
    """A program for each tile of `grid`, each of which looks through all of `largest`.

    delayed: whether that is the step before's. bound: times the measured magnitude nothing that is
    cast is larger.
    """
    greatest, programs = LARGEST[dtype], largest.numel()
    constants: dict[str, int | float | bool] = {
        "limit": greatest / (MARGINS[dtype] if delayed else bound),
        "greatest": greatest,
        "saturates": delayed,
        "records": seen is not None,
        "largest_scale": LARGEST_SCALE,
        "programs": programs,
        "searched": round_up_to_power(programs),
        "tile_rows": TILE_ROWS,
        "tile_columns": TILE_COLUMNS,
        "transposes": transposes,
    }
    return Launch(kernel, grid, constants, warps=8)


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
    search = plan_largest(count_multiprocessors(x.device))
    largest = torch.empty(search.grid[0], dtype=torch.float32, device=x.device)
    search(x, largest, x.numel())
    return largest


def _cast(
    x: Tensor,
    largest: Tensor,
    seen: Tensor | None,
    dtype: torch.dtype,
    transposes: bool,
    delayed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    height, width = x.shape
    rows, columns, inverse = make_operand(height, width, dtype, transposes, x.device)
    grid = choose_grid(height, width)
    cast = plan_cast(cast_kernel, grid, dtype, largest, seen, transposes, delayed)
    # What is not there is not touched: another tensor stands for its address.
    outputs = (rows, columns if transposes else rows, inverse, inverse if seen is None else seen)
    cast(x, largest, *outputs, height, width)
    return rows, columns, inverse


# The largest magnitude that each program found of its share, fp32.
find_largest = register_operation("find_largest(Tensor x) -> Tensor", _find_largest)
_launch_cast = register_operation(
    "cast_float8(Tensor x, Tensor largest, Tensor(a!)? seen, ScalarType dtype, bool transposes, "
    "bool delayed) -> (Tensor, Tensor, Tensor)",
    _cast,
)


def quantize(
    x: Tensor, dtype: torch.dtype, transposes: bool, scaling: Scaling = MEASURED
) -> Float8:
    """As harness.ops.float8.quantize, or scaled by another magnitude than its own largest.

    What that takes past the format's greatest number becomes that number. Raises InputError unless
    x is a contiguous matrix.
    """
    if x.dim() != 2 or not x.is_contiguous() or x.numel() == 0:
        raise InputError(
            f"the cast to FP8 takes a contiguous matrix, not shape {tuple(x.shape)} with strides "
            f"{x.stride()}"
        )
    largest, delayed = scaling.find_largest(find_largest, x)
    rows, columns, inverse = _launch_cast(x, largest, scaling.seen, dtype, transposes, delayed)
    return Float8(rows, columns if transposes else None, inverse)
