"""Triton kernels of batch normalisation over channels-last tensors.

A (N, C, H, W) tensor with channels_last strides is a contiguous matrix of rows = N H W by C. Each
way takes two passes over it: forward `statistics` (and the small `finalize`), then `apply`;
backward `reduce` (and the small `finalize_backward`), then `input_gradient`. Sums are taken in fp32
in a fixed order, without atomics, so that equal inputs give equal bits.

The first pass sweeps the rows from top to bottom, all programs abreast; the second from bottom to
top, so that what the first has left in the L2 cache is read there.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton.language as tl

from harness.ops.batch_norm_tiles import (
    COUNTS,
    cut,
    load_channels,
    load_mask,
    load_scale,
    load_tile,
    spread_mask,
    store_mask,
    store_part,
)
from harness.ops.kernels import named_kernel


@named_kernel(do_not_specialize=COUNTS)
def statistics_kernel(
    x,
    means,
    squares,
    rows,
    channels,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    masked: tl.constexpr,
):
    """Mean, and sum of squared distances from it, of a part of the rows: every parts-th tile.

    Grid: (channel blocks, parts). x: (rows, channels); means, squares: (parts, channels), fp32.
    Distances are taken from the part's first row, which no offset of the channel can spoil.
    """
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    part, parts = tl.program_id(1), tl.num_programs(1)
    row = tl.arange(0, block_rows)
    place = row[:, None] * channels + channel[None, :]
    first_row = part * block_rows
    start = x + first_row.to(tl.int64) * channels
    step = (parts * block_rows).to(tl.int64) * channels
    shift = load_channels(start, channel, channels, masked)
    sums = tl.zeros((block_rows, block_channels), tl.float32)
    sums_of_squares = tl.zeros((block_rows, block_channels), tl.float32)
    full = rows - block_rows
    count = 0
    for _ in range(first_row, full + 1, parts * block_rows):
        inside = tl.broadcast_to((channel < channels)[None, :], (block_rows, block_channels))
        distance = load_tile(start, place, inside, masked) - shift
        sums += distance
        sums_of_squares += distance * distance
        count += block_rows
        start += step
    last = (rows // block_rows) * block_rows  # an incomplete tile, there or not
    if (last < rows) & ((last // block_rows) % parts == part):
        inside = (row < rows - last)[:, None] & (channel < channels)[None, :]
        distance = load_tile(start, place, inside, True) - shift
        distance = tl.where(inside, distance, 0.0)
        sums += distance
        sums_of_squares += distance * distance
        count += rows - last
    total = tl.sum(sums, 0)
    mean = total / count
    square = tl.maximum(tl.sum(sums_of_squares, 0) - total * mean, 0.0)
    target = part.to(tl.int64) * channels + channel
    tl.store(means + target, tl.sum(shift, 0) + mean, channel < channels)
    tl.store(squares + target, square, channel < channels)


@named_kernel(do_not_specialize=COUNTS)
def finalize_kernel(
    means,
    squares,
    running_mean,
    running_var,
    mean,
    inverse,
    rows,
    channels,
    parts,
    tile_rows,
    momentum,
    eps,
    block_parts: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Merge the parts' statistics as Chan, Golub and LeVeque 1979 do, and move the running ones.

    Grid: (channel blocks,). mean, inverse: (channels,), fp32: the mean and the inverse of the
    standard deviation, from the biased variance and eps; running_var takes the unbiased variance.
    tile_rows: rows of one tile of `statistics_kernel`.
    """
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    part = tl.arange(0, block_parts)
    inside = (part < parts)[:, None] & (channel < channels)[None, :]
    place = part[:, None] * channels + channel[None, :]
    part_mean = tl.load(means + place, inside, other=0.0)
    part_square = tl.load(squares + place, inside, other=0.0)
    tiles = (rows + tile_rows - 1) // tile_rows
    count = (tiles - part + parts - 1) // parts * tile_rows
    count -= tl.where((tiles - 1) % parts == part, tiles * tile_rows - rows, 0)
    count = tl.where(part < parts, count, 0).to(tl.float32)[:, None]
    whole_mean = tl.sum(part_mean * (count / rows), 0)
    distance = part_mean - whole_mean[None, :]
    square = tl.sum(part_square + tl.where(inside, count * distance * distance, 0.0), 0)
    valid = channel < channels
    tl.store(mean + channel, whole_mean, valid)
    tl.store(inverse + channel, 1.0 / tl.sqrt_rn(square / rows + eps), valid)
    old_mean = tl.load(running_mean + channel, valid, other=0.0)
    old_var = tl.load(running_var + channel, valid, other=0.0)
    tl.store(running_mean + channel, old_mean + momentum * (whole_mean - old_mean), valid)
    unbiased = square / (rows - 1)
    tl.store(running_var + channel, old_var + momentum * (unbiased - old_var), valid)


@named_kernel(do_not_specialize=COUNTS)
def apply_kernel(
    x,
    residual,
    y,
    mask,
    mean,
    spread,
    weight,
    bias,
    rows,
    channels,
    tiles,
    eps,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    masked: tl.constexpr,
    is_variance: tl.constexpr,
    relu: tl.constexpr,
    add: tl.constexpr,
    keep_mask: tl.constexpr,
):
    """y = (x - mean) / deviation * weight + bias (+ residual) (and ReLU); and where y > 0.

    Grid: (channel blocks, row blocks of `tiles` tiles, the last first). spread: (channels,), the
    variance where `is_variance`, else the inverse of the deviation. mask: (rows, channels / 8),
    uint8, bit k of a byte for channel 8 j + k. residual and mask are not touched unless asked for.
    """
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    center = load_channels(mean, channel, channels, masked)
    inverse = load_channels(spread, channel, channels, masked)
    if is_variance:
        inverse = 1.0 / tl.sqrt_rn(inverse + eps)
    scale = load_channels(weight, channel, channels, masked) * inverse
    shift = load_channels(bias, channel, channels, masked)
    row = tl.arange(0, block_rows)
    place = row[:, None] * channels + channel[None, :]
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    for back in range(1, tiles + 1):
        first = ((block + 1) * tiles - back) * block_rows
        valid = row < rows - first
        inside = spread_mask(valid, channel, channels, masked, block_rows, block_channels)
        offset = first.to(tl.int64) * channels
        value = load_tile(x + offset, place, inside, True)
        value = (value - center) * scale + shift
        if add:
            value += load_tile(residual + offset, place, inside, True)
        if relu:
            value = cut(value)
        tl.store(y + offset + place, value.to(y.dtype.element_ty), inside)
        if keep_mask:
            bits = mask + offset // 8
            left = rows - first
            store_mask(bits, value > 0.0, row, left, channels, block_rows, block_channels)


@named_kernel(do_not_specialize=COUNTS)
def reduce_kernel(
    gradient,
    gradient_2,
    x,
    mask,
    masked_gradient,
    mean,
    inverse,
    weight,
    bias,
    sums,
    products,
    rows,
    channels,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    masked: tl.constexpr,
    add: tl.constexpr,
    relu: tl.constexpr,
    take_mask: tl.constexpr,
):
    """Sums over a part of the rows of g, and of g times x's distance from its mean.

    g is the gradient (plus gradient_2 where `add`), zero where the ReLU put out zero: told by x
    itself where `relu`, by the mask where `take_mask`; the latter is also written, once and in its
    own type, to masked_gradient, as the residual's gradient, and summed as it was rounded.
    Grid and parts: as statistics_kernel. sums, products: (parts, channels), fp32.
    """
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    part, parts = tl.program_id(1), tl.num_programs(1)
    center = load_channels(mean, channel, channels, masked)
    if relu:
        scale = load_scale(weight, inverse, channel, channels, masked)
        shift = load_channels(bias, channel, channels, masked)
    row = tl.arange(0, block_rows)
    place = row[:, None] * channels + channel[None, :]
    total = tl.zeros((block_rows, block_channels), tl.float32)
    product = tl.zeros((block_rows, block_channels), tl.float32)
    offset = (part * block_rows).to(tl.int64) * channels
    step = (parts * block_rows).to(tl.int64) * channels
    byte_offset, byte_step = offset // 8, step // 8
    for first in range(part * block_rows, rows, parts * block_rows):
        valid = row < rows - first
        inside = spread_mask(valid, channel, channels, masked, block_rows, block_channels)
        g = load_tile(gradient + offset, place, inside, True)
        distance = load_tile(x + offset, place, inside, True) - center
        if add:
            g += load_tile(gradient_2 + offset, place, inside, True)
        if relu:
            g = tl.where(distance * scale + shift > 0.0, g, 0.0)
        if take_mask:
            positive = load_mask(
                mask + byte_offset, row, rows - first, channels, block_rows, block_channels
            )
            rounded = tl.where(positive, g, 0.0).to(masked_gradient.dtype.element_ty)
            tl.store(masked_gradient + offset + place, rounded, inside)
            g = rounded.to(tl.float32)
        total += g
        product += g * distance
        offset += step
        byte_offset += byte_step
    store_part(sums, total, part, channel, channels)
    store_part(products, product, part, channel, channels)


@named_kernel(do_not_specialize=COUNTS)
def finalize_backward_kernel(
    sums,
    products,
    inverse,
    weight,
    weight_gradient,
    bias_gradient,
    slope,
    offset,
    rows,
    channels,
    parts,
    training: tl.constexpr,
    block_parts: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Add up the parts; gradients of weight and bias; and the two coefficients of the input's.

    Grid: (channel blocks,). slope, offset: (channels,), fp32: the input's gradient is
    g weight / deviation + (x - mean) slope + offset; both are 0 where the running statistics
    normalised, which do not depend on x.
    """
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    part = tl.arange(0, block_parts)
    valid = channel < channels
    inside = (part < parts)[:, None] & valid[None, :]
    place = part[:, None] * channels + channel[None, :]
    total = tl.sum(tl.load(sums + place, inside, other=0.0), 0)
    product = tl.sum(tl.load(products + place, inside, other=0.0), 0)
    deviation = tl.load(inverse + channel, valid, other=0.0)
    scale = tl.load(weight + channel, valid, other=0.0) * deviation
    tl.store(weight_gradient + channel, product * deviation, valid)
    tl.store(bias_gradient + channel, total, valid)
    if training:
        tl.store(slope + channel, -scale * deviation * deviation * product / rows, valid)
        tl.store(offset + channel, -scale * total / rows, valid)
    else:
        tl.store(slope + channel, tl.zeros((block_channels,), tl.float32), valid)
        tl.store(offset + channel, tl.zeros((block_channels,), tl.float32), valid)


@named_kernel(do_not_specialize=COUNTS)
def input_gradient_kernel(
    gradient,
    x,
    input_gradient,
    mean,
    inverse,
    weight,
    bias,
    slope,
    offset,
    rows,
    channels,
    tiles,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    masked: tl.constexpr,
    relu: tl.constexpr,
):
    """g weight / deviation + (x - mean) slope + offset, g as in reduce_kernel; apply's grid."""
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    center = load_channels(mean, channel, channels, masked)
    scale = load_scale(weight, inverse, channel, channels, masked)
    steepness = load_channels(slope, channel, channels, masked)
    constant = load_channels(offset, channel, channels, masked)
    if relu:
        shift = load_channels(bias, channel, channels, masked)
    row = tl.arange(0, block_rows)
    place = row[:, None] * channels + channel[None, :]
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    for back in range(1, tiles + 1):
        first = ((block + 1) * tiles - back) * block_rows
        valid = row < rows - first
        inside = spread_mask(valid, channel, channels, masked, block_rows, block_channels)
        start = first.to(tl.int64) * channels
        g = load_tile(gradient + start, place, inside, True)
        distance = load_tile(x + start, place, inside, True) - center
        if relu:
            g = tl.where(distance * scale + shift > 0.0, g, 0.0)
        result = g * scale + (distance * steepness + constant)
        tl.store(
            input_gradient + start + place,
            result.to(input_gradient.dtype.element_ty),
            inside,
        )
