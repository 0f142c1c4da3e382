"""Writers of checkpoint files for tests: whole ones of any size, and hostile ones.

python -m tests.bert.checkpoint_files FOLDER writes one of BERT-large at its true size,
4,034,713,312 bytes with optimizer slots, those being holes in the file, to measure with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bert.checkpoint_names import name_in_tensorflow
from bert.checkpoint_weights import list_shapes
from bert.crc32c import hash_crc32c, mask_crc
from bert.leveldb_table import PLAIN
from bert.model_config import GOOGLE_CONSTANTS, GOOGLE_KEYS, ModelConfig
from harness.commands import GOOD, Parser, run_command
from tests.bert.conftest import MAGIC, TableWriter, frame_block, write_block, write_varint

PREFIX = "model.ckpt-28252"
FLOAT, INT64 = 1, 9
LARGE = ModelConfig(30522, 1024, 24, 16, 4096, 512, 2, 0.1, 0.1)
TINY = ModelConfig(30, 8, 1, 2, 16, 12, 2, 0.1, 0.1)


def write_field(number: int, value: int | bytes) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, bytes):
        return write_varint(number << 3 | 2) + write_varint(len(value)) + value
    return write_varint(number << 3) + write_varint(value)


def pack_shape(array: np.ndarray) -> bytes:
    """An array's shape as a TensorShapeProto."""
    return b"".join(write_field(2, write_field(1, size)) for size in array.shape)


class Bundle:
    """Writes a TensorFlow checkpoint of some arrays, with any field of any entry changed."""

    def __init__(self, folder: Path, writer: TableWriter | None = None) -> None:
        self.prefix, self.writer = folder / PREFIX, writer or TableWriter()

    def entry(self, array: np.ndarray, changes: dict[str, Any]) -> bytes:
        content = array.tobytes()
        fields: dict[str, Any] = {
            "dtype": FLOAT if array.dtype == np.float32 else INT64,
            "shape": pack_shape(array),
            "data_file": 0,
            "size": len(content),
            "crc": mask_crc(hash_crc32c(content)),
            "more": b"",
        }
        fields.update(changes)
        message = b"".join(
            write_field(number, fields[key])
            for number, key in enumerate(("dtype", "shape", "data_file", "offset", "size"), 1)
        )
        return message + b"\x35" + fields["crc"].to_bytes(4, "little") + fields["more"]

    def write(
        self, arrays: dict[str, np.ndarray], header: bytes | None = None, **changes: Any
    ) -> Path:
        """Write the arrays in the order of their names; returns the prefix."""
        header = write_field(1, 1) + write_field(3, b"\x08\x01") if header is None else header
        entries, offset = [(b"", header)], 0
        for name in sorted(arrays):
            entry = self.entry(arrays[name], {"offset": offset, **changes})
            entries.append((name.encode(), entry))
            offset += arrays[name].nbytes
        data = b"".join(arrays[name].tobytes() for name in sorted(arrays))
        self.prefix.with_name(f"{PREFIX}.index").write_bytes(self.writer.write(entries))
        self.prefix.with_name(f"{PREFIX}.data-00000-of-00001").write_bytes(data)
        return self.prefix


def make_variables(
    config: ModelConfig, slots: tuple[str, ...] = ("adam_m", "adam_v"), seed: int = 1
) -> dict[str, np.ndarray]:
    """TensorFlow's variables of a BERT, every number another, with what its optimizer keeps."""
    rng = np.random.default_rng(seed)
    variables: dict[str, np.ndarray] = {"global_step": np.asarray(28252, np.int64)}
    for power in ("beta1_power", "beta2_power"):
        variables[power] = np.asarray(0.9, np.float32)
    for ours, shape in list_shapes(config).items():
        name, transposed = name_in_tensorflow(ours)
        shape = shape[::-1] if transposed else shape
        variables[name] = rng.standard_normal(shape, np.float32)
        for slot in slots:
            variables[f"{name}/{slot}"] = rng.standard_normal(shape, np.float32)
    return variables


def describe_config(config: ModelConfig) -> dict[str, object]:
    """The content of bert_config.json."""
    return GOOGLE_CONSTANTS | {key: getattr(config, field) for key, field in GOOGLE_KEYS.items()}


def frame_table(blocks: list[bytes], handles: list[tuple[int, int]], kind: int = PLAIN) -> bytes:
    """A table of blocks as they are, every checksum right, its index as told."""
    data = b"".join(frame_block(block, kind) for block in blocks)
    index = [
        (number.to_bytes(4, "big"), write_varint(offset) + write_varint(size))
        for number, (offset, size) in enumerate(handles)
    ]
    block = write_block(index)
    handle = write_varint(len(data)) + write_varint(len(block))
    data += frame_block(block, PLAIN)
    return data + (bytes(2) + handle).ljust(40, b"\0") + MAGIC.to_bytes(8, "little")


def write_full_size(folder: Path, config: ModelConfig = LARGE) -> Path:
    """Write a checkpoint as large as its model's with two slots a variable; returns the prefix."""
    bundle, rng = Bundle(folder), np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {}
    for ours, shape in list_shapes(config).items():
        name, transposed = name_in_tensorflow(ours)
        for slot in ("", "/LAMB", "/LAMB_1"):
            shapes[name + slot] = shape[::-1] if transposed else shape
    arrays = dict.fromkeys(("beta1_power", "beta2_power"), np.asarray(0.9, np.float32))
    arrays["global_step"] = np.asarray(28252, np.int64)
    entries, offset = [(b"", write_field(1, 1))], 0
    with open(folder / f"{PREFIX}.data-00000-of-00001", "wb") as file:
        for name in sorted([*shapes, *arrays]):
            file.seek(offset)
            if "/LAMB" in name:
                hole = np.broadcast_to(np.float32(0), shapes[name])
                changes = {"offset": offset, "size": hole.nbytes, "crc": 0}
                entry, size = (
                    bundle.entry(hole[:0], changes | {"shape": pack_shape(hole)}),
                    hole.nbytes,
                )
            else:
                array = arrays.get(name)
                if array is None:
                    array = rng.standard_normal(shapes[name], np.float32)
                file.write(array.tobytes())
                entry, size = bundle.entry(array, {"offset": offset}), array.nbytes
            entries.append((name.encode(), entry))
            offset += size
        file.truncate(offset)
    (folder / f"{PREFIX}.index").write_bytes(bundle.writer.write(entries))
    (folder / "bert_config.json").write_text(json.dumps(describe_config(config)))
    return bundle.prefix


def main(arguments: Sequence[str]) -> int:
    """Write the checkpoint and say where it is."""
    parser = Parser(prog="python -m tests.bert.checkpoint_files", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder
    folder.mkdir(parents=True, exist_ok=True)
    print(write_full_size(folder))
    return GOOD


if __name__ == "__main__":
    run_command(main)
