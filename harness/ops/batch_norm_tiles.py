"""Parts of the Triton kernels of batch normalisation: tiles, vectors and masks, read and written.

A tile is some rows of some channels of a (rows, channels) matrix; masked says that the last tile
lacks channels.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

# Numbers of which no variants are compiled: no address depends on what divides them.
COUNTS = ["rows", "parts", "tiles", "tile_rows"]


@triton.jit
def load_channels(vector, channel, channels, masked: tl.constexpr):
    """A program's part of a vector with one number a channel, in fp32, as one row."""
    if masked:
        part = tl.load(vector + channel, channel < channels, other=0.0)
    else:
        part = tl.load(vector + channel)
    return part.to(tl.float32)[None, :]


@triton.jit
def load_tile(start, place, inside, masked: tl.constexpr):
    """A tile of activations in fp32; 0 outside."""
    if masked:
        tile = tl.load(start + place, inside, other=0.0)
    else:
        tile = tl.load(start + place)
    return tile.to(tl.float32)


@triton.jit
def load_scale(weight, inverse, channel, channels, masked: tl.constexpr):
    """A program's part of weight / deviation."""
    scale = load_channels(weight, channel, channels, masked)
    return scale * load_channels(inverse, channel, channels, masked)


@triton.jit
def cut(value):
    """ReLU. What is no number stays none: a maximum of Triton's would put 0 in its place."""
    return tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def spread_mask(
    valid,
    channel,
    channels,
    masked: tl.constexpr,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Which elements of a tile are there: valid says it of its rows, masked that channels lack."""
    inside = tl.broadcast_to(valid[:, None], (block_rows, block_channels))
    if masked:
        inside = inside & (channel < channels)[None, :]
    return inside


@triton.jit
def store_part(sums, tile, part, channel, channels):
    """Write a tile's sums over its rows, as one part of (parts, channels)."""
    tl.store(sums + part.to(tl.int64) * channels + channel, tl.sum(tile, 0), channel < channels)


@triton.jit
def store_mask(
    mask,
    positive,
    row,
    rows,
    channels,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Write a tile of truths, a bit each: eight neighbouring channels make a byte."""
    bits = tl.reshape(positive.to(tl.int32), (block_rows, block_channels // 8, 8))
    bits = tl.sum(bits << tl.arange(0, 8)[None, None, :], 2)
    width = channels // 8
    byte = tl.program_id(0) * (block_channels // 8) + tl.arange(0, block_channels // 8)
    place = row[:, None] * width + byte[None, :]
    inside = (row < rows)[:, None] & (byte < width)[None, :]
    tl.store(mask + place, bits.to(tl.uint8), inside)


@triton.jit
def load_mask(
    mask,
    row,
    rows,
    channels,
    block_rows: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Read a tile of truths that `store_mask` wrote; all false outside."""
    width = channels // 8
    byte = tl.program_id(0) * (block_channels // 8) + tl.arange(0, block_channels // 8)
    place = row[:, None] * width + byte[None, :]
    inside = (row < rows)[:, None] & (byte < width)[None, :]
    bits = tl.load(mask + place, inside, other=0).to(tl.int32)
    bits = tl.broadcast_to(bits[:, :, None], (block_rows, block_channels // 8, 8))
    bits = (bits >> tl.arange(0, 8)[None, None, :]) & 1
    return tl.reshape(bits, (block_rows, block_channels)) != 0
