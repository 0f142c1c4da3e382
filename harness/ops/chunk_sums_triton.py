"""Sums over the chunks of each tensor of a flat buffer, for the updates of LARS and LAMB.

The first pass of an update leaves two sums for every chunk; this adds up those of each tensor, in
an order that does not depend on the machine.
"""

# Triton's language has no types that mypy could check.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor

from harness.ops.kernels import Launch, divide_up, named_kernel, register_operation

# Elements that one program of an update reads of each buffer, and warps that share them: eight
# 16-bit or four fp32 numbers a thread and access.
TILE_ELEMENTS = 2048
TILE_WARPS = 8
SUMMED_CHUNKS = 1024


@named_kernel
def sum_kernel(partials, tensor_chunks, sums, block: tl.constexpr):
    """One program a tensor: both sums over its chunks."""
    tensor = tl.program_id(0)
    first = tl.load(tensor_chunks + 2 * tensor)
    last = tl.load(tensor_chunks + 2 * tensor + 1)
    number = tl.arange(0, 2 * block)
    total = tl.zeros((2 * block,), tl.float32)
    for start in range(first, last, block):
        place = partials + 2 * start  # 32 bits reach 2^30 chunks
        total += tl.load(place + number, number < 2 * (last - start), other=0.0)
    both = tl.sum(tl.reshape(total, (block, 2)), 0)
    tl.store(sums + 2 * tensor + tl.arange(0, 2), both)


def _sum_chunks(partials: Tensor, tensor_chunks: Tensor) -> Tensor:
    tensors = tensor_chunks.size(0)
    sums = torch.empty(tensors, 2, dtype=torch.float32, device=partials.device)
    launch = Launch(sum_kernel, (tensors,), {"block": SUMMED_CHUNKS}, warps=8)
    launch(partials, tensor_chunks, sums)
    return sums


# partials: (chunks, 2) fp32; tensor_chunks: (tensors, 2) int32. Returns (tensors, 2) fp32.
sum_chunks = register_operation(
    "sum_chunks(Tensor partials, Tensor tensor_chunks) -> Tensor", _sum_chunks
)


def plan_tiles(kernel: object, chunks: int, chunk: int, **constants: bool) -> Launch:
    """Tiles of whole chunks, TILE_ELEMENTS in each."""
    rows = max(1, TILE_ELEMENTS // chunk)
    sizes: dict[str, int | float | bool] = {"chunk": chunk, "rows": rows, **constants}
    return Launch(kernel, (divide_up(chunks, rows),), sizes, TILE_WARPS)


def check_buffers(owner: str, chunk_tensors: Tensor, *buffers: Tensor | None) -> int:
    """The size of a chunk; raises ValueError where a buffer is not made of the same chunks."""
    given = [buffer for buffer in buffers if buffer is not None]
    length, chunks = given[0].numel(), chunk_tensors.numel()
    if any(buffer.shape != (length,) or not buffer.is_contiguous() for buffer in given):
        raise ValueError(f"{owner}: buffers must be contiguous and of one length")
    chunk = length // chunks
    if chunk * chunks != length or chunk & (chunk - 1) or chunk > TILE_ELEMENTS:
        raise ValueError(f"{owner}: {length} elements are not {chunks} chunks of a power of two")
    return chunk
