"""Triton kernels of normalisation, ReLU and max pooling: the passes that know of the windows.

Windows are 3 x 3, two pixels apart, around every second pixel. A pixel of the output is a row of
its matrix (rows, channels), a pixel of the input one of its own; neighbours share what they read
through the caches. Every pass goes by windows, so that where its pixels lie is found once for four
of them: instructions are what such a pass may wait for. Layouts, sweeps and sums otherwise as
harness.ops.batch_norm_kernels, which has the statistics and the merges.
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
PLACES = tl.constexpr(4)  # bits that tell a window's pixels apart


@triton.jit
def find_windows(window, height, width, out_height, out_width):
    """The first pixel of windows: how far down and right in its image it is, and its row.

    Down or right is -1, and the row is none, where a window begins outside its image.
    """
    down = 2 * (window // out_width % out_height) - 1
    right = 2 * (window % out_width) - 1
    image = window // out_width // out_height
    return down, right, ((image * height + down) * width + right).to(tl.int64)


@triton.jit
def is_pixel(down, right, height, width):
    """Whether an image has such a pixel."""
    return (down >= 0) & (down < height) & (right >= 0) & (right < width)


@triton.jit
def find_order(value, kind: tl.constexpr):
    """Whole numbers in the order of values, as these are rounded to a type, where above 0.

    They are the values' bits, with PLACES free ones behind: below 0 for values below 0, in an order
    of their own, and above all others where a value is no number.
    """
    if kind.primitive_bitwidth == 16:
        return value.to(kind).to(tl.int16, bitcast=True).to(tl.int32) << PLACES
    else:
        return value.to(kind).to(tl.int32, bitcast=True).to(tl.int64) << PLACES


@triton.jit
def find_number(there, number: tl.constexpr, kind: tl.constexpr):
    """What a pixel adds to its value's order; so little that it never counts, if not there."""
    if kind.primitive_bitwidth == 16:
        return tl.where(there, number, -(2**30))[:, None]
    else:
        return tl.where(there, number, -(2**40))[:, None]


@triton.jit
def find_value(order, kind: tl.constexpr):
    """The reverse of find_order, for what is not below 0."""
    if kind.primitive_bitwidth == 16:
        return (order >> PLACES).to(tl.int16).to(kind, bitcast=True)
    else:
        return (order >> PLACES).to(tl.int32).to(kind, bitcast=True)


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
    kind: tl.constexpr = y.dtype.element_ty
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
        window = first + row
        valid = window < rows
        down, right, corner = find_windows(window, height, width, out_height, out_width)
        source = corner[:, None] * channels + channel[None, :]
        best = find_order(tl.zeros((block_rows, block_channels), tl.float32), kind)
        for i in tl.static_range(3):
            for j in tl.static_range(3):
                there = valid & is_pixel(down + i, right + j, height, width)
                inside = spread_mask(there, channel, channels, masked, block_rows, block_channels)
                value = load_tile(x + (i * width + j) * channels, source, inside, True)
                order = find_order((value - center) * scale + shift, kind)
                # Of equal values the first one counts most.
                best = tl.maximum(best, order + find_number(there, 8 - 3 * i - j, kind))
        place = window.to(tl.int64)[:, None] * channels + channel[None, :]
        inside = spread_mask(valid, channel, channels, masked, block_rows, block_channels)
        tl.store(y + place, find_value(best, kind), inside)
        if keep:
            which = tl.where(best >> PLACES > 0, 8 - (best & 15), NOTHING)
            tl.store(taken + place, which.to(tl.uint8), inside)


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
    """Sums over x's rows of their gradients, and of these times x's distance, in parts.

    Taken over the windows and what each took, which are a quarter as many. Grid and parts: over
    the windows' rows, as statistics_kernel's. sums, products: (parts, channels), fp32.
    """
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    part, parts = tl.program_id(1), tl.num_programs(1)
    center = load_channels(mean, channel, channels, masked)
    row = tl.arange(0, block_rows)
    total = tl.zeros((block_rows, block_channels), tl.float32)
    product = tl.zeros((block_rows, block_channels), tl.float32)
    for first in range(part * block_rows, rows, parts * block_rows):
        window = first + row
        valid = window < rows
        down, right, corner = find_windows(window, height, width, out_height, out_width)
        source = corner[:, None] * channels + channel[None, :]
        place = window.to(tl.int64)[:, None] * channels + channel[None, :]
        inside = spread_mask(valid, channel, channels, masked, block_rows, block_channels)
        g, which = load_window(gradient, taken, place, inside)
        chosen = tl.zeros((block_rows, block_channels), tl.float32)
        for i in tl.static_range(3):
            for j in tl.static_range(3):
                there = valid & is_pixel(down + i, right + j, height, width)
                inside = spread_mask(there, channel, channels, masked, block_rows, block_channels)
                value = load_tile(x + (i * width + j) * channels, source, inside, True)
                chosen = tl.where(which == 3 * i + j, value, chosen)
        g = tl.where(which == NOTHING, 0.0, g)
        total += g
        product += g * (chosen - center)
    store_part(sums, total, part, channel, channels)
    store_part(products, product, part, channel, channels)


@triton.jit
def load_window(gradient, taken, place, inside):
    """The gradients of windows, fp32, and which of its pixels each goes to."""
    which = tl.load(taken + place, inside, other=NOTHING).to(tl.int32)
    return load_tile(gradient, place, inside, True), which


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
    """x's gradient from that of the windows, else as input_gradient_kernel.

    Grid: over the windows' rows, as apply_kernel's. With each window go the pixel in its middle and
    those to the right, below, and both. They lie in no windows but this, the next, and the two
    below: what is loaded of four windows serves four pixels.
    """
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    center = load_channels(mean, channel, channels, masked)
    scale = load_scale(weight, inverse, channel, channels, masked)
    steepness = load_channels(slope, channel, channels, masked)
    constant = load_channels(offset, channel, channels, masked)
    row = tl.arange(0, block_rows)
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    for back in range(1, tiles + 1):
        first = ((block + 1) * tiles - back) * block_rows
        window = first + row
        valid = window < rows
        right, down = window % out_width, window // out_width % out_height
        beside, below = valid & (right + 1 < out_width), valid & (down + 1 < out_height)
        place = window.to(tl.int64)[:, None] * channels + channel[None, :]
        inside = spread_mask(valid, channel, channels, masked, block_rows, block_channels)
        g, which = load_window(gradient, taken, place, inside)
        inside = spread_mask(beside, channel, channels, masked, block_rows, block_channels)
        g_beside, which_beside = load_window(gradient, taken, place + channels, inside)
        inside = spread_mask(below, channel, channels, masked, block_rows, block_channels)
        place += out_width * channels
        g_below, which_below = load_window(gradient, taken, place, inside)
        inside = spread_mask(beside & below, channel, channels, masked, block_rows, block_channels)
        g_last, which_last = load_window(gradient, taken, place + channels, inside)
        image = window // out_width // out_height
        pixel = ((image * height + 2 * down) * width + 2 * right).to(tl.int64)
        place = pixel[:, None] * channels + channel[None, :]
        for a in tl.static_range(2):
            for b in tl.static_range(2):
                own = 4 + 3 * a + b
                total = tl.where(which == own, g, 0.0)
                there = valid
                if b == 1:
                    total += tl.where(which_beside == own - 2, g_beside, 0.0)
                    there = there & (2 * right + 1 < width)
                if a == 1:
                    total += tl.where(which_below == own - 6, g_below, 0.0)
                    there = there & (2 * down + 1 < height)
                if a + b == 2:
                    total += tl.where(which_last == own - 8, g_last, 0.0)
                inside = spread_mask(there, channel, channels, masked, block_rows, block_channels)
                at = place + (a * width + b) * channels
                distance = load_tile(x, at, inside, True) - center
                result = total * scale + (distance * steepness + constant)
                tl.store(input_gradient + at, result.to(input_gradient.dtype.element_ty), inside)
