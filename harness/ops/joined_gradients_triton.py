"""Three gradients side by side in one matrix, and the sums of all its columns, in one kernel.

What one product over three parameters needs of an attention that gives three gradients: putting
them together reads and writes every element anyway, 4 bytes in 16 bit, so the biases' gradients
cost no further pass.
"""

# Triton's language has no types that mypy could check, and no unpacking of tuples.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
# ruff: noqa: RUF005

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from torch import Tensor

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


@named_kernel
def join_kernel(
    first,
    second,
    third,
    first_stride,
    second_stride,
    third_stride,
    joined,
    partials,
    rows,
    features: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    programs: tl.constexpr,
):
    """`block` columns of each of the three, `tile` rows at a time: copied, and summed in fp32."""
    program = tl.program_id(0)
    column = tl.program_id(1) * block + tl.arange(0, block)
    parts = (first, second, third)
    strides = (first_stride, second_stride, third_stride)
    totals = (tl.zeros((tile, block), tl.float32),) * 3
    for start in range(program * tile, rows, programs * tile):
        row = start + tl.arange(0, tile)
        inside = (row < rows)[:, None] & (column < features)[None, :]
        wide = row.to(tl.int64)[:, None]
        grown = ()
        for j in tl.static_range(3):
            part = tl.load(parts[j] + wide * strides[j] + column[None, :], inside, other=0.0)
            place = wide * (3 * features) + j * features + column[None, :]
            tl.store(joined + place, part, inside)
            grown = grown + (totals[j] + part.to(tl.float32),)
        totals = grown
    for j in tl.static_range(3):
        place = (program * 3 + j) * features + column
        tl.store(partials + place, tl.sum(totals[j], 0), column < features)


def plan(kernel: Any, rows: int, features: int, programs: int) -> Launch:
    """Two rows a warp; a loop over tiles of rows for each block of columns."""
    block = min(round_up_to_power(features), WIDEST_BLOCK)
    columns = divide_up(features, block)
    grid = max(1, min(divide_up(rows, TILE_ROWS), divide_up(programs, columns)))
    constants: dict[str, int | float | bool] = {
        "features": features,
        "block": block,
        "tile": TILE_ROWS,
        "programs": grid,
    }
    return Launch(kernel, (grid, columns), constants, warps=4)


def _join(first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor]:
    rows, features = first.shape
    programs = PROGRAMS_PER_MULTIPROCESSOR * count_multiprocessors(first.device)
    launch = plan(join_kernel, rows, features, programs)
    joined = torch.empty(rows, 3 * features, dtype=first.dtype, device=first.device)
    partials = torch.empty(
        1, launch.grid[0], 3 * features, dtype=torch.float32, device=first.device
    )
    strides = (first.stride(0), second.stride(0), third.stride(0))
    launch(first, second, third, *strides, joined, partials, rows)
    return joined, partials


_launch = register_operation(
    "join_gradients(Tensor first, Tensor second, Tensor third) -> (Tensor, Tensor)", _join
)


def check_gradients(gradients: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The three, with rows whose elements lie next to each other.

    Raises InputError unless they are matrices of one shape and type.
    """
    first, second, third = (
        gradient if gradient.stride(-1) == 1 else gradient.contiguous() for gradient in gradients
    )
    for other in (second, third):
        if first.dim() != 2 or other.shape != first.shape or other.dtype != first.dtype:
            raise InputError(
                f"join_gradients takes three matrices of one shape and type, not {first.dtype} "
                f"{tuple(first.shape)} and {other.dtype} {tuple(other.shape)}"
            )
    return first, second, third


def join_gradients(
    gradients: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Three (T, features) of one type -> torch.cat(gradients, 1), and its column sums in `dtype`.

    The sums, (3 features,), are taken in fp32 in a fixed order. Rows may lie apart in memory, as
    those of a view of something wider do. Raises InputError for other shapes or types.
    """
    joined, partials = _launch(*check_gradients(gradients))
    return joined, sum_columns(partials, dtype)[0]
