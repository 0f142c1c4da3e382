"""The members of tar archives, found by reading headers alone and never extracted by name.

An archive inside an archive is a stretch of the outer file, so that ImageNet's tar of 1000 tars
becomes one list of places. tarfile parses the headers; this module holds it to the stretch, to
64 KiB of headers a member, and to an end where the archive says that it ends.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from harness.commands import InputError

BLOCK_BYTES = 512
HEADERS_BYTES_LIMIT = 1 << 16
MEMBERS_LIMIT = 1 << 22
# What follows the end mark fills up a record: 10 KiB as tar writes it, more with a larger factor.
FILLING_BYTES_LIMIT = 1 << 20
DAMAGED = (tarfile.TarError, RecursionError, OverflowError, ValueError, KeyError, IndexError)


class Member(NamedTuple):
    """A plain file of an archive: its bytes are at `offset` of the outermost file."""

    name: str
    offset: int
    size: int


class _HeadersTooLong(Exception):
    """A member's headers are longer than any that tar writes for a plain file."""


class Region:
    """A stretch of a file, as the file object that tarfile reads headers from.

    read_at(offset, size) returns the bytes of the outermost file, fewer at its end.
    """

    def __init__(self, read_at: Callable[[int, int], bytes], start: int, size: int) -> None:
        self.read_at, self.start, self.size = read_at, start, size
        self.position, self.allowance = 0, HEADERS_BYTES_LIMIT

    def tell(self) -> int:
        """Return the position in the stretch."""
        return self.position

    def seek(self, offset: int) -> None:
        """Go to a position of the stretch."""
        if offset < 0:
            raise ValueError("a size below 0")
        self.position = offset

    def read(self, size: int) -> bytes:
        """Read at most `size` bytes, none beyond the stretch."""
        if not 0 <= size <= self.allowance:
            raise _HeadersTooLong
        self.allowance -= size
        left = max(self.size - self.position, 0)
        data = self.read_at(self.start + self.position, min(size, left))
        self.position += len(data)
        return data


def list_members(region: Region, where: str, mend: str) -> Iterator[Member]:
    """List the plain files of the archive that fills a region; folders are passed over.

    where, mend: begin and end of every complaint. Raises InputError, naming the member, for
    anything that is neither file nor folder, for headers that are damaged, cut off or too many,
    for sizes that reach beyond the region, and for an archive that goes on behind its end.
    """
    region.allowance, last, end = HEADERS_BYTES_LIMIT, "its first member", 0
    try:
        archive = tarfile.TarFile(fileobj=region, mode="r")  # type: ignore[arg-type]
    except (*DAMAGED, _HeadersTooLong):
        if not region.size:
            raise InputError(f"{where} is empty: {mend}") from None
        raise InputError(f"{where} is not a tar archive: {mend}") from None
    for number in range(MEMBERS_LIMIT + 1):
        region.allowance = HEADERS_BYTES_LIMIT
        try:
            member = archive.next()
        except _HeadersTooLong:
            raise InputError(
                f"{where}: the headers behind {last} are longer than "
                f"{HEADERS_BYTES_LIMIT >> 10} KiB: {mend}"
            ) from None
        except DAMAGED:
            raise InputError(f"{where} is damaged or cut off behind {last}: {mend}") from None
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        if member is None:
            return _check_end(region, archive.offset, where, last, mend)
        last = f"{member.name[:200]!r}"
        size = member.size
        if number == MEMBERS_LIMIT or member.offset_data <= end - 1 or size < 0:
            what = "too many members" if number == MEMBERS_LIMIT else "a size that lies"
            raise InputError(f"{where}: {what} at {last}: {mend}")
        end = member.offset_data + size
        if end > region.size:
            raise InputError(
                f"{where}: {last} is cut off: it has {size:,} bytes and "
                f"{region.size - member.offset_data:,} are left: {mend}"
            )
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise InputError(f"{where}: {last} is {_name_kind(member)}, not a plain file: {mend}")
        yield Member(member.name, region.start + member.offset_data, size)


def _name_kind(member: tarfile.TarInfo) -> str:
    if member.issym() or member.islnk():
        return "a link"
    if member.isdev():
        return "a device"
    return "a sparse file" if member.issparse() else "of an unknown kind"


def _check_end(region: Region, offset: int, where: str, last: str, mend: str) -> None:
    """Tell an archive's end from a damaged header: tarfile takes either for the end."""
    left = region.size - offset
    region.seek(offset)
    region.allowance = FILLING_BYTES_LIMIT
    filling = region.read(min(max(left, 0), FILLING_BYTES_LIMIT))
    if len(filling) < BLOCK_BYTES:
        raise InputError(f"{where} is cut off behind {last}: {mend}")
    if any(filling[:BLOCK_BYTES]):
        raise InputError(f"{where} has a damaged header behind {last}: {mend}")
    if any(filling) or left > FILLING_BYTES_LIMIT:
        raise InputError(f"{where} goes on behind its end mark, which follows {last}: {mend}")


class Archive:
    """An open archive file. `size` in bytes and `changed` in ns are as when it was opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self.descriptor)
        self.size, self.changed = status.st_size, status.st_mtime_ns
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise InputError(f"{path} is not a plain file: name the archive as it was downloaded")

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)

    def region(self, start: int, size: int) -> Region:
        """Return a stretch of the file to read headers from."""
        return Region(self._read_at, start, size)

    def _read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor, size, offset)

    def expect_random_reads(self) -> None:
        """Tell the system that reading ahead is a waste from here on."""
        os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def read(self, offset: int, size: int) -> bytes:
        """Read `size` bytes; any thread may. Raises InputError where the file is shorter now."""
        parts, left = [], size
        while left:
            part = self._read_at(offset + size - left, left)
            if not part:
                raise InputError(f"{self.path} has become shorter while it was read: start again")
            parts.append(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
