"""Launch plans of the batch normalisation kernels, and the operations that start them.

Each operation here is one launch; x, y and gradients are (N, C, H, W) with channels_last strides,
everything with one number a channel is (C,), fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from harness.ops import batch_norm_kernels as kernels
from harness.ops.kernels import (
    Launch,
    count_multiprocessors,
    divide_up,
    register_operation,
    round_up_to_power,
)

# A first pass keeps sums in registers: all its programs fit a GPU at once (at most 128 registers a
# thread of 128, 64 of 256), so that none waits for another to end.
PROGRAMS_PER_MULTIPROCESSOR = 4
WARPS = 4
# A byte of the mask for each thread of a tile: two would come to it through shared memory, for
# which a program's warps would wait for each other.
MASK_WARPS = 8
MOST_PARTS = 512
CHANNELS_PER_PROGRAM = 64  # 128 bytes in 16 bit: whole cache lines, and few partial sums
STATISTICS_TILE_BYTES = 8192
REDUCTION_TILE_BYTES = 4096
# A second pass has programs that come and go: short ones, each with a few tiles for its parameters.
APPLY_TILE_BYTES = 4096
APPLY_CHANNELS = 256
APPLY_PROGRAMS_PER_MULTIPROCESSOR = 32
MOST_APPLY_TILES = 8
MOST_ROW_BLOCKS = 65535  # CUDA's bound of a grid along every axis but the first
MERGE_TILE = 4096  # elements, fp32


def plan_reduction(
    kernel: Any, x: Tensor, tile_bytes: int, constants: dict[str, bool], warps: int = WARPS
) -> tuple[Launch, int]:
    """A first pass over x, and the number of parts into which its rows are cut."""
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    block_channels = min(CHANNELS_PER_PROGRAM, max(8, round_up_to_power(channels)))
    block_rows = tile_bytes // x.element_size() // block_channels
    blocks = divide_up(channels, block_channels)
    programs = PROGRAMS_PER_MULTIPROCESSOR * count_multiprocessors(x.device)
    parts = min(max(programs // blocks, 1), divide_up(rows, block_rows), MOST_PARTS)
    sizes = {"block_rows": block_rows, "block_channels": block_channels}
    masked = channels % block_channels != 0
    return Launch(kernel, (blocks, parts), {**sizes, "masked": masked, **constants}, warps), parts


def plan_merge(kernel: Any, parts: int, channels: int, constants: dict[str, bool]) -> Launch:
    """All parts of a few channels in one program."""
    block_parts = round_up_to_power(parts)
    block_channels = min(max(MERGE_TILE // block_parts, 8), 64)
    sizes = {"block_parts": block_parts, "block_channels": block_channels}
    grid = (divide_up(channels, block_channels),)
    return Launch(kernel, grid, {**constants, **sizes}, warps=8)


def plan_apply(
    kernel: Any, x: Tensor, constants: dict[str, bool], tile_bytes: int = APPLY_TILE_BYTES
) -> tuple[Launch, int]:
    """A second pass over x, and how many tiles one program has of the rows."""
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    block_channels = min(APPLY_CHANNELS, max(8, round_up_to_power(channels)))
    block_rows = tile_bytes // x.element_size() // block_channels
    blocks, row_tiles = divide_up(channels, block_channels), divide_up(rows, block_rows)
    programs = APPLY_PROGRAMS_PER_MULTIPROCESSOR * count_multiprocessors(x.device)
    tiles = min(max(blocks * row_tiles // programs, 1), MOST_APPLY_TILES)
    tiles = max(tiles, divide_up(row_tiles, MOST_ROW_BLOCKS))
    sizes = {"block_rows": block_rows, "block_channels": block_channels}
    masked = channels % block_channels != 0
    grid = (blocks, divide_up(row_tiles, tiles))
    return Launch(kernel, grid, {**sizes, "masked": masked, **constants}), tiles


def _new(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.float32, device=like.device)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    launch, parts = plan_reduction(kernels.statistics_kernel, x, STATISTICS_TILE_BYTES, {})
    means, squares = _new(x, parts, channels), _new(x, parts, channels)
    launch(x, means, squares, rows, channels)
    return means, squares


def count_tile_rows(x: Tensor) -> int:
    """Rows of one tile of `statistics`, by which `finalize` knows how many a part has."""
    launch, _ = plan_reduction(kernels.statistics_kernel, x, STATISTICS_TILE_BYTES, {})
    return int(launch.constants["block_rows"])


def _finalize(
    means: Tensor,
    squares: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    rows: int,
    tile_rows: int,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor]:
    parts, channels = means.shape
    launch = plan_merge(kernels.finalize_kernel, parts, channels, {})
    mean, inverse = _new(means, channels), _new(means, channels)
    moved = (means, squares, running_mean, running_var, mean, inverse)
    launch(*moved, rows, channels, parts, tile_rows, momentum, eps)
    return mean, inverse


def _apply(
    x: Tensor,
    residual: Tensor | None,
    mean: Tensor,
    spread: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    is_variance: bool,
    relu: bool,
    keep_mask: bool,
) -> tuple[Tensor, Tensor]:
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    constants = {
        "is_variance": is_variance,
        "relu": relu,
        "add": residual is not None,
        "keep_mask": keep_mask,
    }
    y = torch.empty_like(x)
    size = (rows, channels // 8) if keep_mask else (0,)
    mask = torch.empty(size, dtype=torch.uint8, device=x.device)
    # A pointer that the kernel does not follow may be any.
    launch, tiles = plan_apply(kernels.apply_kernel, x, constants)
    other = x if residual is None else residual
    launch(x, other, y, mask, mean, spread, weight, bias, rows, channels, tiles, eps)
    return y, mask


def _reduce(
    gradient: Tensor,
    gradient_2: Tensor | None,
    x: Tensor,
    mask: Tensor | None,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    bias: Tensor,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    constants = {"add": gradient_2 is not None, "relu": relu, "take_mask": mask is not None}
    warps = WARPS if mask is None else MASK_WARPS
    kernel = kernels.reduce_kernel
    launch, parts = plan_reduction(kernel, x, REDUCTION_TILE_BYTES, constants, warps)
    sums, products = _new(x, parts, channels), _new(x, parts, channels)
    masked_gradient = x.new_empty(0) if mask is None else torch.empty_like(x)
    launch(
        gradient,
        gradient if gradient_2 is None else gradient_2,
        x,
        x if mask is None else mask,
        masked_gradient,
        *(mean, inverse, weight, bias, sums, products),
        *(rows, channels),
    )
    return sums, products, masked_gradient


def _finalize_backward(
    sums: Tensor, products: Tensor, inverse: Tensor, weight: Tensor, rows: int, training: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    parts, channels = sums.shape
    launch = plan_merge(kernels.finalize_backward_kernel, parts, channels, {"training": training})
    made = [_new(sums, channels) for _ in range(4)]
    launch(sums, products, inverse, weight, *made, rows, channels, parts)
    return made[0], made[1], made[2], made[3]


def _input_gradient(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    inverse: Tensor,
    weight: Tensor,
    bias: Tensor,
    slope: Tensor,
    offset: Tensor,
    relu: bool,
) -> Tensor:
    rows, channels = x.numel() // x.shape[1], x.shape[1]
    launch, tiles = plan_apply(kernels.input_gradient_kernel, x, {"relu": relu})
    made = torch.empty_like(x)
    vectors = (mean, inverse, weight, bias, slope, offset)
    launch(gradient, x, made, *vectors, rows, channels, tiles)
    return made


statistics = register_operation("batch_norm_statistics(Tensor x) -> (Tensor, Tensor)", _statistics)
finalize = register_operation(
    "batch_norm_finalize(Tensor means, Tensor squares, Tensor(a!) running_mean, "
    "Tensor(b!) running_var, int rows, int tile_rows, float momentum, float eps) -> "
    "(Tensor, Tensor)",
    _finalize,
)
apply = register_operation(
    "batch_norm_apply(Tensor x, Tensor? residual, Tensor mean, Tensor spread, Tensor weight, "
    "Tensor bias, float eps, bool is_variance, bool relu, bool keep_mask) -> (Tensor, Tensor)",
    _apply,
)
reduce = register_operation(
    "batch_norm_reduce(Tensor gradient, Tensor? gradient_2, Tensor x, Tensor? mask, Tensor mean, "
    "Tensor inverse, Tensor weight, Tensor bias, bool relu) -> (Tensor, Tensor, Tensor)",
    _reduce,
)
finalize_backward = register_operation(
    "batch_norm_finalize_backward(Tensor sums, Tensor products, Tensor inverse, Tensor weight, "
    "int rows, bool training) -> (Tensor, Tensor, Tensor, Tensor)",
    _finalize_backward,
)
input_gradient = register_operation(
    "batch_norm_input_gradient(Tensor gradient, Tensor x, Tensor mean, Tensor inverse, "
    "Tensor weight, Tensor bias, Tensor slope, Tensor offset, bool relu) -> Tensor",
    _input_gradient,
)
