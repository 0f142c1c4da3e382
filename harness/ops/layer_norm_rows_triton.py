"""Layer normalisation of rows that are in registers, and its gradient: parts of other kernels.

A row of `hidden` elements is held as a tuple of four quarters, each (tile, block) in fp32 for
`tile` rows, 0 where there is no element. A quarter is what one of the four numbers of a random
draw decides, and with a warp for each row every access of 1,024 16-bit elements is 16 bytes wide.
"""

# Triton's language has no types that mypy could check, and no unpacking of tuples.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, assignment"
# ruff: noqa: RUF005

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from harness.commands import InputError
from harness.ops.dropout_triton import RUN
from harness.ops.kernels import Launch, divide_up, round_up_to_power

WIDEST_ROW = 4096  # a row has to fit the registers of one warp
TILE_ELEMENTS = 1024  # of a quarter: rows of a program times their columns
# A loop over rows takes nearly all registers for its sums: more programs would not fit.
PROGRAMS_PER_MULTIPROCESSOR = 2


@triton.jit
def measure_rows(z, inside, eps, hidden: tl.constexpr):
    """Mean and 1 / standard deviation of each row, (tile,) each; the variance is the biased one."""
    mean = tl.sum(z[0] + z[1] + z[2] + z[3], 1) / hidden
    squares = tl.zeros_like(z[0])
    for j in tl.static_range(4):
        centred = z[j] - mean[:, None]
        if z[0].shape[1] * 4 != hidden:
            centred = tl.where(inside, centred, 0.0)
        squares += centred * centred
    return mean, 1.0 / tl.sqrt(tl.sum(squares, 1) / hidden + eps)


@triton.jit
def load_gradient(grad, other, place, inside, j: tl.constexpr, quarter: tl.constexpr, twice):
    """A quarter of the gradient of a result, fp32: the sum of two where it was used twice."""
    dy = tl.load(grad + place + j * quarter, inside, other=0.0).to(tl.float32)
    if twice:
        dy += tl.load(other + place + j * quarter, inside, other=0.0).to(tl.float32)
    return dy


@triton.jit
def load_vector(vector, column, inside, j: tl.constexpr, quarter: tl.constexpr):
    """A quarter of a gain or bias for every row of a tile, (tile, block), fp32.

    Loaded as a tile, each thread has at once what belongs to its elements: as one row it would go
    through shared memory, for which a program's warps would wait for each other.
    """
    place = tl.broadcast_to(column[None, :], inside.shape)
    return tl.load(vector + place + j * quarter, place < quarter, other=0.0).to(tl.float32)


@triton.jit
def differentiate_rows(
    z,
    dy,
    gain,
    mean,
    scale,
    grad_gain,
    grad_bias,
    column,
    inside,
    quarter: tl.constexpr,
    hidden: tl.constexpr,
):
    """The gradient of z from that of the result, dy, and the growing sums for gain and bias."""
    normal = ()
    slope = ()
    new_gain = ()
    new_bias = ()
    along = tl.zeros_like(z[0])
    across = tl.zeros_like(z[0])
    for j in tl.static_range(4):
        n = (z[j] - mean[:, None]) * scale[:, None]
        g = dy[j] * load_vector(gain, column, inside, j, quarter)
        along += g * n
        across += g
        # Where there is no element dy is 0, so nothing is added there.
        new_gain = new_gain + (grad_gain[j] + dy[j] * n,)
        new_bias = new_bias + (grad_bias[j] + dy[j],)
        normal = normal + (n,)
        slope = slope + (g,)
    mean_along = (tl.sum(along, 1) / hidden)[:, None]
    mean_across = (tl.sum(across, 1) / hidden)[:, None]
    dz = ()
    for j in tl.static_range(4):
        dz = dz + ((slope[j] - mean_across - normal[j] * mean_along) * scale[:, None],)
    return dz, new_gain, new_bias


@triton.jit
def store_sums(
    partials,
    vector: tl.constexpr,
    sums,
    program,
    column,
    programs: tl.constexpr,
    quarter: tl.constexpr,
    hidden: tl.constexpr,
):
    """This program's sums over its rows into partials (vectors, programs, hidden), at `vector`."""
    for j in tl.static_range(4):
        here = (vector * programs + program) * hidden + column + j * quarter
        tl.store(partials + here, tl.sum(sums[j], 0), column < quarter)


def plan_rows(
    kernel: Any,
    rows: int,
    hidden: int,
    element_bytes: int,
    programs: int | None,
    **constants: int | float | bool,
) -> Launch:
    """A warp for each row of a tile; `programs` for a loop over tiles, None for a tile each.

    Elements of 4 bytes take two warps a row: a thread's share stays 16 bytes, in half as many
    registers.
    """
    block = max(RUN.value, round_up_to_power(divide_up(hidden, 4)))
    warps = max(1, min(4, TILE_ELEMENTS // block))
    tile = warps if element_bytes <= 2 else max(1, warps // 2)
    constants |= {"hidden": hidden, "block": block, "tile": tile}
    grid = divide_up(rows, tile)
    if programs is not None:
        grid = max(1, min(grid, programs))
        constants["programs"] = grid
    return Launch(kernel, (grid,), constants, warps)


def take_gradients(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, Tensor | None]:
    """What is there of a result's two gradients, contiguous, the first one first."""
    given = [gradient.contiguous() for gradient in gradients if gradient is not None]
    first = given[0] if given else None
    return first, given[1] if len(given) > 1 else None


def check_rows(operation: str, x: Tensor) -> None:
    """Raise InputError, naming the operation, unless x is (rows, hidden) as the kernels take it."""
    fits = x.dim() == 2 and x.is_contiguous() and x.shape[1] % 4 == 0
    if not fits or x.shape[1] > WIDEST_ROW:
        raise InputError(
            f"{operation} by triton takes contiguous rows of a multiple of 4 elements, at most "
            f"{WIDEST_ROW}, not shape {tuple(x.shape)} with strides {x.stride()}"
        )
