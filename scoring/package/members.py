"""Members of a package of unknown origin: what names and sizes are let in.

A package is read strictly: what our own writer, GNU tar, Python or Info-ZIP make of plain files
and folders is read, everything else is refused by name before a byte of it is used.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from scoring.findings import quote

CHUNK_BYTES = 1 << 16
NAME_LIMIT_BYTES = 1024
PART_LIMIT_BYTES = 255
DEPTH_LIMIT = 32
_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True)
class Limits:
    """How large a package may be; what it claims of itself is never believed.

    The ratio of content to archive is looked at once the content passes `ratio_free_bytes`:
    small files of many equal log lines compress well without being a bomb.
    """

    archive_bytes: int = 512 << 20
    members: int = 10_000
    member_bytes: int = 256 << 20
    total_bytes: int = 512 << 20
    ratio: int = 200
    ratio_free_bytes: int = 16 << 20


class PackageError(Exception):
    """Why a package is not read: half a sentence that follows its name."""


def refuse(name: str | bytes, reason: str) -> NoReturn:
    """Refuse a member. Raises PackageError."""
    shown = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    raise PackageError(f"member {quote(shown, 120)} {reason}")


@dataclass(frozen=True)
class Member:
    """One member: its name in the archive, whether it is a folder, its content in pieces."""

    name: str
    is_folder: bool
    pieces: Iterator[bytes]


@dataclass
class Budget:
    """What may still be unpacked; counts content as it comes out, whatever headers claim."""

    limits: Limits
    archive_bytes: int
    members: int = 0
    total_bytes: int = 0

    def admit(self, name: str) -> None:
        """Count one member more. Raises PackageError beyond the limit."""
        self.members += 1
        if self.members > self.limits.members:
            refuse(name, f"is one more than the {self.limits.members} that are read")

    def check_claim(self, name: str, claimed_bytes: int) -> None:
        """Refuse at once what is too large by its own words. Raises PackageError."""
        if claimed_bytes > self.limits.member_bytes:
            refuse(name, f"is larger than {self.limits.member_bytes >> 20} MiB")

    def count(self, name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Pass a member's content on, counting. Raises PackageError beyond a member's limit."""
        member_bytes = 0
        for piece in pieces:
            member_bytes += len(piece)
            self.check_claim(name, member_bytes)
            yield piece

    def count_bytes(self, count: int) -> None:
        """Count what was unpacked, headers included. Raises PackageError beyond total or ratio."""
        self.total_bytes += count
        if self.total_bytes > self.limits.total_bytes:
            raise PackageError(f"holds more than {self.limits.total_bytes >> 20} MiB")
        most = max(self.limits.ratio_free_bytes, self.limits.ratio * self.archive_bytes)
        if self.total_bytes > most:
            raise PackageError(
                f"unpacks to more than {self.limits.ratio} times its size: no run log does"
            )


def decode_name(name: bytes, prefix: str = "") -> str:
    """Read a member's name, or its last part below `prefix`, as UTF-8. Raises PackageError."""
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        refuse(prefix.encode("utf-8") + name, "has a name that is not UTF-8")


def split_name(name: str) -> tuple[str, ...]:
    """Split a member's name (a folder's without its last slash) into its parts.

    Raises PackageError for every name that could mean another place than it says.
    """
    if not name.isprintable():
        refuse(name, "has control characters in its name")
    if "\\" in name:
        refuse(name, "has a backslash in its name")
    if name.startswith("/"):
        refuse(name, "has an absolute name")
    parts = tuple(name.split("/"))
    for part in parts:
        if part == "..":
            refuse(name, "leads out of the package by '..'")
        if part in ("", "."):
            refuse(name, "has an empty part or '.' in its name")
        if _DRIVE.match(part):
            refuse(name, "has a drive letter in its name")
        if len(part.encode("utf-8", "surrogateescape")) > PART_LIMIT_BYTES:
            refuse(name, f"has a part longer than {PART_LIMIT_BYTES} bytes in its name")
    if len(name.encode("utf-8", "surrogateescape")) > NAME_LIMIT_BYTES:
        refuse(name, f"has a name longer than {NAME_LIMIT_BYTES} bytes")
    if len(parts) > DEPTH_LIMIT:
        refuse(name, f"lies deeper than {DEPTH_LIMIT} folders")
    return parts


def fold(name: str) -> str:
    """Give what names have in common that some file system takes for one name."""
    composed = unicodedata.normalize("NFC", name)
    return unicodedata.normalize("NFC", composed.casefold())


@dataclass
class NameTable:
    """The names seen so far: none twice on any file system, no file that is a folder too."""

    files: dict[str, str] = field(default_factory=dict)
    folders: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, parts: tuple[str, ...], is_folder: bool) -> None:
        """Take a name in. Raises PackageError where it or a folder above it is there otherwise."""
        for depth in range(1, len(parts)):
            self._add_folder("/".join(parts[:depth]), name)
        own = "/".join(parts)
        if is_folder:
            self._add_folder(own, name)
            return
        other = self.files.get(fold(own)) or self.folders.get(fold(own))
        if other is not None:
            self._refuse_twice(name, other)
        self.files[fold(own)] = own

    def _add_folder(self, folder: str, name: str) -> None:
        if fold(folder) in self.files:
            refuse(name, f"needs a folder where {quote(folder, 120)} is a file")
        other = self.folders.setdefault(fold(folder), folder)
        if other != folder:
            self._refuse_twice(name, other)

    @staticmethod
    def _refuse_twice(name: str, other: str) -> NoReturn:
        same = "is there twice" if other == name else f"is one name with {quote(other, 120)}"
        refuse(name, f"{same}{'' if other == name else ' on some file systems'}")
