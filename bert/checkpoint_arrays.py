"""Reader of .npz files that holds a stranger's file to what it says, and that to bounds.

numpy's own reader believes a header before it has seen the numbers, and a header may claim any
memory. Source of the format: numpy/lib/format.py; of the archive: PKWARE's APPNOTE.TXT.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from bert.tensorflow_checkpoint import printable
from harness.commands import InputError

MAGIC = b"\x93NUMPY"
LENGTH_BYTES = {1: 2, 2: 4, 3: 4}  # of the header's length, by the format's version
LONGEST_HEADER_BYTES = 10_000
HEADER = re.compile(
    r"\{'descr': ?'([^']*)', ?'fortran_order': ?(True|False), ?'shape': ?\(([\d, ]*)\),? ?\}\s*"
)
NUMBERS = re.compile(r"[<>=|]?[iuf][1248]")
SIZES = re.compile(r"([1-9]\d{0,11}), ?([1-9]\d{0,11}),?")
ENCRYPTED = 1
LARGEST_TABLES_BYTES = 1 << 31  # of all tables together, at the 8 bytes a number they come to take

Table = npt.NDArray[np.int64]


class ArrayError(ValueError):
    """The bytes are no sound array; the message says why."""


def read_tables(path: Path, names: Sequence[str], prefix: str = "") -> dict[str, Table]:
    """Read two-dimensional arrays of whole numbers, (rows, columns), neither 0, as int64.

    prefix: of the names in the file, if any there has it. Raises InputError naming the array and
    what is wrong with it; OSError where the file is unreadable.
    """
    with open(path, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                stored = {info.filename: info for info in archive.infolist()}
                prefix = prefix if any(f"{prefix}{name}.npy" in stored for name in names) else ""
                missing = [name for name in names if f"{prefix}{name}.npy" not in stored]
                if missing:
                    raise InputError(
                        f"{path} lacks {', '.join(missing)}: write it with "
                        "python -m bert.prepare_data export"
                    )
                tables: dict[str, Table] = {}
                for name in names:
                    room_bytes = LARGEST_TABLES_BYTES - sum(t.nbytes for t in tables.values())
                    info = stored[f"{prefix}{name}.npy"]
                    tables[name] = read_table(archive, info, f"{path}: {name}", room_bytes)
                return tables
        except (
            # What zipfile raises at files that are none, damaged, or of another making.
            *(ValueError, EOFError, KeyError, RuntimeError, OSError),
            *(zipfile.BadZipFile, zlib.error),
        ) as error:
            reason = printable(str(error))
            raise InputError(f"{path} is not a sound .npz file ({reason})") from None


def read_table(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, what: str, room_bytes: int
) -> Table:
    """Read one array. Raises InputError, ArrayError, and what zipfile raises."""
    if info.flag_bits & ENCRYPTED or info.compress_type not in (
        zipfile.ZIP_STORED,
        zipfile.ZIP_DEFLATED,
    ):
        raise ArrayError("an array is encrypted or compressed in a way that numpy never does")
    with archive.open(info) as member:
        header, header_bytes = read_header(member)
        dtype, in_columns, sizes = header
        size = SIZES.fullmatch(sizes)
        if not NUMBERS.fullmatch(dtype) or not size:
            raise InputError(f"{what} is not a table of numbers with a row an example")
        shape = int(size[1]), int(size[2])
        count = shape[0] * shape[1]
        if count * np.dtype(np.int64).itemsize > room_bytes:
            raise InputError(f"{what} is larger than the memory for it: give fewer examples")
        content_bytes = count * np.dtype(dtype).itemsize
        if info.file_size != header_bytes + content_bytes:
            raise ArrayError(f"an array of {info.file_size} bytes does not fit its shape {shape}")
        content = read_exactly(member, content_bytes)
        read_exactly(member, 0, last=True)
    values = np.frombuffer(content, dtype).reshape(shape, order="F" if in_columns else "C")
    with np.errstate(invalid="ignore"):
        table: Table = np.ascontiguousarray(values).astype(np.int64)
    if not np.array_equal(table, values):
        raise InputError(f"{what} holds numbers that are not whole")
    return table


def read_header(member: IO[bytes]) -> tuple[tuple[str, bool, str], int]:
    """Read an array's type, whether it lies column by column, and its sizes as text; and the bytes.

    Raises ArrayError.
    """
    beginning = read_exactly(member, len(MAGIC) + 2)
    width = LENGTH_BYTES.get(beginning[len(MAGIC)])
    if not beginning.startswith(MAGIC) or width is None:
        raise ArrayError("an array does not begin as numpy's do")
    length = int.from_bytes(read_exactly(member, width), "little")
    if length > LONGEST_HEADER_BYTES:
        raise ArrayError(f"an array's header claims {length} bytes")
    match = HEADER.fullmatch(read_exactly(member, length).decode("latin-1"))
    if not match:
        raise ArrayError("an array's header is not as numpy writes it")
    return (match[1], match[2] == "True", match[3]), len(beginning) + width + length


def read_exactly(member: IO[bytes], count: int, last: bool = False) -> bytes:
    """Read so many bytes, which are `last` the last. Raises ArrayError."""
    content = member.read(count)
    if len(content) != count or (last and member.read(1)):
        raise ArrayError("an array has fewer or more bytes than it says")
    return content
