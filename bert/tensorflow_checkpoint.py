"""Reader of TensorFlow checkpoints (format V2: PREFIX.index and PREFIX.data-*), without TensorFlow.

The index is a table of variables: type, shape, place and checksum of each; the data files are the
bare numbers. Nothing is believed unchecked, and no more memory is taken than the files have bytes.
Source of the format: tensorflow core/protobuf/tensor_bundle.proto and core/util/tensor_bundle.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bert.crc32c import hash_crc32c, mask_crc
from bert.leveldb_table import TableError, read_table, read_varint, take
from harness.commands import InputError

LARGEST_INDEX_BYTES = 1 << 24  # that of BERT-large with its optimizer slots has 17,371
LARGEST_ENTRY_BYTES = 1 << 12
LONGEST_SHOWN = 120
MOST_DATA_FILES = 100_000
HEADER_KEY = b""
OBJECT_GRAPH_KEY = b"_CHECKPOINTABLE_OBJECT_GRAPH"  # of TensorFlow 2's checkpoints alone
# Numbers of tensorflow core/framework/types.proto.
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8", 19: "<f2"}
GIVE_PREFIX = "give the checkpoint's common beginning, as in tf1_ckpt/model.ckpt-28252"
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class Variable:
    """A variable's type and shape, and where its numbers lie. crc: masked CRC-32C."""

    dtype: str
    shape: tuple[int, ...]
    data_file: int
    offset: int
    size_bytes: int
    crc: int


def printable(name: str) -> str:
    """Return a name as a message may show it: on one line, and not endless."""
    shown = name if len(name) <= LONGEST_SHOWN else f"{name[:LONGEST_SHOWN]}..."
    return shown if shown.isprintable() else repr(shown)


def parse_message(data: bytes) -> list[tuple[int, Any]]:
    """Split a protobuf message into (field number, int or bytes). Raises TableError."""
    if len(data) > LARGEST_ENTRY_BYTES:
        raise TableError(f"an entry of {len(data)} bytes")
    fields: list[tuple[int, Any]] = []
    place = 0
    while place < len(data):
        tag, place = read_varint(data, place)
        kind = tag & 7
        value: Any
        if kind == VARINT:
            value, place = read_varint(data, place)
        elif kind == BYTES:
            size, place = read_varint(data, place)
            value, place = take(data, place, size)
        elif kind in (FIXED32, FIXED64):
            content, place = take(data, place, 4 if kind == FIXED32 else 8)
            value = int.from_bytes(content, "little")
        else:
            raise TableError(f"a field of the unknown kind {kind}")
        fields.append((tag >> 3, value))
    return fields


def get_number(fields: dict[int, Any], field: int) -> int:
    """Return a numeric field, 0 where it was left out. Raises TableError."""
    value = fields.get(field, 0)
    if not isinstance(value, int):
        raise TableError(f"field {field} is no number")
    return value


def parse_shape(data: Any) -> tuple[int, ...]:
    """Read a TensorShapeProto. Raises TableError where a size is unknown or negative."""
    if not isinstance(data, bytes):
        raise TableError("a shape is no message")
    shape = []
    for field, dimension in parse_message(data):
        if field != 2 or not isinstance(dimension, bytes):
            raise TableError("a shape of unknown rank")
        shape.append(get_number(dict(parse_message(dimension)), 1))
    if any(size >= 1 << 62 for size in shape) or len(shape) > 8:
        raise TableError("a shape is not possible")
    return tuple(shape)


def parse_variable(data: bytes) -> Variable:
    """Read a BundleEntryProto. Raises TableError."""
    fields = dict(parse_message(data))
    number = get_number(fields, 1)
    if number not in DTYPES:
        raise TableError(f"the type number {number} is none of {sorted(DTYPES)}")
    if 7 in fields:
        raise TableError("it is stored in slices, which no BERT checkpoint is")
    shape = parse_shape(fields.get(2, b""))
    variable = Variable(
        dtype=DTYPES[number],
        shape=shape,
        data_file=get_number(fields, 3),
        offset=get_number(fields, 4),
        size_bytes=get_number(fields, 5),
        crc=get_number(fields, 6),
    )
    if math.prod(shape) * np.dtype(variable.dtype).itemsize != variable.size_bytes:
        raise TableError(f"the shape {shape} does not fit {variable.size_bytes} bytes")
    return variable


class TensorflowCheckpoint:
    """A checkpoint: its variables by name, each read when asked for.

    prefix: the common beginning of the file names, as in tf1_ckpt/model.ckpt-28252. Raises
    InputError naming file, variable and what is wrong with it; OSError where a file is unreadable.
    """

    def __init__(self, prefix: Path | str) -> None:
        self.prefix = Path(prefix)
        if self.prefix.name in ("", ".."):
            raise InputError(f"{prefix} is a folder: {GIVE_PREFIX}")
        self.index_path = self.prefix.with_name(f"{self.prefix.name}.index")
        if not self.index_path.is_file():
            raise InputError(f"{self.index_path} is missing: {GIVE_PREFIX}")
        with open(self.index_path, "rb") as file:
            content = file.read(LARGEST_INDEX_BYTES + 1)
        if len(content) > LARGEST_INDEX_BYTES:
            raise InputError(
                f"{self.index_path} is too large for a checkpoint's index: {GIVE_PREFIX}"
            )
        try:
            table = read_table(content)
            self.data_files = self._parse_header(table.pop(HEADER_KEY, b""))
        except TableError as error:
            raise self._refuse(str(error)) from None
        if OBJECT_GRAPH_KEY in table:
            raise InputError(
                f"{self.index_path} is a checkpoint of TensorFlow 2: give that of TensorFlow 1, as "
                "in tf1_ckpt/model.ckpt-28252"
            )
        self.variables = {}
        for key, value in table.items():
            try:
                self.variables[key.decode("utf-8")] = parse_variable(value)
            except (TableError, UnicodeDecodeError) as error:
                name = printable(key.decode("utf-8", "backslashreplace"))
                raise self._refuse(f"variable {name}: {error}") from None
        self._check_places()

    def read(self, name: str) -> npt.NDArray[Any]:
        """Return a variable as an array of its own, checked against its checksum."""
        variable = self.variables[name]
        path = self._get_data_path(variable.data_file)
        content = np.fromfile(path, np.uint8, variable.size_bytes, offset=variable.offset)
        if len(content) != variable.size_bytes:
            raise InputError(f"{path}: variable {printable(name)} is cut off: fetch the file again")
        if mask_crc(hash_crc32c(content)) != variable.crc:
            raise InputError(
                f"{path}: variable {printable(name)} does not match its checksum: fetch the file "
                "again"
            )
        return content.view(variable.dtype).reshape(variable.shape)

    def _parse_header(self, data: bytes) -> int:
        """Read a BundleHeaderProto and return the number of data files. Raises TableError."""
        fields = dict(parse_message(data))
        files = get_number(fields, 1)
        if not 1 <= files <= MOST_DATA_FILES:
            raise TableError(f"it names {files} data files")
        if get_number(fields, 2):
            raise TableError("its numbers are big-endian")
        return files

    def _get_data_path(self, number: int) -> Path:
        name = f"{self.prefix.name}.data-{number:05d}-of-{self.data_files:05d}"
        return self.prefix.with_name(name)

    def _check_places(self) -> None:
        sizes: dict[int, int] = {}
        for name, variable in self.variables.items():
            number = variable.data_file
            if number >= self.data_files:
                raise self._refuse(
                    f"variable {printable(name)} lies in data file {number} of {self.data_files}"
                )
            path = self._get_data_path(number)
            if number not in sizes:
                try:
                    sizes[number] = path.stat().st_size
                except FileNotFoundError:
                    raise InputError(f"{path} is missing: fetch the whole checkpoint") from None
            end = variable.offset + variable.size_bytes
            if end > sizes[number]:
                raise InputError(
                    f"{path} has {sizes[number]} bytes, but variable {printable(name)} ends at "
                    f"{end}: fetch the file again"
                )

    def _refuse(self, reason: str) -> InputError:
        return InputError(
            f"{self.index_path} is not a sound TensorFlow checkpoint index ({reason}): fetch it "
            "again"
        )
