"""Files that are whole or not there: write to a temporary name, then rename."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from harness.commands import InputError


@contextmanager
def write_atomically(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that takes its name only when the block ends well.

    mode: "w" (UTF-8, LF line ends) or "wb". The data is on the disk before the rename, and on any
    error the temporary file is removed and an earlier file of that name stays as it was. A killed
    process leaves it: only who holds the folder's lock knows that nobody writes it any more.
    Raises OSError as open, write and rename do, and for what must not be replaced, as a device.
    """
    path = Path(path)
    if not path.name:  # an empty option, or the current folder
        raise IsADirectoryError(errno.EISDIR, "It is a folder", str(path))
    if path.exists() and not path.is_file() and not path.is_dir():
        raise FileExistsError(errno.EEXIST, "It is no regular file", str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    text = {"encoding": "utf-8", "newline": "\n"} if "b" not in mode else {}
    try:
        with open(temporary, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)  # the name that the user knows
        with suppress(OSError):  # the first fault is to be told
            temporary.unlink()
        raise


def check_writable(folder: Path, what: str) -> None:
    """Raise InputError where this user can make nothing in a folder, before work is done for it.

    what: how the sentence names the output, such as "--output DIR".
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{what}: {folder} is a file: name another folder")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{what}: this user may not write to {folder}: name another place")
