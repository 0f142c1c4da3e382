"""A package being made: its files below a temporary folder, each hashed as it is written."""

from __future__ import annotations

import hashlib
from pathlib import Path

from scoring.exits import InputError
from scoring.findings import quote
from scoring.package.layout import FileEntry, is_package_path


class Stage:
    """The submitter's folder of a package in the making.

    `entries` holds size and hash of every file by its path; `programs` the paths of those that
    begin with #!, which may be run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[str, FileEntry] = {}
        self.programs: set[str] = set()
        folder.mkdir(parents=True)

    def add(self, path: str, content: bytes) -> None:
        """Write one file. Raises InputError for a path that a package cannot hold."""
        if not is_package_path(path) or path in self.entries:
            raise InputError(f"{quote(path)} cannot be a path in a package: rename the file")
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        if content.startswith(b"#!"):
            place.chmod(place.stat().st_mode | 0o111)
            self.programs.add(path)
        self.entries[path] = FileEntry(hashlib.sha256(content).hexdigest(), len(content))
