"""Triton kernels of two normalisations that are added: the passes in which both take part.

Layouts, sweeps and sums as harness.ops.batch_norm_kernels, which has the statistics of each and the
merges. Where the ReLU was zero is computed again from both inputs, which backward reads anyway.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton.language as tl

from harness.ops.batch_norm_tiles import (
    COUNTS,
    cut,
    load_channels,
    load_scale,
    load_tile,
    spread_mask,
    store_part,
)
from harness.ops.kernels import named_kernel


@named_kernel(do_not_specialize=COUNTS)
def apply_pair_kernel(
    x,
    other,
    y,
    mean,
    spread,
    weight,
    bias,
    other_mean,
    other_spread,
    other_weight,
    other_bias,
    rows,
    channels,
    tiles,
    eps,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    masked: tl.constexpr,
    is_variance: tl.constexpr,
):
    """y = the larger of 0 and the sum of x and other, each normalised; grid as apply_kernel's."""
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    center = load_channels(mean, channel, channels, masked)
    inverse = load_channels(spread, channel, channels, masked)
    other_center = load_channels(other_mean, channel, channels, masked)
    other_inverse = load_channels(other_spread, channel, channels, masked)
    if is_variance:
        inverse = 1.0 / tl.sqrt_rn(inverse + eps)
        other_inverse = 1.0 / tl.sqrt_rn(other_inverse + eps)
    scale = load_channels(weight, channel, channels, masked) * inverse
    shift = load_channels(bias, channel, channels, masked)
    other_scale = load_channels(other_weight, channel, channels, masked) * other_inverse
    other_shift = load_channels(other_bias, channel, channels, masked)
    row = tl.arange(0, block_rows)
    place = row[:, None] * channels + channel[None, :]
    block = tl.num_programs(1) - 1 - tl.program_id(1)
    for back in range(1, tiles + 1):
        first = ((block + 1) * tiles - back) * block_rows
        valid = row < rows - first
        inside = spread_mask(valid, channel, channels, masked, block_rows, block_channels)
        start = first.to(tl.int64) * channels
        distance = load_tile(x + start, place, inside, True) - center
        other_distance = load_tile(other + start, place, inside, True) - other_center
        value = (distance * scale + shift) + (other_distance * other_scale + other_shift)
        value = cut(value)
        tl.store(y + start + place, value.to(y.dtype.element_ty), inside)


@named_kernel(do_not_specialize=COUNTS)
def reduce_pair_kernel(
    gradient,
    gradient_2,
    x,
    other,
    masked_gradient,
    mean,
    inverse,
    weight,
    bias,
    other_mean,
    other_inverse,
    other_weight,
    other_bias,
    sums,
    products,
    other_products,
    rows,
    channels,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    masked: tl.constexpr,
    add: tl.constexpr,
):
    """Sums over a part of the rows of g, and of g times each input's distance from its mean.

    g is the gradient (plus gradient_2 where `add`), zero where the ReLU put out zero; it is written
    once, in its own type, to masked_gradient, and summed as it was rounded. Grid and parts: as
    statistics_kernel. sums, products, other_products: (parts, channels), fp32.
    """
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    part, parts = tl.program_id(1), tl.num_programs(1)
    center = load_channels(mean, channel, channels, masked)
    scale = load_scale(weight, inverse, channel, channels, masked)
    shift = load_channels(bias, channel, channels, masked)
    other_center = load_channels(other_mean, channel, channels, masked)
    other_scale = load_scale(other_weight, other_inverse, channel, channels, masked)
    other_shift = load_channels(other_bias, channel, channels, masked)
    row = tl.arange(0, block_rows)
    place = row[:, None] * channels + channel[None, :]
    total = tl.zeros((block_rows, block_channels), tl.float32)
    product = tl.zeros((block_rows, block_channels), tl.float32)
    other_product = tl.zeros((block_rows, block_channels), tl.float32)
    offset = (part * block_rows).to(tl.int64) * channels
    step = (parts * block_rows).to(tl.int64) * channels
    for first in range(part * block_rows, rows, parts * block_rows):
        valid = row < rows - first
        inside = spread_mask(valid, channel, channels, masked, block_rows, block_channels)
        g = load_tile(gradient + offset, place, inside, True)
        if add:
            g += load_tile(gradient_2 + offset, place, inside, True)
        distance = load_tile(x + offset, place, inside, True) - center
        other_distance = load_tile(other + offset, place, inside, True) - other_center
        value = (distance * scale + shift) + (other_distance * other_scale + other_shift)
        rounded = tl.where(value > 0.0, g, 0.0).to(masked_gradient.dtype.element_ty)
        tl.store(masked_gradient + offset + place, rounded, inside)
        g = rounded.to(tl.float32)
        total += g
        product += g * distance
        other_product += g * other_distance
        offset += step
    store_part(sums, total, part, channel, channels)
    store_part(products, product, part, channel, channels)
    store_part(other_products, other_product, part, channel, channels)


@named_kernel(do_not_specialize=COUNTS)
def input_gradient_pair_kernel(
    gradient,
    x,
    other,
    input_gradient,
    other_gradient,
    mean,
    inverse,
    weight,
    slope,
    offset,
    other_mean,
    other_inverse,
    other_weight,
    other_slope,
    other_offset,
    rows,
    channels,
    tiles,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
    masked: tl.constexpr,
):
    """The gradients of both inputs from the masked one, each as input_gradient_kernel's."""
    channel = tl.program_id(0) * block_channels + tl.arange(0, block_channels)
    center = load_channels(mean, channel, channels, masked)
    scale = load_scale(weight, inverse, channel, channels, masked)
    steepness = load_channels(slope, channel, channels, masked)
    constant = load_channels(offset, channel, channels, masked)
    other_center = load_channels(other_mean, channel, channels, masked)
    other_scale = load_scale(other_weight, other_inverse, channel, channels, masked)
    other_steepness = load_channels(other_slope, channel, channels, masked)
    other_constant = load_channels(other_offset, channel, channels, masked)
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
        result = g * scale + (distance * steepness + constant)
        made = input_gradient + start + place
        tl.store(made, result.to(input_gradient.dtype.element_ty), inside)
        distance = load_tile(other + start, place, inside, True) - other_center
        result = g * other_scale + (distance * other_steepness + other_constant)
        made = other_gradient + start + place
        tl.store(made, result.to(other_gradient.dtype.element_ty), inside)
