"""Reads the members of a tar archive, plain or in gzip, trusting nothing in it.

Python's own reader takes the size of an extended header from the archive and reads that much into
memory, follows several dialects of sparse files, and differs between versions. This one reads
files and folders of the ustar, pax and GNU formats in pieces, and refuses the rest by name.
Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from scoring.package.members import (
    CHUNK_BYTES,
    NAME_LIMIT_BYTES,
    Budget,
    Member,
    PackageError,
    decode_name,
    refuse,
)

BLOCK_BYTES = 512
EXTENSION_LIMIT_BYTES = 64 << 10
_POSIX, _GNU = b"ustar\x0000", b"ustar  \0"
_FILES, _FOLDER = (b"0", b"\0"), b"5"
_EXTENDED, _GLOBAL, _LONG_NAME = b"x", b"g", b"L"
_REFUSED = {
    b"1": "is a hard link",
    b"2": "is a symbolic link",
    b"3": "is a device",
    b"4": "is a device",
    b"6": "is a named pipe",
    b"K": "is a link with a long name",
    b"S": "is a sparse file",
}
_RECORD = re.compile(rb"(\d{1,6}) ([^=\0]{1,200})=", re.ASCII)
_UTF8 = b"ISO-IR 10646 2000 UTF-8"

Read = Callable[[int], bytes]


def is_tar(head: bytes) -> bool:
    """Say whether the first block of a file is a tar header."""
    return head[257:265] in (_POSIX, _GNU)


class GzipStream:
    """Reads what a gzip file holds, never more than asked for at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._waiting = b""

    def read(self, count: int) -> bytes:
        """Give `count` bytes, fewer only at the end. Raises PackageError where it is damaged."""
        pieces = []
        while count > 0:
            piece = self._inflate(count)
            if not piece and self._inflater.eof:
                break
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _inflate(self, count: int) -> bytes:
        if self._inflater.eof:
            if self._inflater.unused_data or self._file.read(1):
                raise PackageError("has bytes behind the end of its compressed data")
            return b""
        data = self._waiting or self._file.read(CHUNK_BYTES)
        try:
            # Without data only what zlib still holds back can come.
            piece = self._inflater.decompress(data, count)
        except zlib.error:
            raise PackageError("is damaged: its compressed data cannot be read") from None
        if not data and not piece and not self._inflater.eof:
            raise PackageError("is cut short: its compressed data has no end")
        self._waiting = self._inflater.unconsumed_tail
        return piece


@dataclass(frozen=True)
class _Header:
    name: bytes
    kind: bytes
    size: int


def read_tar(source: Read, budget: Budget) -> Iterator[Member]:
    """Give the members of a tar archive; each must be taken before the next is asked for.

    source: gives so many bytes, fewer only at the end. Raises PackageError.
    """

    def read(count: int) -> bytes:
        data = source(count)
        budget.count_bytes(len(data))
        return data

    name: bytes | None = None
    while (block := read(BLOCK_BYTES)) and block.strip(b"\0"):
        header = _parse_header(block)
        if header.kind in (_EXTENDED, _GLOBAL, _LONG_NAME):
            given = _read_extension(read, header)
            if given is not None and name is not None:
                refuse(header.name, "has two names")
            name = name if given is None else given
            continue
        shown = decode_name(header.name if name is None else name)
        name = None
        if header.kind in _REFUSED or header.kind not in (*_FILES, _FOLDER):
            refuse(shown, _REFUSED.get(header.kind, "is neither a file nor a folder"))
        is_folder = header.kind == _FOLDER
        if is_folder and header.size:
            refuse(shown, "is a folder with content")
        if not is_folder and shown.endswith("/"):
            refuse(shown, "is a file with a folder's name")
        budget.admit(shown)
        budget.check_claim(shown, header.size)
        pieces = _read_content(read, header.size)
        yield Member(shown.removesuffix("/") if is_folder else shown, is_folder, pieces)
        for _ in pieces:
            pass
    _check_end(read, block, name)


def _check_end(read: Read, block: bytes, name: bytes | None) -> None:
    if len(block) < BLOCK_BYTES:
        raise PackageError("is cut short: it ends without the two empty blocks of a tar archive")
    if name is not None:
        raise PackageError("is cut short: its last name has no member")
    while rest := read(CHUNK_BYTES):
        if rest.strip(b"\0"):
            raise PackageError("has bytes behind the end of the archive")


def _read_content(read: Read, size: int) -> Iterator[bytes]:
    left = size
    while left:
        piece = read(min(left, CHUNK_BYTES))
        if not piece:
            raise PackageError("is cut short: a member has no end")
        left -= len(piece)
        yield piece
    read(-size % BLOCK_BYTES)


def _parse_header(block: bytes) -> _Header:
    if len(block) < BLOCK_BYTES:
        raise PackageError("is cut short: a header has no end")
    magic = block[257:265]
    if magic not in (_POSIX, _GNU):
        raise PackageError("is damaged: a member has no tar header")
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if _parse_octal(block[148:156]) != total:
        raise PackageError("is damaged: a header's checksum is wrong")
    name = _cut(block[:100])
    prefix = _cut(block[345:500]) if magic == _POSIX else b""
    full = prefix + b"/" + name if prefix else name
    size = _parse_octal(block[124:136])
    if size is None:
        refuse(full, "has a size that is no number, or beyond all bounds")
    return _Header(full, block[156:157], size)


def _cut(field: bytes) -> bytes:
    """Give a text field up to its first NUL, behind which nothing may hide."""
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        refuse(text, "has a NUL in its name")
    return text


def _parse_octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    return int(digits, 8) if re.fullmatch(rb"[0-7]{1,12}", digits) else None


def _read_extension(read: Read, header: _Header) -> bytes | None:
    """Read what stands before a member's own header; gives the name it states, if any."""
    if header.size > EXTENSION_LIMIT_BYTES:
        refuse(header.name, f"has an extended header of more than {EXTENSION_LIMIT_BYTES} bytes")
    content = b"".join(_read_content(read, header.size))
    if header.kind == _LONG_NAME:
        name = content.removesuffix(b"\0")
        if len(name) > NAME_LIMIT_BYTES or b"\0" in name:
            refuse(name[:NAME_LIMIT_BYTES], f"has a NUL or over {NAME_LIMIT_BYTES} bytes as name")
        return name
    records = _parse_records(header.name, content)
    for key in records:
        decides = key in (b"path", b"size", b"linkpath") and header.kind == _GLOBAL
        if decides or key == b"size" or key.startswith(b"GNU.sparse"):
            shown = key.decode("ascii", "backslashreplace")
            refuse(header.name, f"has an extended header with {shown}")
    if records.get(b"hdrcharset", _UTF8) != _UTF8:
        refuse(header.name, "has an extended header that is not UTF-8")
    return records.get(b"path")


def _parse_records(name: bytes, content: bytes) -> dict[bytes, bytes]:
    """Read `length key=value` records. Raises PackageError where a length lies or a key repeats."""
    records: dict[bytes, bytes] = {}
    place = 0
    while place < len(content):
        match = _RECORD.match(content, place)
        end = place + int(match.group(1)) if match else 0
        if not match or end <= match.end() or content[end - 1 : end] != b"\n":
            refuse(name, "has an extended header that cannot be read")
        if match.group(2) in records:
            refuse(name, "has an extended header that says something twice")
        records[match.group(2)] = content[match.end() : end - 1]
        place = end
    return records
