"""Writer of .safetensors files that holds one tensor in memory at a time.

The same tensors and texts make the same bytes. Source of the format: huggingface/safetensors
README.md: the header's length in 8 bytes, the header as JSON, the numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from harness.files import write_atomically
from harness.progress import Progress

ALIGNMENT_BYTES = 8
FP32_BYTES = 4


def make_header(shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str]) -> bytes:
    """Return the length and the header of a file of these fp32 tensors, in their order."""
    header: dict[str, object] = {"__metadata__": {"format": "pt", **metadata}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + FP32_BYTES * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % ALIGNMENT_BYTES)
    return len(text).to_bytes(8, "little") + text


def write_tensors(
    path: Path | str,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write fp32 tensors and texts about them as .safetensors, whole or not at all.

    read: returns the tensor of a name, asked for once and in order. Raises ValueError where it is
    not of its shape or not fp32, OSError where the file cannot be written, and what `read` raises.
    """
    progress = Progress(f"write {Path(path).name}", len(shapes), "tensors")
    with write_atomically(path, "wb") as file:
        file.write(make_header(shapes, metadata or {}))
        for count, (name, shape) in enumerate(shapes.items(), 1):
            tensor = read(name).detach().cpu().contiguous()
            if tuple(tensor.shape) != shape or tensor.dtype != torch.float32:
                raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {shape}")
            file.write(tensor.numpy().reshape(-1).data)
            del tensor  # before the next is read
            progress.update(count)
    progress.end()
