"""Triton kernels of normalisation, ReLU and max pooling: the passes that know of the windows.

Windows are 3 x 3, two pixels apart, around every second pixel. A pixel of the output is a row of
its matrix (rows, channels), a pixel of the input one of its own; neighbours share what they read
through the caches. Layouts, sweeps and sums otherwise as harness.ops.batch_norm_kernels, which has
the statistics and the merges.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from harness.ops.batch_norm_tiles import (
    COUNTS,
    load_channels,
    load_scale,
    load_tile,
    spread_mask,
    store_part,
)
from harness.ops.kernels import named_kernel

SIZES = [*COUNTS, "height", "width", "out_height", "out_width"]
NOTHING = tl.constexpr(9)  # taken of a window whose values are all 0: its gradient goes nowhere


@named_kernel(do_not_specialize=SIZES)
def apply_pool_kernel(
    x,
    y,
    taken,
    mean,
    spread,
    weight,
    bias,
    height,
    width,
    out_height,
    out_width,
    rows,
    channels,
    tiles,
    eps,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    masked: tl.constexpr,
    is_variance: tl.constexpr,
    keep: tl.constexpr,
):
    """y = the largest of a window of x, normalised and at least 0; and which one it was.

    Grid: over y's rows, as apply_kernel's. taken: (rows, channels), uint8, 3 i + j for the first
    largest value of the window at its row i and column j, NOTHING where that is 0; not touched
    unless `keep`. Values are compared as they are rounded to y's type.
    """
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    center = load_channels(mean, channel, channels, masked)
    inverse = load_channels(spread, channel, channels, masked)
    if is_variance:
        inverse = 1.0 / tl.sqrt_rn(inverse + eps)
    scale = load_channels(weight, channel, channels, masked) * inverse
    shift = load_channels(bias, channel, channels, masked)
    row = tl.arange(0, block_rows)
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    for back in range(1, tiles + 1):
        first = ((block + 1) * tiles - back) * block_rows
        if first < rows:
            pixel = first + row
            valid = pixel < rows
            image = pixel // out_width // out_height
            down = 2 * (pixel // out_width % out_height) - 1
            right = 2 * (pixel % out_width) - 1
            best = tl.zeros((block_rows, block_channels), tl.float32)
            which = tl.full((block_rows, block_channels), NOTHING, tl.int32)
            for i in tl.static_range(3):
                for j in tl.static_range(3):
                    inside = valid & (down + i >= 0) & (down + i < height)
                    inside = inside & (right + j >= 0) & (right + j < width)
                    source = ((image * height + down + i) * width + right + j).to(tl.int64)
                    place = source[:, None] * channels + channel[None, :]
                    inside = spread_mask(
                        inside, channel, channels, masked, block_rows, block_channels
                    )
                    value = (load_tile(x, place, inside, True) - center) * scale + shift
                    value = value.to(y.dtype.element_ty).to(tl.float32)
                    larger = inside & (value > best)
                    best = tl.where(larger, value, best)
                    which = tl.where(larger, 3 * i + j, which)
            place = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
            inside = spread_mask(valid, channel, channels, masked, block_rows, block_channels)
            tl.store(y + place, best.to(y.dtype.element_ty), inside)
            if keep:
                tl.store(taken + place, which.to(tl.uint8), inside)


@triton.jit
def load_gradient(
    gradient,
    taken,
    pixel,
    valid,
    height,
    width,
    out_height,
    out_width,
    channel,
    channels,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    masked: tl.constexpr,
):
    """The gradient of pixels of the normalised input, fp32: of the windows that took their values.

    A pixel lies in one window along an axis where its number is even, else in two.
    """
    image = pixel // width // height
    down, right = pixel // width % height, pixel % width
    total = tl.zeros((block_rows, block_channels), tl.float32)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            below, beside = (down + i) // 2, (right + j) // 2
            inside = valid & (below < out_height) & (beside < out_width)
            if i == 1:
                inside = inside & (down % 2 == 1)
            if j == 1:
                inside = inside & (right % 2 == 1)
            own = 3 * (down + 1 - 2 * below) + right + 1 - 2 * beside
            source = ((image * out_height + below) * out_width + beside).to(tl.int64)
            place = source[:, None] * channels + channel[None, :]
            inside = spread_mask(inside, channel, channels, masked, block_rows, block_channels)
            which = tl.load(taken + place, inside, other=NOTHING).to(tl.int32)
            found = load_tile(gradient, place, inside, True)
            total += tl.where(which == own[:, None], found, 0.0)
    return total


@named_kernel(do_not_specialize=SIZES)
def reduce_pool_kernel(
    gradient,
    taken,
    x,
    mean,
    sums,
    products,
    height,
    width,
    out_height,
    out_width,
    rows,
    channels,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    masked: tl.constexpr,
):
    """Sums over a part of x's rows of their gradients, and of these times x's distance.

    Grid and parts: as statistics_kernel. sums, products: (parts, channels), fp32.
    """
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    part, parts = tl.program_id(1), tl.num_programs(1)
    center = load_channels(mean, channel, channels, masked)
    row = tl.arange(0, block_rows)
    place = row[:, None] * channels + channel[None, :]
    total = tl.zeros((block_rows, block_channels), tl.float32)
    product = tl.zeros((block_rows, block_channels), tl.float32)
    offset = (part * block_rows).to(tl.int64) * channels
    step = (parts * block_rows).to(tl.int64) * channels
    for first in range(part * block_rows, rows, parts * block_rows):
        pixel = first + row
        g = load_gradient(
            gradient, taken, pixel, pixel < rows, height, width, out_height, out_width,
            channel, channels, block_rows, block_channels, masked,
        )  # fmt: skip
        valid = pixel < rows
        inside = spread_mask(valid, channel, channels, masked, block_rows, block_channels)
        distance = load_tile(x + offset, place, inside, True) - center
        total += g
        product += g * distance
        offset += step
    store_part(sums, total, part, channel, channels)
    store_part(products, product, part, channel, channels)


@named_kernel(do_not_specialize=SIZES)
def input_gradient_pool_kernel(
    gradient,
    taken,
    x,
    input_gradient,
    mean,
    inverse,
    weight,
    slope,
    offset,
    height,
    width,
    out_height,
    out_width,
    rows,
    channels,
    tiles,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    masked: tl.constexpr,
):
    """x's gradient from that of the windows: as input_gradient_kernel, over x's rows."""
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    center = load_channels(mean, channel, channels, masked)
    scale = load_scale(weight, inverse, channel, channels, masked)
    steepness = load_channels(slope, channel, channels, masked)
    constant = load_channels(offset, channel, channels, masked)
    row = tl.arange(0, block_rows)
    place = row[:, None] * channels + channel[None, :]
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    for back in range(1, tiles + 1):
        first = ((block + 1) * tiles - back) * block_rows
        if first < rows:
            pixel = first + row
            g = load_gradient(
                gradient, taken, pixel, pixel < rows, height, width, out_height, out_width,
                channel, channels, block_rows, block_channels, masked,
            )  # fmt: skip
            valid = pixel < rows
            inside = spread_mask(valid, channel, channels, masked, block_rows, block_channels)
            start = first.to(tl.int64) * channels
            distance = load_tile(x + start, place, inside, True) - center
            result = g * scale + (distance * steepness + constant)
            made = input_gradient + start + place
            tl.store(made, result.to(input_gradient.dtype.element_ty), inside)
