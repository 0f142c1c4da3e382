"""Opens a response package of unknown origin: a folder, a tar archive or a zip archive.

What it is, is told from its content. Its files are copied into a private folder that vanishes
afterwards, without modes, owners, times or links; nothing is written elsewhere, nothing executed.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scoring.exits import InputError
from scoring.package.folder_tree import read_folder
from scoring.package.layout import FileEntry
from scoring.package.members import (
    Budget,
    Limits,
    Member,
    NameTable,
    PackageError,
    refuse,
    split_name,
)
from scoring.package.tar_archive import BLOCK_BYTES, GzipStream, is_tar, read_tar
from scoring.package.zip_archive import is_zip, read_zip

_GZIP = b"\x1f\x8b"
DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class OpenedPackage:
    """A package unpacked: `folder` is the submitter's, the one that it holds, and
    `submitter_folder` its name; `files` by their path below it.

    private: the folder that vanishes at the end; there is room for what is made of the package.
    """

    path: Path
    private: Path
    folder: Path
    submitter_folder: str
    files: dict[str, FileEntry]

    def read(self, name: str, limit_bytes: int = 1 << 20) -> bytes:
        """Give the content of a file of the package, at most `limit_bytes` and one byte of it.

        Raises KeyError for a file that the package does not hold.
        """
        _ = self.files[name]
        with open(_locate(self.folder, name), "rb") as file:
            return file.read(limit_bytes + 1)


@contextmanager
def open_package(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[OpenedPackage]:
    """Unpack a package for as long as the block lasts.

    Raises InputError, one sentence that names the member, for whatever is not a plain package.
    """
    with tempfile.TemporaryDirectory(prefix="scoring-package-") as place:
        private = Path(place)
        try:
            opened = _unpack(path, private, limits)
        except PackageError as error:
            raise InputError(f"{path}: {error}") from None
        yield opened


def _unpack(path: Path, private: Path, limits: Limits) -> OpenedPackage:
    names, files, top = NameTable(), {}, ""
    # Of its own, so that no submitter's name can meet what is made beside it.
    place = private / "unpacked"
    for member, budget in _read_members(path, limits):
        parts = split_name(member.name)
        names.add(member.name, parts, member.is_folder)
        top = top or parts[0]
        if parts[0] != top:
            refuse(member.name, "stands beside the one folder that a package holds")
        if len(parts) == 1 and not member.is_folder:
            refuse(member.name, "is a file where a package holds its submitter's folder")
        target = _locate(place, "/".join(parts))
        if member.is_folder:
            target.mkdir(parents=True, exist_ok=True)
        else:
            files["/".join(parts[1:])] = _copy(member, target, budget, path)
    if not files:
        raise PackageError("holds no file")
    return OpenedPackage(path, private, _locate(place, top), top, files)


def _locate(folder: Path, name: str) -> Path:
    """Where a name of a package lies below a folder: in UTF-8, whatever this locale's encoding."""
    return folder / os.fsdecode(name.encode("utf-8"))


def _copy(member: Member, target: Path, budget: Budget, path: Path) -> FileEntry:
    digest, size = hashlib.sha256(), 0
    pieces = budget.count(member.name, member.pieces)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
            for piece in pieces:
                digest.update(piece)
                size += len(piece)
                file.write(piece)
    except OSError as error:
        raise InputError(
            f"{path} cannot be unpacked into {tempfile.gettempdir()}: {error.strerror}"
        ) from None
    return FileEntry(digest.hexdigest(), size)


def _read_members(path: Path, limits: Limits) -> Iterator[tuple[Member, Budget]]:
    """Tell by its content what a package is, and give its members."""
    try:
        # Opening a named pipe without O_NONBLOCK would wait for its writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PackageError(f"cannot be opened: {error.strerror}") from None
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        # A folder is not packed: no ratio can be exceeded.
        budget = Budget(limits, archive_bytes=limits.total_bytes)
        for member in read_folder(descriptor, budget):
            yield member, budget
        return
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(status.st_mode):
            raise PackageError("is neither a file nor a folder")
        if status.st_size > limits.archive_bytes:
            raise PackageError(f"is larger than {limits.archive_bytes >> 20} MiB")
        budget = Budget(limits, status.st_size)
        for member in _read_archive(file, status.st_size, budget):
            yield member, budget


def _read_archive(file: IO[bytes], size: int, budget: Budget) -> Iterator[Member]:
    head = file.read(BLOCK_BYTES)
    file.seek(0)
    if is_zip(head):
        return read_zip(file, size, budget)
    if is_tar(head):
        return read_tar(file.read, budget)
    if head.startswith(_GZIP):
        if not is_tar(GzipStream(file).read(BLOCK_BYTES)):
            raise PackageError("holds no tar archive in its gzip data")
        file.seek(0)
        return read_tar(GzipStream(file).read, budget)
    raise PackageError("is no folder, tar, tar.gz or zip archive")
