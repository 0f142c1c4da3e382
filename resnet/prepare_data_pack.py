"""Packs class folders of images into shuffled RecordIO shards; stops and resumes at any point."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from harness.commands import InputError
from harness.files import write_atomically
from harness.progress import Progress
from resnet.prepare_data_headers import parse_header
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

IMAGE_SUFFIXES = (".jpeg", ".jpg")
JOURNAL = ".pack"
READERS, READ_AHEAD_IMAGES = 8, 64


class Image(NamedTuple):
    """A source image: its label and its name, which is class/file."""

    label: int
    name: str


class FolderSource:
    """Images as extracted class folders: train/<class>/*.JPEG and val/<class>/*.JPEG.

    Raises InputError where the two splits do not have the same classes, a class is empty, or
    something that is not a JPEG file lies among the images.
    """

    def __init__(self, train: Path, val: Path) -> None:
        self.folders = dict(zip(SPLITS, (train, val), strict=True))
        listed = {split: _list_classes(folder) for split, folder in self.folders.items()}
        for name in sorted(set(listed["train"]) ^ set(listed["val"])):
            has, lacks = (train, val) if name in listed["train"] else (val, train)
            raise InputError(
                f"class folder {name} stands in {has} but not in {lacks}: "
                f"both must have the same classes"
            )
        self.classes = tuple(listed["train"])

    def list_images(self, split: str) -> list[Image]:
        """List a split's images in the order of class and file name."""
        images: list[Image] = []
        for label, name in enumerate(self.classes):
            files = _list_files(self.folders[split] / name)
            images.extend(Image(label, f"{name}/{file}") for file in files)
        return images

    def stamp(self, split: str, image: Image) -> tuple[int, int]:
        """Return what changes with an image's content: size in bytes, time of change in ns."""
        status = os.stat(self.folders[split] / image.name)
        return status.st_size, status.st_mtime_ns

    def read(self, split: str, image: Image) -> bytes:
        """Read an image's bytes. Raises InputError where they are not a JPEG (or PNG) image."""
        path = self.folders[split] / image.name
        data = path.read_bytes()
        try:
            parse_header(data)
        except ValueError as error:
            raise InputError(f"{path} is not an image ({error}): put the original back") from None
        return data


def _list_classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name the one that holds the class folders")
    with os.scandir(folder) as entries:
        names = sorted(item.name for item in entries if item.is_dir() and item.name[0] != ".")
    if not names:
        raise InputError(f"{folder} holds no class folders: name the one that does")
    return names


def _list_files(folder: Path) -> list[str]:
    names = []
    with os.scandir(folder) as entries:
        for item in entries:
            if item.name[0] == ".":
                continue
            plain = item.name.isprintable() and item.is_file()
            if not plain or not item.name.lower().endswith(IMAGE_SUFFIXES):
                raise InputError(f"{folder}: {item.name!r} is not a .JPEG file: move it away")
            names.append(item.name)
    if not names:
        raise InputError(f"{folder} holds no images: extract this class again")
    return sorted(names)


@dataclass(frozen=True)
class PackedShard:
    """A finished shard and what a later run needs to trust it: inputs and record lengths."""

    inputs: str
    shard: Shard
    record_bytes: tuple[int, ...]


def pack(source: FolderSource, output: Path, shards: int, seed: int) -> Manifest:
    """Pack both splits into `output`: `shards` files of training images, one of validation.

    Shards already there whose inputs are the same are kept, so that an interrupted run goes on
    where it was; the bytes at the end depend on the images and the seed alone. The manifest is
    written last: without it the data set is unfinished. Raises InputError for unusable input.
    """
    images = {split: source.list_images(split) for split in SPLITS}
    counts = {"train": shards, "val": 1}
    if shards > len(images["train"]):
        raise InputError(f"--shards {shards} is more than the {len(images['train'])} images")
    output.mkdir(parents=True, exist_ok=True)
    (output / JOURNAL).mkdir(exist_ok=True)
    with _lock(output):
        for stale in output.glob(".*.rec.*.part"):
            stale.unlink()
        (output / MANIFEST).unlink(missing_ok=True)
        splits = {
            split: _pack_split(source, output, split, images[split], counts[split], seed)
            for split in SPLITS
        }
        manifest = Manifest(output, seed, source.classes, **splits)
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


def _pack_split(
    source: FolderSource, output: Path, split: str, images: list[Image], shards: int, seed: int
) -> Split:
    images = shuffle_images(images, split, seed)
    progress = Progress(f"packing {split}", len(images), "images")
    packed, kept = [], 0
    for position in range(shards):
        path = output / f"{split}-{position:05d}-of-{shards:05d}.rec"
        start = position * len(images) // shards
        part = images[start : (position + 1) * len(images) // shards]
        inputs = _digest_inputs(source, split, part, start)
        finished = _read_journal(path, inputs)
        if finished is None:
            finished = _write_shard(source, split, part, start, path, inputs, progress)
        else:
            kept += 1
        packed.append(finished)
    note = f"({kept} of {shards} shards were there)" if kept else ""
    progress.finish(len(images), note)
    index, names = _write_index(output, split, packed), _write_names(output, split, images)
    return Split(len(images), index, names, tuple(item.shard for item in packed))


def _digest_inputs(source: FolderSource, split: str, images: list[Image], start: int) -> str:
    digest = hashlib.sha256(f"{start}\n".encode())
    for image in images:
        size, changed = source.stamp(split, image)
        digest.update(f"{image.label}\t{image.name}\t{size}\t{changed}\n".encode())
    return digest.hexdigest()


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


def _write_shard(
    source: FolderSource,
    split: str,
    images: list[Image],
    start: int,
    path: Path,
    inputs: str,
    progress: Progress,
) -> PackedShard:
    digest, record_bytes = hashlib.sha256(), []
    with write_atomically(path, "wb") as file:
        contents = _read_ahead(source, split, images)
        for position, (image, data) in enumerate(zip(images, contents, strict=True), start):
            record = frame_image(image.label, position, data)
            file.write(record)
            digest.update(record)
            record_bytes.append(len(record))
            progress.update(position + 1)
    shard = Shard(path.name, len(images), sum(record_bytes), digest.hexdigest())
    packed = PackedShard(inputs, shard, tuple(record_bytes))
    with write_atomically(_journal_path(path)) as file:
        json.dump(asdict(packed), file)
    return packed


def _read_ahead(source: FolderSource, split: str, images: list[Image]) -> Iterator[bytes]:
    """Read images in order with a bounded number of them in flight: small files wait on the disk.

    The pool is closed without waiting for what nobody wants any more when the consumer stops.
    """
    pool = ThreadPoolExecutor(READERS)
    waiting: deque[Future[bytes]] = deque()
    try:
        for image in images:
            waiting.append(pool.submit(source.read, split, image))
            if len(waiting) >= READ_AHEAD_IMAGES:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _write_index(output: Path, split: str, packed: Sequence[PackedShard]) -> StoredFile:
    """Write record number and byte offset of every record, counted through all shards."""

    def lines() -> Iterator[str]:
        number = offset = 0
        for item in packed:
            for size in item.record_bytes:
                yield f"{number}\t{offset}\n"
                number, offset = number + 1, offset + size

    return _write_lines(output / f"{split}.idx", lines())


def _write_names(output: Path, split: str, images: Sequence[Image]) -> StoredFile:
    """Write record number, label and original name of every record (MXNet's list format)."""
    lines = (f"{number}\t{image.label}\t{image.name}\n" for number, image in enumerate(images))
    return _write_lines(output / f"{split}.lst", lines)


def _write_lines(path: Path, lines: Iterator[str]) -> StoredFile:
    digest, size = hashlib.sha256(), 0
    with write_atomically(path, "wb") as file:
        for line in lines:
            data = line.encode()
            file.write(data)
            digest.update(data)
            size += len(data)
    return StoredFile(path.name, size, digest.hexdigest())
