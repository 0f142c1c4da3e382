"""Verifies a packed data set byte by byte: sizes, checksums, framing, labels, image headers."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from harness.progress import Progress
from resnet.prepare_data_headers import parse_header
from resnet.shards import (
    SPLITS,
    Manifest,
    Record,
    Shard,
    Split,
    find_size_faults,
    read_records,
)

IMAGENET_IMAGES = {"train": 1_281_167, "val": 50_000}
IMAGENET_CLASSES, IMAGENET_FIRST, IMAGENET_LAST = 1000, "n01440764", "n15075141"
CHUNK_BYTES = 1 << 20
CHANGED = "its SHA-256 is not the manifest's: some of its bytes have changed"
DECODE_AHEAD_IMAGES = 64


def find_faults(manifest: Manifest, decode: bool, imagenet: bool) -> Iterator[str]:
    """Yield one line for every fault of a packed data set; nothing where all is well.

    `decode` also decodes every image in full, which finds damage that the source files had
    before packing. `imagenet` also demands the counts of ILSVRC 2012 (1,281,167 and 50,000
    images, 1000 classes, 50 validation images in each).
    """
    wrong_size = find_size_faults(manifest)
    yield from wrong_size
    if imagenet:
        yield from _compare_imagenet(manifest)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for split in SPLITS:
            yield from _verify_split(manifest, split, pool if decode else None, imagenet)


def _compare_imagenet(manifest: Manifest) -> Iterator[str]:
    classes = manifest.classes
    ends = (classes[0], classes[-1])
    if len(classes) != IMAGENET_CLASSES or ends != (IMAGENET_FIRST, IMAGENET_LAST):
        yield (
            f"{len(classes)} classes from {ends[0]} to {ends[1]}, where ImageNet has "
            f"{IMAGENET_CLASSES} from {IMAGENET_FIRST} to {IMAGENET_LAST}"
        )
    for split, expected in IMAGENET_IMAGES.items():
        found = manifest.split(split).images
        if found != expected:
            yield f"{split}: {found:,} images, where ImageNet has {expected:,}"


def _verify_split(
    manifest: Manifest, name: str, pool: Executor | None, imagenet: bool
) -> Iterator[str]:
    split, folder = manifest.split(name), manifest.folder
    offsets = _read_column(folder / split.index.file, 1)
    listed = _read_names(folder / split.names.file)
    for stored, lines in ((split.index, offsets), (split.names, listed)):
        yield from _verify_digest(folder / stored.file, stored.sha256)
        if len(lines) != split.images:
            yield f"{folder / stored.file}: {len(lines):,} lines for {split.images:,} images"
    counts: Counter[int] = Counter()
    progress = Progress(f"verifying {name}", split.images, "images")
    start = base = 0
    for shard in split.shards:
        check = _RecordCheck(
            folder / shard.file, start, base, offsets, listed, len(manifest.classes)
        )
        yield from _verify_shard(folder, shard, check, counts, pool, progress)
        start, base = start + shard.images, base + shard.bytes
    progress.finish(counts.total())
    yield from _verify_counts(manifest, name, split, counts, imagenet)


def _verify_counts(
    manifest: Manifest, name: str, split: Split, counts: Counter[int], imagenet: bool
) -> Iterator[str]:
    if counts.total() != split.images:
        yield f"{name}: {counts.total():,} images found, the manifest says {split.images:,}"
    for label, class_name in enumerate(manifest.classes):
        if not counts[label]:
            yield f"{name}: class {class_name} has no image"
        elif imagenet and name == "val" and counts[label] != 50:
            yield f"{name}: class {class_name} has {counts[label]} images, ImageNet has 50"


def _verify_digest(path: Path, expected: str) -> Iterator[str]:
    try:
        with _HashedFile(path) as file:
            if file.finish() != expected:
                yield f"{path}: {CHANGED}"
    except FileNotFoundError:
        return  # find_size_faults has said so.


class _HashedFile(io.BufferedReader):
    """A file that hashes what is read of it, so that a shard is read once for both purposes."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path), CHUNK_BYTES)
        self.digest = hashlib.sha256()

    def read(self, size: int | None = -1, /) -> bytes:
        """Read and hash."""
        data = super().read(size)
        self.digest.update(data)
        return data

    def finish(self) -> str:
        """Read what is left; return the digest of the whole file."""
        while self.read(CHUNK_BYTES):
            pass
        return self.digest.hexdigest()


def _read_column(path: Path, column: int) -> list[int]:
    try:
        with open(path, encoding="ascii") as file:
            return [int(line.split("\t")[column]) for line in file]
    except (FileNotFoundError, ValueError, IndexError):
        return []  # Reported through its size, its checksum or its number of lines.


def _read_names(path: Path) -> list[tuple[int, str]]:
    try:
        with open(path, encoding="utf-8", newline="\n") as file:
            rows = [line.rstrip("\n").split("\t") for line in file]
        return [(int(label), name) for _, label, name in rows]
    except (FileNotFoundError, ValueError):
        return []  # Reported through its size, its checksum or its number of lines.


class _RecordCheck:
    """Checks the records of one shard against index, names and labels."""

    def __init__(
        self,
        path: Path,
        start: int,
        base: int,
        offsets: list[int],
        names: list[tuple[int, str]],
        classes: int,
    ) -> None:
        self.path, self.start, self.base = path, start, base
        self.offsets, self.names, self.classes = offsets, names, classes

    def describe(self, position: int) -> str:
        """Name a record by file, number and original name."""
        number = self.start + position
        name = f" ({self.names[number][1]})" if number < len(self.names) else ""
        return f"{self.path}: record {number}{name}"

    def compare(self, position: int, record: Record) -> Iterator[str]:
        """Yield what is wrong with a record's place, number, label or header."""
        number = self.start + position
        if number < len(self.offsets) and self.offsets[number] != self.base + record.offset:
            yield f"{self.describe(position)} is not where the index says"
        if record.number != number:
            yield f"{self.describe(position)} carries the number {record.number}"
        listed = self.names[number][0] if number < len(self.names) else record.label
        if not 0 <= record.label < self.classes or record.label != listed:
            yield f"{self.describe(position)} has the label {record.label}, which is not its class"
        try:
            parse_header(record.image)
        except ValueError as error:
            yield f"{self.describe(position)} is not an image: {error}"


def _verify_shard(
    folder: Path,
    shard: Shard,
    check: _RecordCheck,
    counts: Counter[int],
    pool: Executor | None,
    progress: Progress,
) -> Iterator[str]:
    path = folder / shard.file
    try:
        file = _HashedFile(path)
    except FileNotFoundError:
        return  # find_size_faults has said so.
    found = 0
    with file:
        try:
            for record, fault in _decode_ahead(read_records(file), pool):
                yield from check.compare(found, record)
                if fault:
                    yield f"{check.describe(found)} cannot be decoded: {fault}"
                counts[record.label] += 1
                found += 1
                progress.update(counts.total())
        except ValueError as error:
            yield f"{path}: {error}"
        if file.finish() != shard.sha256:
            yield f"{path}: {CHANGED}"
    if found != shard.images:
        yield f"{path}: {found:,} images found, the manifest says {shard.images:,}"


def _decode_ahead(
    records: Iterator[Record], pool: Executor | None
) -> Iterator[tuple[Record, str | None]]:
    """Pair each record with what its decoding met, a bounded number of them at work at a time."""
    decode: Callable[[bytes], str | None] = _decode
    if pool is None:
        for record in records:
            yield record, None
        return
    waiting = []
    for record in records:
        waiting.append((record, pool.submit(decode, record.image)))
        if len(waiting) >= DECODE_AHEAD_IMAGES:
            first, result = waiting.pop(0)
            yield first, result.result()
    for record, result in waiting:
        yield record, result.result()


def _decode(data: bytes) -> str | None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except UnidentifiedImageError:
        return "not an image"
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return str(error)
    return None
