"""Packs images into shuffled RecordIO shards; stops and resumes at any point.

Images are read at random places of their archive or folders, a window of 256 MiB at a time in
the order in which they lie, by several threads, while the window before it is written. The
other way, two passes over temporary buckets, reads in long stretches but needs the data set's
size a second time on the disk: on solid-state and parallel storage, where data for a run must
lie, it gains nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.commands import InputError
from harness.files import write_atomically
from harness.progress import Progress
from resnet.prepare_data_headers import count_decoded_bytes
from resnet.prepare_data_images import Image, ImageSet, find_classes, read_image
from resnet.shards import (
    MANIFEST,
    SPLITS,
    Manifest,
    Shard,
    Split,
    StoredFile,
    frame_image,
    write_manifest,
)

JOURNAL = ".pack"
READERS = 8
WINDOW_BYTES = 1 << 28
RECORD_BYTES = 64  # what framing, header and journal add to an image, at most in all but odd cases


@dataclass(frozen=True)
class PackedShard:
    """A finished shard and what a later run needs to trust it: inputs and record lengths."""

    inputs: str
    shard: Shard
    record_bytes: tuple[int, ...]


@dataclass(frozen=True)
class _Part:
    """A shard to be: the images from position `start` of the split's order."""

    path: Path
    start: int
    images: Sequence[Image]
    inputs: str


def pack(train: ImageSet, val: ImageSet, output: Path, shards: int, seed: int) -> Manifest:
    """Pack both splits into `output`: `shards` files of training images, one of validation.

    Labels are the ranks of the classes in ascending order. Shards already there whose inputs are
    the same are kept, so that an interrupted run goes on where it was; the bytes at the end depend
    on the images, their names and the seed alone. The manifest is written last: without it the
    data set is unfinished. Memory: two windows of images and about 0.4 kB an image of the list.
    Raises InputError for unusable input or too small a disk.
    """
    classes = find_classes(train, val)
    if shards > len(train.images):
        raise InputError(f"--shards {shards} is more than the {len(train.images)} images")
    sources, counts = {"train": train, "val": val}, {"train": shards, "val": 1}
    output.mkdir(parents=True, exist_ok=True)
    (output / JOURNAL).mkdir(exist_ok=True)
    with _lock(output):
        for stale in (*output.glob(".*.part"), *(output / JOURNAL).glob(".*.part")):
            stale.unlink()
        (output / MANIFEST).unlink(missing_ok=True)
        ranks = {name: label for label, name in enumerate(classes)}
        packers = [
            _Packer(sources[split], ranks, output, split, counts[split], seed) for split in SPLITS
        ]
        _check_disk(output, packers)
        splits = {packer.split: packer.pack() for packer in packers}
        manifest = Manifest(output, seed, classes, **splits)
        write_manifest(manifest)
        _remove_strangers(manifest)
    return manifest


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    with open(output / JOURNAL / "lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{output}: another pack is writing here: wait for it") from None
        yield


def _remove_strangers(manifest: Manifest) -> None:
    """Remove shards of an earlier pack, of another shard count, that the manifest leaves out."""
    known = {shard.file for split in SPLITS for shard in manifest.split(split).shards}
    for path in manifest.folder.glob("*-of-*.rec"):
        if re.fullmatch(r"(train|val)-\d{5}-of-\d{5}\.rec", path.name) and path.name not in known:
            path.unlink()
            _journal_path(path).unlink(missing_ok=True)


def shuffle_images(images: Sequence[Image], split: str, seed: int) -> list[Image]:
    """Put images in a random order that depends on the seed and their names alone.

    The order is that of a keyed hash of the names: the same on every machine and version, and
    whatever the order of listing.
    """
    key = f"{seed}/{split}".encode()

    def digest(image: Image) -> bytes:
        return hashlib.blake2b(image.name.encode(), digest_size=16, key=key).digest()

    return sorted(images, key=digest)


class _Packer:
    """Packs one split. `finished[k]` is None for a shard that must be made."""

    def __init__(
        self,
        source: ImageSet,
        ranks: dict[str, int],
        output: Path,
        split: str,
        shards: int,
        seed: int,
    ) -> None:
        self.source, self.ranks, self.output, self.split = source, ranks, output, split
        self.images = shuffle_images(source.images, split, seed)
        self.parts = [self._cut(position, shards) for position in range(shards)]
        self.finished = [_read_journal(part.path, part.inputs) for part in self.parts]

    def _cut(self, position: int, shards: int) -> _Part:
        path = self.output / f"{self.split}-{position:05d}-of-{shards:05d}.rec"
        start = position * len(self.images) // shards
        images = self.images[start : (position + 1) * len(self.images) // shards]
        digest = hashlib.sha256(f"{start}\n".encode())
        for image in images:
            label = self.ranks[image.find_class()]
            line = f"{label}\t{image.name}\t{image.size}\t{image.changed}\n"
            digest.update(line.encode())
        return _Part(path, start, images, digest.hexdigest())

    def list_missing(self) -> list[_Part]:
        """List the shards that must be made."""
        pairs = zip(self.parts, self.finished, strict=True)
        return [part for part, finished in pairs if finished is None]

    def pack(self) -> Split:
        """Make the missing shards, the index and the list of names."""
        missing = self.list_missing()
        progress = Progress(
            f"packing {self.split}", sum(len(part.images) for part in missing), "images"
        )
        done, packed = 0, []
        for part, finished in zip(self.parts, self.finished, strict=True):
            if finished is None:
                finished = self._write_shard(part, progress, done)
                done += len(part.images)
            packed.append(finished)
        kept = len(self.parts) - len(missing)
        note = f"({kept} of {len(self.parts)} shards were there)" if kept else ""
        progress.finish(done, note)
        index, names = _write_index(self.output, self.split, packed), self._write_names()
        return Split(len(self.images), index, names, tuple(item.shard for item in packed))

    def _write_shard(self, part: _Part, progress: Progress, done: int) -> PackedShard:
        digest, record_bytes, decoded_bytes = hashlib.sha256(), [], 0
        with write_atomically(part.path, "wb") as file:
            contents = _read_windows(self.source, part.images)
            for number, (image, data) in enumerate(zip(part.images, contents, strict=True)):
                label = self.ranks[image.find_class()]
                record = frame_image(label, part.start + number, data)
                file.write(record)
                digest.update(record)
                record_bytes.append(len(record))
                decoded_bytes += count_decoded_bytes(data)
                progress.update(done + number + 1)
        shard = Shard(
            part.path.name, len(part.images), sum(record_bytes), digest.hexdigest(), decoded_bytes
        )
        packed = PackedShard(part.inputs, shard, tuple(record_bytes))
        with write_atomically(_journal_path(part.path)) as file:
            json.dump(asdict(packed), file)
        return packed

    def _write_names(self) -> StoredFile:
        """Write record number, label and original name of every record (MXNet's list format)."""
        lines = (
            f"{number}\t{self.ranks[image.find_class()]}\t{image.name}\n"
            for number, image in enumerate(self.images)
        )
        return _write_lines(self.output / f"{self.split}.lst", lines)


def _check_disk(output: Path, packers: Sequence[_Packer]) -> None:
    """Raise InputError unless the shards that must be made fit onto the disk."""
    needed = 0
    for packer in packers:
        for part in packer.list_missing():
            needed += sum(image.size + RECORD_BYTES for image in part.images)
            # What stands under that name is given back only after the new file is whole.
    free = shutil.disk_usage(output).free
    if free < needed:
        raise InputError(
            f"{output} has {free / 1e9:.1f} GB free and needs {needed / 1e9:.1f} GB: free some or "
            f"name another folder"
        )


def _journal_path(path: Path) -> Path:
    return path.parent / JOURNAL / f"{path.stem}.json"


def _read_journal(path: Path, inputs: str) -> PackedShard | None:
    """Return the finished shard, or None where it is not there whole or has other inputs."""
    try:
        table = json.loads(_journal_path(path).read_text(encoding="utf-8"))
        shard = Shard(**table["shard"])
        packed = PackedShard(table["inputs"], shard, tuple(table["record_bytes"]))
        fits = packed.inputs == inputs and path.stat().st_size == shard.bytes
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return packed if fits and sum(packed.record_bytes) == shard.bytes else None


def _read_windows(source: ImageSet, images: Sequence[Image]) -> Iterator[bytes]:
    """Read images in their order: each window's in the order in which they lie, one window ahead.

    The pool is closed without waiting for what nobody wants any more when the consumer stops.
    """
    pool = ThreadPoolExecutor(READERS)
    try:
        waiting: list[Future[bytes]] = []
        for window in _cut_windows(images):
            ahead = _start_reading(pool, source, window)
            yield from _take(waiting)
            waiting = ahead
        yield from _take(waiting)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cut_windows(images: Sequence[Image]) -> Iterator[list[Image]]:
    window: list[Image] = []
    size = 0
    for image in images:
        if window and size + image.size > WINDOW_BYTES:
            yield window
            window, size = [], 0
        window.append(image)
        size += image.size
    yield window


def _start_reading(
    pool: ThreadPoolExecutor, source: ImageSet, window: Sequence[Image]
) -> list[Future[bytes]]:
    """Return the results in the window's order, last first, begun in the order of places."""
    started = {
        number: pool.submit(read_image, source, window[number])
        for number in sorted(range(len(window)), key=lambda number: window[number].place)
    }
    return [started[number] for number in reversed(range(len(window)))]


def _take(waiting: list[Future[bytes]]) -> Iterator[bytes]:
    while waiting:
        yield waiting.pop().result()


def _write_index(output: Path, split: str, packed: Sequence[PackedShard]) -> StoredFile:
    """Write record number and byte offset of every record, counted through all shards."""

    def lines() -> Iterator[str]:
        number = offset = 0
        for item in packed:
            for size in item.record_bytes:
                yield f"{number}\t{offset}\n"
                number, offset = number + 1, offset + size

    return _write_lines(output / f"{split}.idx", lines())


def _write_lines(path: Path, lines: Iterator[str]) -> StoredFile:
    digest, size = hashlib.sha256(), 0
    with write_atomically(path, "wb") as file:
        for line in lines:
            data = line.encode()
            file.write(data)
            digest.update(data)
            size += len(data)
    return StoredFile(path.name, size, digest.hexdigest())
