"""Reads the members of a package that is a folder, following no link and opening no device."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from scoring.package.members import (
    CHUNK_BYTES,
    DEPTH_LIMIT,
    Budget,
    Member,
    PackageError,
    decode_name,
    refuse,
)

_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFLNK: "is a link",
    stat.S_IFIFO: "is a named pipe",
    stat.S_IFSOCK: "is a socket",
    stat.S_IFBLK: "is a device",
    stat.S_IFCHR: "is a device",
}


def read_folder(descriptor: int, budget: Budget) -> Iterator[Member]:
    """Give the members below an open folder in the order of their names, and close it at the end.

    Raises PackageError.
    """
    try:
        yield from _read_level(descriptor, "", budget)
    finally:
        os.close(descriptor)


def _read_level(folder: int, prefix: str, budget: Budget) -> Iterator[Member]:
    """Give the members of one open folder; everything is opened beneath it, never by its path."""
    if prefix.count("/") > DEPTH_LIMIT:
        refuse(prefix, f"lies deeper than {DEPTH_LIMIT} folders")
    for own, entry in sorted(_list(folder, prefix, budget)):
        name = prefix + own
        budget.admit(name)
        kind = stat.S_IFMT(os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode)
        if kind == stat.S_IFDIR:
            yield Member(name, True, iter(()))
            inner = _open(name, entry, folder, os.O_DIRECTORY)
            try:
                yield from _read_level(inner, f"{name}/", budget)
            finally:
                os.close(inner)
        elif kind == stat.S_IFREG:
            yield Member(name, False, _read_file(name, entry, folder, budget))
        else:
            refuse(name, _KINDS.get(kind, "is neither a file nor a folder"))


def _list(folder: int, prefix: str, budget: Budget) -> Iterator[tuple[str, str]]:
    """Give the names in a folder: each in UTF-8, and as this locale's system calls have it."""
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count > budget.limits.members:
                raise PackageError(f"holds more than {budget.limits.members} members in {prefix!r}")
            own = decode_name(os.fsencode(entry.name), prefix)
            yield own, entry.name


def _open(name: str, entry: str, folder: int, flags: int) -> int:
    try:
        return os.open(entry, _OPEN | flags, dir_fd=folder)
    except OSError as error:
        refuse(name, f"cannot be opened: {error.strerror}")


def _read_file(name: str, entry: str, folder: int, budget: Budget) -> Iterator[bytes]:
    # Its kind is known; O_NONBLOCK and the second look are for one that was changed meanwhile.
    descriptor = _open(name, entry, folder, os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            refuse(name, "is no regular file any more")
        budget.check_claim(name, status.st_size)
        while piece := os.read(descriptor, CHUNK_BYTES):
            budget.count_bytes(len(piece))
            yield piece
    finally:
        os.close(descriptor)
