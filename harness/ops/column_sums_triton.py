"""The second stage of every sum over rows: adds partial sums in an order that never changes."""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from harness.ops.kernels import Launch, divide_up, named_kernel, register_operation

COLUMNS = 32  # a program's share: one 128-byte line of fp32
ROWS = 64


@named_kernel
def sum_kernel(partials, sums, parts, columns, block: tl.constexpr, tile: tl.constexpr):
    """One program adds `block` columns of one (parts, columns) matrix, `tile` rows at a time."""
    matrix = tl.program_id(1)
    column = tl.program_id(0) * block + tl.arange(0, block)
    inside = column < columns
    total = tl.zeros((tile, block), tl.float32)
    for start in range(0, parts, tile):
        part = start + tl.arange(0, tile)
        place = (matrix * parts + part)[:, None] * columns + column[None, :]
        total += tl.load(partials + place, (part < parts)[:, None] & inside[None, :], other=0.0)
    result = tl.sum(total, 0).to(sums.dtype.element_ty)
    tl.store(sums + matrix * columns + column, result, inside)


def plan(matrices: int, columns: int) -> Launch:
    """Programs for `matrices` matrices of `columns` columns."""
    grid = (divide_up(columns, COLUMNS), matrices)
    return Launch(sum_kernel, grid, {"block": COLUMNS, "tile": ROWS}, warps=4)


def _sum(partials: Tensor, sums: Tensor) -> None:
    matrices, parts, columns = partials.shape
    plan(matrices, columns)(partials, sums, parts, columns)


_launch = register_operation("sum_columns(Tensor partials, Tensor(a!) sums) -> ()", _sum)


def sum_columns(partials: Tensor, dtype: torch.dtype) -> Tensor:
    """partials: (matrices, parts, columns), fp32, contiguous -> (matrices, columns) in `dtype`.

    The same numbers in the same order give the same sum, bit for bit.
    """
    matrices, _, columns = partials.shape
    sums = torch.empty(matrices, columns, dtype=dtype, device=partials.device)
    _launch(partials, sums)
    return sums
