"""Verifies a packed data set byte by byte: sizes, checksums, framing, labels, image headers."""

from __future__ import annotations

import hashlib
import io
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event, Lock
from typing import NamedTuple

from harness.progress import Progress
from resnet.prepare_data_headers import count_decoded_bytes, parse_header
from resnet.prepare_data_images import IMAGENET_CLASSES, IMAGENET_FIRST, IMAGENET_LAST
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
IMAGENET_VAL_IMAGES_A_CLASS = 50
CHUNK_BYTES = 1 << 20
CHANGED = "its SHA-256 is not the manifest's: some of its bytes have changed"
DECODE_AHEAD_IMAGES = 64


class Finding(NamedTuple):
    """One line on a data set: a fault, or a note on an image that is odd and accepted."""

    text: str
    is_fault: bool = True


def verify(manifest: Manifest, decode: bool, imagenet: bool, workers: int) -> Iterator[Finding]:
    """Yield a finding for every fault of a packed data set and for every odd image.

    `decode` also decodes every image in full, which finds damage that the source files had
    before packing. A data set with ILSVRC 2012's 1000 classes claims to be ImageNet: its counts
    are then demanded (1,281,167 and 50,000 images, 50 validation images a class); `imagenet`
    demands them of any. `workers`: shards that are read and images that are decoded at a time.
    """
    yield from map(Finding, find_size_faults(manifest))
    imagenet = imagenet or _claims_imagenet(manifest)
    if imagenet:
        yield from map(Finding, _compare_imagenet(manifest))
    with ThreadPoolExecutor(workers) as readers, ThreadPoolExecutor(workers) as decoders:
        for split in SPLITS:
            yield from _verify_split(
                manifest, split, readers, decoders if decode else None, imagenet
            )


def _claims_imagenet(manifest: Manifest) -> bool:
    classes = manifest.classes
    ends = (classes[0], classes[-1])
    return len(classes) == IMAGENET_CLASSES and ends == (IMAGENET_FIRST, IMAGENET_LAST)


def _compare_imagenet(manifest: Manifest) -> Iterator[str]:
    if not _claims_imagenet(manifest):
        classes = manifest.classes
        yield (
            f"{len(classes)} classes from {classes[0]} to {classes[-1]}, where ImageNet has "
            f"{IMAGENET_CLASSES} from {IMAGENET_FIRST} to {IMAGENET_LAST}"
        )
    for split, expected in IMAGENET_IMAGES.items():
        found = manifest.split(split).images
        if found != expected:
            yield f"{split}: {found:,} images, where ImageNet has {expected:,}"


def _verify_split(
    manifest: Manifest, name: str, readers: Executor, decoders: Executor | None, imagenet: bool
) -> Iterator[Finding]:
    """Verify a split's files, its shards beside each other, and report in the shards' order."""
    split, folder = manifest.split(name), manifest.folder
    offsets = _read_column(folder / split.index.file, 1)
    listed = _read_names(folder / split.names.file)
    for stored, lines in ((split.index, offsets), (split.names, listed)):
        yield from map(Finding, _verify_digest(folder / stored.file, stored.sha256))
        if len(lines) != split.images:
            path = folder / stored.file
            yield Finding(f"{path}: {len(lines):,} lines for {split.images:,} images")
    run = _Run(name, split, decoders)
    start = base = 0
    reports = []
    try:
        for shard in split.shards:
            check = _RecordCheck(
                folder / shard.file, start, base, offsets, listed, len(manifest.classes)
            )
            reports.append(readers.submit(_verify_shard, shard, check, run))
            start, base = start + shard.images, base + shard.bytes
        for report in reports:
            yield from report.result()
    finally:
        run.stopped.set()  # an interrupted command does not wait for the other shards
        for report in reports:
            report.cancel()
    run.progress.finish(run.found)
    yield from map(Finding, _verify_counts(manifest, name, split, run.counts, imagenet))


class _Run:
    """What the threads that read one split's shards share."""

    def __init__(self, name: str, split: Split, decoders: Executor | None) -> None:
        self.progress = Progress(f"verifying {name}", split.images, "images")
        self.counts: Counter[int] = Counter()
        self.found = 0
        self.decoders, self.lock, self.stopped = decoders, Lock(), Event()

    def count(self, label: int) -> None:
        """Count one more image of a class."""
        with self.lock:
            self.counts[label] += 1
            self.found += 1
            self.progress.update(self.found)


def _verify_counts(
    manifest: Manifest, name: str, split: Split, counts: Counter[int], imagenet: bool
) -> Iterator[str]:
    if counts.total() != split.images:
        yield f"{name}: {counts.total():,} images found, the manifest says {split.images:,}"
    for label, class_name in enumerate(manifest.classes):
        if not counts[label]:
            yield f"{name}: class {class_name} has no image"
        elif imagenet and name == "val" and counts[label] != IMAGENET_VAL_IMAGES_A_CLASS:
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
        self.decoded_bytes = 0

    def describe(self, position: int) -> str:
        """Name a record by file, number and original name."""
        number = self.start + position
        name = f" ({self.names[number][1]})" if number < len(self.names) else ""
        return f"{self.path}: record {number}{name}"

    def compare(self, position: int, record: Record) -> Iterator[Finding]:
        """Yield what is wrong with a record's place, number, label or header, and what is odd."""
        number, where = self.start + position, self.describe(position)
        self.decoded_bytes += count_decoded_bytes(record.image)
        if number < len(self.offsets) and self.offsets[number] != self.base + record.offset:
            yield Finding(f"{where} is not where the index says")
        if record.number != number:
            yield Finding(f"{where} carries the number {record.number}")
        listed = self.names[number][0] if number < len(self.names) else record.label
        if not 0 <= record.label < self.classes or record.label != listed:
            yield Finding(f"{where} has the label {record.label}, which is not its class")
        try:
            header = parse_header(record.image)
        except ValueError as error:
            yield Finding(f"{where} is not an image: {error}")
            return
        if header.format == "png":
            yield Finding(f"{where} is a PNG file, which is accepted", False)
        elif header.components == 4:
            yield Finding(f"{where} is a CMYK image, which is accepted", False)


def _verify_shard(shard: Shard, check: _RecordCheck, run: _Run) -> list[Finding]:
    try:
        file = _HashedFile(check.path)
    except FileNotFoundError:
        return []  # find_size_faults has said so.
    findings: list[Finding] = []
    found = 0
    with file:
        try:
            for record, fault in _decode_ahead(read_records(file), run.decoders):
                if run.stopped.is_set():
                    return findings
                findings += check.compare(found, record)
                if fault:
                    findings.append(Finding(f"{check.describe(found)} cannot be decoded: {fault}"))
                run.count(record.label)
                found += 1
        except ValueError as error:
            findings.append(Finding(f"{check.path}: {error}"))
        if file.finish() != shard.sha256:
            findings.append(Finding(f"{check.path}: {CHANGED}"))
        elif check.decoded_bytes != shard.decoded_bytes:
            findings.append(
                Finding(
                    f"{check.path}: its images decode to {check.decoded_bytes:,} bytes, the "
                    f"manifest says {shard.decoded_bytes:,}"
                )
            )
    if found != shard.images:
        findings.append(
            Finding(f"{check.path}: {found:,} images found, the manifest says {shard.images:,}")
        )
    return findings


def _decode_ahead(
    records: Iterator[Record], pool: Executor | None
) -> Iterator[tuple[Record, str | None]]:
    """Pair each record with what its decoding met, a bounded number of them at work at a time."""
    if pool is None:
        for record in records:
            yield record, None
        return
    waiting: deque[tuple[Record, Future[str | None]]] = deque()
    for record in records:
        waiting.append((record, pool.submit(_decode, record.image)))
        if len(waiting) >= DECODE_AHEAD_IMAGES:
            first, result = waiting.popleft()
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
