"""Three gradients side by side as one FP8 operand in both layouts, and the sums of its columns.

What an FP8 product over three parameters needs of an attention that gives three gradients: 6 bytes
an element (4 read, 2 written in 8 bit), where putting them together and casting that would move 4
more.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from harness.ops.column_sums_triton import sum_columns
from harness.ops.float8 import E5M2, Float8
from harness.ops.float8_history import MEASURED, Scaling
from harness.ops.float8_triton import (
    choose_grid,
    find_scale,
    find_tile,
    make_operand,
    plan_cast,
    store_cast,
)
from harness.ops.joined_gradients_triton import check_gradients, plan
from harness.ops.kernels import (
    count_multiprocessors,
    named_kernel,
    register_operation,
)

PROGRAMS_PER_MULTIPROCESSOR = 4


@triton.jit
def load_part(
    first, second, third, first_stride, second_stride, third_stride, part, row, column, inside
):
    """A tile of one of the three, fp32."""
    wide = row.to(tl.int64)[:, None]
    if part == 0:
        value = tl.load(first + wide * first_stride + column[None, :], inside, other=0.0)
    elif part == 1:
        value = tl.load(second + wide * second_stride + column[None, :], inside, other=0.0)
    else:
        value = tl.load(third + wide * third_stride + column[None, :], inside, other=0.0)
    return value.to(tl.float32)


@named_kernel
def largest_kernel(
    first,
    second,
    third,
    first_stride,
    second_stride,
    third_stride,
    largest,
    rows,
    features: tl.constexpr,
    block: tl.constexpr,
    tile: tl.constexpr,
    programs: tl.constexpr,
):
    """The largest magnitude in this program's rows and columns of all three, fp32."""
    program = tl.program_id(0)
    column = tl.program_id(1) * block + tl.arange(0, block)
    strides = (first_stride, second_stride, third_stride)
    parts = (first, second, third)
    top = tl.zeros((tile, block), tl.float32)
    for start in range(program * tile, rows, programs * tile):
        row = start + tl.arange(0, tile)
        inside = (row < rows)[:, None] & (column < features)[None, :]
        wide = row.to(tl.int64)[:, None]
        for j in tl.static_range(3):
            value = tl.load(parts[j] + wide * strides[j] + column[None, :], inside, other=0.0)
            top = tl.maximum(top, tl.abs(value.to(tl.float32)))
    here = program * tl.num_programs(1) + tl.program_id(1)
    tl.store(largest + here, tl.max(tl.max(top, 1), 0))


@named_kernel
def cast_kernel(
    first,
    second,
    third,
    first_stride,
    second_stride,
    third_stride,
    largest,
    rows,
    columns,
    inverse,
    partials,
    seen,
    height,
    features,
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
    """One tile of one of the three a program: cast to its place in both layouts, and summed."""
    scale = find_scale(
        largest, inverse, seen, limit, greatest, largest_scale,
        saturates, records, programs, searched,
    )  # fmt: skip
    part = tl.program_id(2)
    row, column, inside = find_tile(height, features, tile_rows, tile_columns)
    strides = (first_stride, second_stride, third_stride)
    value = load_part(first, second, third, *strides, part, row, column, inside)
    place, width = part * features + column, 3 * features
    store_cast(
        value, scale, rows, columns, seen, row, place, inside, height, width,
        greatest, saturates, records, transposes,
    )  # fmt: skip
    tl.store(partials + tl.program_id(0) * width + place, tl.sum(value, 0), column < features)


def _find_largest_joined(first: Tensor, second: Tensor, third: Tensor) -> Tensor:
    programs = PROGRAMS_PER_MULTIPROCESSOR * count_multiprocessors(first.device)
    rows, features = first.shape
    search = plan(largest_kernel, rows, features, programs)
    largest = torch.empty(search.grid[0] * search.grid[1], dtype=torch.float32, device=first.device)
    strides = (first.stride(0), second.stride(0), third.stride(0))
    search(first, second, third, *strides, largest, rows)
    return largest


def _cast_joined(
    first: Tensor,
    second: Tensor,
    third: Tensor,
    largest: Tensor,
    seen: Tensor | None,
    delayed: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    height, features = first.shape
    rows, columns, inverse = make_operand(height, 3 * features, E5M2, True, first.device)
    grid = (*choose_grid(height, features), 3)
    partials = torch.empty(1, grid[0], 3 * features, dtype=torch.float32, device=first.device)
    strides = (first.stride(0), second.stride(0), third.stride(0))
    cast = plan_cast(cast_kernel, grid, E5M2, largest, seen, True, delayed)
    outputs = (rows, columns, inverse, partials)
    noted = inverse if seen is None else seen
    cast(first, second, third, *strides, largest, *outputs, noted, height, features)
    return outputs


_launch_search = register_operation(
    "find_largest_joined(Tensor first, Tensor second, Tensor third) -> Tensor",
    _find_largest_joined,
)
_launch_cast = register_operation(
    "cast_joined_float8(Tensor first, Tensor second, Tensor third, Tensor largest, "
    "Tensor(a!)? seen, bool delayed) -> (Tensor, Tensor, Tensor, Tensor)",
    _cast_joined,
)


def quantize_joined(
    gradients: tuple[Tensor, Tensor, Tensor], dtype: torch.dtype, scaling: Scaling = MEASURED
) -> tuple[Float8, Tensor]:
    """torch.cat(gradients, 1) in e5m2, both layouts, and its column sums, (3 features,) in `dtype`.

    Three (T, features) of one type; one scale for all. The sums are taken in fp32 in a fixed order.
    Rows may lie apart in memory. scaling: as in harness.ops.float8_triton.quantize. Raises
    InputError for other shapes or types.
    """
    parts = check_gradients(gradients)
    largest, delayed = scaling.find_largest(_launch_search, *parts)
    rows, columns, inverse, partials = _launch_cast(*parts, largest, scaling.seen, delayed)
    return Float8(rows, columns, inverse), sum_columns(partials, dtype)[0]
