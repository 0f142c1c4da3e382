"""Reads the members of a zip archive, trusting nothing in it.

Every byte of the file must belong to a member or to the directory at its end, and the directory
must say the same as the header before each member: then all tools that read the archive see the
same files. Encryption, zip64 (files beyond 4 GiB), several disks and comments are refused.
Source: PKWARE, APPNOTE.TXT 6.3.10, sections 4.3 and 4.4.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from scoring.package.members import (
    CHUNK_BYTES,
    NAME_LIMIT_BYTES,
    Budget,
    Limits,
    Member,
    PackageError,
    decode_name,
    refuse,
)

LOCAL_MARK, CENTRAL_MARK, END_MARK = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END = struct.Struct("<4s4H2IH")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_DESCRIPTOR_MARK = b"PK\x07\x08"
_STORED, _DEFLATED = 0, 8
_ENCRYPTED, _DESCRIPTOR, _UTF8 = 0x2041, 0x08, 0x800
_BEYOND = 0xFFFFFFFF
_EXTRA_ZIP64, _EXTRA_OTHER_NAME = 0x0001, 0x7075


@dataclass(frozen=True)
class _Entry:
    """One line of the directory."""

    raw_name: bytes
    name: str
    flags: int
    method: int
    checksum: int
    packed_bytes: int
    size: int
    offset: int


def is_zip(head: bytes) -> bool:
    """Say whether a file begins like a zip archive with members."""
    return head.startswith((LOCAL_MARK, END_MARK))


def read_zip(file: IO[bytes], file_bytes: int, budget: Budget) -> Iterator[Member]:
    """Give the members of a zip archive in the order of the file. Raises PackageError."""
    entries, end = _read_directory(file, file_bytes, budget.limits)
    entries.sort(key=lambda entry: entry.offset)
    place = 0
    for index, entry in enumerate(entries):
        budget.admit(entry.name)
        budget.check_claim(entry.name, entry.size)
        if entry.offset != place:
            refuse(entry.name, "does not begin where the member before it ends")
        following = entries[index + 1].offset if index + 1 < len(entries) else end
        content = _check_local_header(file, entry)
        place = _check_descriptor(file, entry, content + entry.packed_bytes, following)
        is_folder = entry.name.endswith("/")
        if is_folder and (entry.size or entry.packed_bytes > 2):
            refuse(entry.name, "is a folder with content")
        pieces = _read_content(file, entry, content, budget)
        yield Member(entry.name.removesuffix("/"), is_folder, pieces)
        for _ in pieces:
            pass
    if place != end:
        raise PackageError("holds bytes that belong to no member")


def _read_directory(file: IO[bytes], file_bytes: int, limits: Limits) -> tuple[list[_Entry], int]:
    """Read the directory; gives its lines and where it begins."""
    if file_bytes < _END.size:
        raise PackageError("is cut short: it has no directory")
    record = _read_at(file, file_bytes - _END.size, _END.size)
    mark, disk, first_disk, here, count, size, offset, comment = _END.unpack(record)
    if mark != END_MARK or comment:
        raise PackageError("does not end with its directory: it is cut short, or has bytes behind")
    if disk or first_disk or here != count:
        raise PackageError("is one of several disks")
    if offset + size + _END.size != file_bytes:
        raise PackageError("has a directory that is not where it says, or is of the zip64 kind")
    if count > limits.members:
        raise PackageError(f"holds {count} members, more than {limits.members}")
    if size > count * (_CENTRAL.size + 2 * NAME_LIMIT_BYTES):
        raise PackageError("has a directory too large for its members")
    directory = _read_at(file, offset, size)
    entries, place = [], 0
    for _ in range(count):
        entry, place = _parse_entry(directory, place)
        entries.append(entry)
    if place != len(directory):
        raise PackageError("has a directory with more than its members")
    return entries, offset


def _parse_entry(directory: bytes, place: int) -> tuple[_Entry, int]:
    if len(directory) < place + _CENTRAL.size:
        raise PackageError("has a directory that is cut short")
    (
        mark, _, _, flags, method, _, _, checksum, packed_bytes, size,
        name_bytes, extra_bytes, comment_bytes, disk, _, attributes, offset,
    ) = _CENTRAL.unpack_from(directory, place)  # fmt: skip
    start = place + _CENTRAL.size
    end = start + name_bytes + extra_bytes + comment_bytes
    raw_name = directory[start : start + name_bytes]
    if mark != CENTRAL_MARK or end > len(directory):
        raise PackageError("has a directory that cannot be read")
    name = decode_name(raw_name)
    if not raw_name.isascii() and not flags & _UTF8:
        refuse(name, "has a name that is not UTF-8")
    if name_bytes > NAME_LIMIT_BYTES:
        refuse(name, f"has a name longer than {NAME_LIMIT_BYTES} bytes")
    if flags & _ENCRYPTED:
        refuse(name, "is encrypted")
    if method not in (_STORED, _DEFLATED):
        refuse(name, "is packed in another way than by deflate")
    _check_extra(name, directory[start + name_bytes : start + name_bytes + extra_bytes])
    if disk or comment_bytes or _BEYOND in (packed_bytes, size, offset):
        refuse(name, "has a comment, or is of the zip64 kind")
    kind = stat.S_IFMT(attributes >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        refuse(name, "is a link" if kind == stat.S_IFLNK else "is a device or a pipe")
    if kind and (kind == stat.S_IFDIR) != name.endswith("/"):
        refuse(name, "is a folder by its mode and a file by its name, or the other way round")
    entry = _Entry(raw_name, name, flags, method, checksum, packed_bytes, size, offset)
    return entry, end


def _check_extra(name: str, extra: bytes) -> None:
    place = 0
    while place + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, place)
        if kind in (_EXTRA_ZIP64, _EXTRA_OTHER_NAME):
            refuse(name, "has a second size or a second name in an extra field")
        place += 4 + size
    if place != len(extra):
        refuse(name, "has an extra field that cannot be read")


def _check_local_header(file: IO[bytes], entry: _Entry) -> int:
    """Compare the header before a member with the directory; gives where the content begins."""
    record = _read_at(file, entry.offset, _LOCAL.size)
    mark, _, flags, method, _, _, checksum, packed_bytes, size, name_bytes, extra_bytes = (
        _LOCAL.unpack(record)
    )
    start = entry.offset + _LOCAL.size
    raw_name = _read_at(file, start, min(name_bytes, NAME_LIMIT_BYTES))
    extra = _read_at(file, start + name_bytes, extra_bytes)
    said = (entry.flags, entry.method, entry.raw_name)
    sizes = (entry.checksum, entry.packed_bytes, entry.size)
    blank = bool(flags & _DESCRIPTOR) and (checksum, packed_bytes, size) == (0, 0, 0)
    same_sizes = blank or (checksum, packed_bytes, size) == sizes
    if mark != LOCAL_MARK or (flags, method, raw_name) != said or not same_sizes:
        refuse(entry.name, "is another one by its own header than by the directory")
    _check_extra(entry.name, extra)
    content: int = start + name_bytes + extra_bytes
    return content


def _check_descriptor(file: IO[bytes], entry: _Entry, place: int, following: int) -> int:
    """Give where a member ends, behind the sizes that may follow its content."""
    if not entry.flags & _DESCRIPTOR:
        return place
    sizes = struct.pack("<3I", entry.checksum, entry.packed_bytes, entry.size)
    with_mark = _DESCRIPTOR_MARK + sizes
    for said in (with_mark, sizes):
        if following - place == len(said) and _read_at(file, place, len(said)) == said:
            return following
    refuse(entry.name, "states other sizes behind its content than in the directory")


def _read_content(file: IO[bytes], entry: _Entry, place: int, budget: Budget) -> Iterator[bytes]:
    """Unpack a member in pieces; checks its size and checksum at the end."""
    checksum = size = 0
    packed = _read_packed(file, place, entry.packed_bytes)
    pieces = packed if entry.method == _STORED else _inflate(entry.name, packed)
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
        size += len(piece)
        budget.count_bytes(len(piece))
        if size > entry.size:
            break
        yield piece
    if (size, checksum) != (entry.size, entry.checksum):
        refuse(entry.name, "has another content than its size and checksum say")


def _read_packed(file: IO[bytes], place: int, count: int) -> Iterator[bytes]:
    end = place + count
    while place < end:
        piece = _read_at(file, place, min(CHUNK_BYTES, end - place))
        place += len(piece)
        yield piece


def _inflate(name: str, packed: Iterator[bytes]) -> Iterator[bytes]:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for data in packed:
            while data and not inflater.eof:
                yield inflater.decompress(data, CHUNK_BYTES)
                data = inflater.unconsumed_tail or inflater.unused_data
            if data:
                refuse(name, "has bytes behind its packed content")
        while not inflater.eof:
            piece = inflater.decompress(b"", CHUNK_BYTES)
            if not piece:
                refuse(name, "is cut short")
            yield piece
    except zlib.error:
        refuse(name, "is damaged: its packed content cannot be read")


def _read_at(file: IO[bytes], place: int, count: int) -> bytes:
    file.seek(place)
    data = file.read(count)
    if len(data) != count:
        raise PackageError("is cut short")
    return data
