"""The stored data set: RecordIO shards of original JPEG bytes, one index a split, one manifest.

A split is a few `.rec` files read one after the other as if they were one, an `.idx` file with
the byte offset of every record in that sequence, and a `.lst` file with the label and the
original name of every record. Framing as MXNet and dmlc-core define it, so that
`fn.readers.mxnet` of DALI reads it.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

from harness.commands import InputError
from harness.files import write_atomically

SCHEMA = 1
SPLITS = ("train", "val")
MANIFEST = "manifest.json"
PACK = "python -m resnet.prepare_data pack"

MAGIC = struct.pack("<I", 0xCED7230A)
FRAME = struct.Struct("<II")  # magic, continuation flag << 29 | length
IMAGE_HEADER = struct.Struct("<IfQQ")  # extra labels, label, record number, second number
LENGTH_LIMIT = 1 << 29
PART_MARGIN = 1.05
WHOLE, FIRST, MIDDLE, LAST = 0, 1, 2, 3


class Record(NamedTuple):
    """One image of a shard; `offset` counts bytes from the start of its file."""

    offset: int
    label: int
    number: int
    image: bytes


@dataclass(frozen=True)
class StoredFile:
    """A file of the data set beside its shards."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """One RecordIO file; decoded_bytes: of its images as RGB, 3 a pixel, by their headers."""

    file: str
    images: int
    bytes: int
    sha256: str
    decoded_bytes: int


@dataclass(frozen=True)
class Split:
    """The training or the validation images; record numbers run through all its shards."""

    images: int
    index: StoredFile
    names: StoredFile
    shards: tuple[Shard, ...]

    def files(self) -> tuple[StoredFile | Shard, ...]:
        """List every file of the split."""
        return (*self.shards, self.index, self.names)

    def estimate_decoded_bytes(self, start: int, stop: int) -> int:
        """Bytes of the records from `start` up to `stop`, decoded: exact for shards in whole.

        Of a shard in part its share of the shard's bytes, and PART_MARGIN more: records lie in
        random order, so a share of thousands of images is within one or two per cent.
        """
        total, first = 0.0, 0
        for shard in self.shards:
            inside = min(stop, first + shard.images) - max(start, first)
            if inside > 0:
                margin = 1.0 if inside == shard.images else PART_MARGIN
                total += margin * shard.decoded_bytes * inside / shard.images
            first += shard.images
        return math.ceil(total)


@dataclass(frozen=True)
class Manifest:
    """What a packed data set holds. Labels are positions in `classes`."""

    folder: Path
    seed: int
    classes: tuple[str, ...]
    train: Split
    val: Split

    def split(self, name: str) -> Split:
        """Return the split called "train" or "val"; KeyError for another name."""
        return {"train": self.train, "val": self.val}[name]

    def find_name(self, split: str, path: str, offset: int) -> str | None:
        """Find the original name of the image at a byte offset of a shard, None if unlisted."""
        stored, base = self.split(split), 0
        for shard in stored.shards:
            if shard.file == Path(path).name:
                break
            base += shard.bytes
        index, names = (self.folder / item.file for item in (stored.index, stored.names))
        with open(index, encoding="ascii") as places, open(names, encoding="utf-8") as lines:
            for place, line in zip(places, lines, strict=False):
                if int(place.split("\t")[1]) == base + offset:
                    return line.rstrip("\n").split("\t")[2]
        return None

    def files(self) -> list[Path]:
        """List the paths of every file of both splits, the manifest itself left out."""
        return [self.folder / item.file for item in (*self.train.files(), *self.val.files())]


def frame_image(label: int, number: int, image: bytes) -> bytes:
    """Make the bytes of one record: image header, payload, RecordIO framing, padding to 4 bytes.

    Where the payload holds the magic number at a multiple of 4, dmlc-core's format cuts the
    record there and leaves the magic number out, so that a reader can find record starts.
    Raises ValueError for an image of 512 MiB or more.
    """
    payload = IMAGE_HEADER.pack(0, float(label), number, 0) + image
    if len(payload) >= LENGTH_LIMIT:
        raise ValueError(f"{len(image)} bytes: a record holds less than 512 MiB")
    parts, start, found = [], 0, payload.find(MAGIC)
    while found >= 0:
        if found % 4 == 0:
            parts.append(payload[start:found])
            start = found + 4
        found = payload.find(MAGIC, found + 1 if found % 4 else start)
    parts.append(payload[start:])
    flags = [WHOLE] if len(parts) == 1 else [FIRST, *[MIDDLE] * (len(parts) - 2), LAST]
    return b"".join(
        MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4)
        for flag, part in zip(flags, parts, strict=True)
    )


def read_records(file: IO[bytes]) -> Iterator[Record]:
    """Read the records of an open shard in order, one in memory at a time.

    Raises ValueError, naming the byte offset, at the first place that is not a record.
    """
    offset = 0
    while True:
        payload, end = _read_payload(file, offset)
        if payload is None:
            return
        if len(payload) < IMAGE_HEADER.size:
            raise ValueError(f"record at byte {offset} is too short for an image header")
        extra_labels, label, number, _ = IMAGE_HEADER.unpack_from(payload)
        if extra_labels or label != int(label):
            raise ValueError(f"record at byte {offset} has a label that is not one whole number")
        yield Record(offset, int(label), number, payload[IMAGE_HEADER.size :])
        offset = end


def _read_payload(file: IO[bytes], offset: int) -> tuple[bytes | None, int]:
    parts: list[bytes] = []
    end = offset
    while True:
        head = file.read(FRAME.size)
        if not head and not parts:
            return None, end
        if len(head) < FRAME.size or head[:4] != MAGIC:
            raise ValueError(f"no record frame at byte {end}")
        word = FRAME.unpack(head)[1]
        flag, length = word >> 29, word & (LENGTH_LIMIT - 1)
        if flag not in ((MIDDLE, LAST) if parts else (WHOLE, FIRST)):
            raise ValueError(f"record part out of order at byte {end}")
        padded = length + -length % 4
        body = file.read(padded)
        if len(body) < padded:
            raise ValueError(f"the record at byte {offset} is cut off by the end of the file")
        parts.append(body[:length])
        end += FRAME.size + padded
        if flag in (WHOLE, LAST):
            return MAGIC.join(parts), end


def write_manifest(manifest: Manifest) -> None:
    """Write `manifest.json` into the manifest's folder, whole or not at all."""
    table: dict[str, Any] = {"schema": SCHEMA, **asdict(manifest)}
    del table["folder"]
    with write_atomically(manifest.folder / MANIFEST) as file:
        json.dump(table, file, indent=1)
        file.write("\n")


def parse_manifest(folder: Path | str) -> Manifest:
    """Read `manifest.json` without looking at the other files.

    Raises InputError naming the file and the key where it is missing or malformed.
    """
    path = Path(folder) / MANIFEST
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: make the data set with `{PACK}`") from None
    except NotADirectoryError:
        raise InputError(f"{folder} is not a folder: name the output of `{PACK}`") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}): run `{PACK}` again") from None
    try:
        return _build_manifest(Path(folder), table)
    except (KeyError, TypeError, ValueError) as error:
        what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(f"{path}: {what}: run `{PACK}` again") from None


def _build_manifest(folder: Path, table: Any) -> Manifest:
    if not isinstance(table, dict) or table.get("schema") != SCHEMA:
        raise ValueError(f"not a manifest of schema {SCHEMA}")
    classes = table["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("'classes' must be a list of names")
    if not classes or classes != sorted(set(classes)):
        raise ValueError("'classes' must be sorted, without repetitions, and not empty")
    seed = _whole_number(table, "seed", "")
    splits = {name: _build_split(table[name], name) for name in SPLITS}
    return Manifest(folder, seed, tuple(classes), **splits)


def _build_split(table: Any, name: str) -> Split:
    if not isinstance(table, dict) or not isinstance(table["shards"], list):
        raise TypeError(f"'{name}' must be an object with a list 'shards'")
    shards = tuple(_build_shard(item, name) for item in table["shards"])
    images = _whole_number(table, "images", name)
    if images < 1 or images != sum(shard.images for shard in shards):
        raise ValueError(f"'{name}.images' is {images}, which is not the sum over its shards")
    index = StoredFile(**_file_fields(table["index"], name))
    return Split(images, index, StoredFile(**_file_fields(table["names"], name)), shards)


def _build_shard(table: Any, split: str) -> Shard:
    fields, where = _file_fields(table, split), f"{split}.shards"
    counts = {key: _whole_number(table, key, where) for key in ("images", "decoded_bytes")}
    return Shard(**fields, **counts)


def _file_fields(table: Any, where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise TypeError(f"a file of '{where}' must be an object")
    file, digest = table["file"], table["sha256"]
    if not isinstance(file, str) or Path(file).name != file:
        raise ValueError(f"'{where}' names the file {file!r}, which is not a plain file name")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ValueError(f"'{where}': the sha256 of {file} is not 64 hexadecimal digits")
    return {"file": file, "bytes": _whole_number(table, "bytes", where), "sha256": digest}


def _whole_number(table: Any, key: str, where: str) -> int:
    value = table[key]
    if type(value) is not int or value < 0:
        name = f"{where}.{key}" if where else key
        raise ValueError(f"'{name}' is {value!r}, not a whole number from 0 up")
    return value


def find_size_faults(manifest: Manifest) -> list[str]:
    """Compare every file's presence and size with the manifest, by stat alone; no data is read.

    Returns one sentence a missing or wrong-sized file, empty where all is well.
    """
    faults = []
    for stored in (*manifest.train.files(), *manifest.val.files()):
        path = manifest.folder / stored.file
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            faults.append(f"{path} is missing ({stored.bytes:,} bytes expected)")
            continue
        if size != stored.bytes:
            faults.append(f"{path} has {size:,} bytes where {stored.bytes:,} are expected")
    return faults


def read_manifest(folder: Path | str) -> Manifest:
    """Read a packed data set's manifest and check that every file is there in full size.

    Only the manifest is opened: metadata may be read before the clock starts, data may not
    (MLPerf training rules, "run_start before touching the data"). Raises InputError naming the
    file, both sizes and the mend.
    """
    manifest = parse_manifest(folder)
    faults = find_size_faults(manifest)
    if faults:
        raise InputError(f"{faults[0]}: copy it again, or run `{PACK}` again to rebuild it")
    return manifest
