"""Writes files whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from scoring.exits import InputError


@contextmanager
def write_atomically(path: Path, option: str = "--output") -> Iterator[IO[bytes]]:
    """Open a file that gets its name when the block ends well, and vanishes when it does not.

    option: what the user named the file with. Raises InputError where its folder does not exist
    or takes no file, and where it is a folder or something else not to be replaced, as a device.
    """
    if path.is_dir():
        raise InputError(f"{option} {path}: is a folder: name a file")
    if path.exists() and not path.is_file():
        raise InputError(f"{option} {path}: is no regular file: name one, or a new name")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: no such folder: make {path.parent} first")
    try:
        # Closed by the block below. A name near the limit leaves no room for a longer one.
        file = tempfile.NamedTemporaryFile(  # noqa: SIM115
            "wb", dir=path.parent, prefix=f".{path.name[:40]}.", delete=False
        )
    except OSError as error:
        raise InputError(f"{option} {path}: {error.strerror}: nothing was written") from None
    with file:
        temporary = Path(file.name)
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_get_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _get_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
