"""Writes a package as tar, tar.gz or zip: the same files give the same bytes.

Entries are sorted and carry no time, owner or mode of the machine at hand.
"""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from pathlib import Path
from typing import IO

from scoring.package.stage import Stage

# zip knows no earlier time.
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_REGULAR_FILE = 0o100000


def write_archive(stage: Stage, form: str, output: Path) -> None:
    """Write a staged package as an archive; form: "tar", "tar.gz" or "zip"."""
    with open(output, "wb") as file:
        if form == "zip":
            _write_zip(stage, file)
        elif form == "tar.gz":
            with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
                _write_tar(stage, packed)
        else:
            _write_tar(stage, file)


def _list_members(stage: Stage) -> list[tuple[str, str, int]]:
    """Give path below the package, path below the submitter's folder, and mode, sorted."""
    top = stage.folder.name
    return [
        (f"{top}/{path}", path, 0o755 if path in stage.programs else 0o644)
        for path in sorted(stage.entries)
    ]


def _write_tar(stage: Stage, file: IO[bytes] | gzip.GzipFile) -> None:
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, path, mode in _list_members(stage):
            member = tarfile.TarInfo(name)
            member.size, member.mode = stage.entries[path].bytes, mode
            with open(stage.folder / path, "rb") as content:
                archive.addfile(member, content)


def _write_zip(stage: Stage, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, path, mode in _list_members(stage):
            member = zipfile.ZipInfo(name, _ZIP_TIME)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = _UNIX
            member.external_attr = (_REGULAR_FILE | mode) << 16
            archive.writestr(member, (stage.folder / path).read_bytes())
