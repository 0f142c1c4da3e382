"""Clearing the page cache of the data before a run, and saying what was really done.

Rules: "Data State at Start of Run": the caches are flushed or the system restarted before each
run. Without root, posix_fadvise drops each data file's pages on this node; as root,
/proc/sys/vm/drop_caches drops everything; a site's own command may do what users cannot. None of
them reaches the caches of a storage server.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shlex
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.commands import InputError

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
COMMAND_LIMIT_SECONDS = 300.0
# More than this share of the data still in memory is no cleared cache. Below it: what readers of
# other jobs hold, which no user can drop.
RESIDENT_LIMIT = 0.01
OTHERS_FILES = "pages in memory: of files that this user does not own the kernel tells nothing"
SERVERS = "caches of a storage server: no command of a node reaches them"


def clear_caches(method: str, files: list[Path], command: Sequence[str] = ()) -> dict[str, Any]:
    """Drop the data files' pages from this node's page cache.

    method: "fadvise" (any user), "drop_caches" (root), or "site_command", which runs `command`
    (no shell, at most COMMAND_LIMIT_SECONDS, status 0). All three then advise the kernel to drop
    each file's pages too, which is harmless where they have gone.
    Returns {"method", "files", "bytes", "resident_bytes_before", "resident_bytes",
    "not_verified"}, with "command" where one was run; resident bytes are what is in memory, None
    where only the files' owner could tell; not_verified: what nobody here can know.
    Raises InputError where the method is refused or fails: a run then does not start.
    """
    before = _sum_resident_bytes(files)
    if method == "drop_caches":
        _drop_all()
    elif method == "site_command":
        _run_site_command(command)
    elif method != "fadvise":
        raise ValueError(f"no method '{method}'")
    for file in files:
        _drop_pages(file)
    after = _sum_resident_bytes(files)
    record: dict[str, Any] = {
        "method": method,
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "resident_bytes_before": before,
        "resident_bytes": after,
        "not_verified": [*([OTHERS_FILES] if after is None else []), SERVERS],
    }
    return record | ({"command": shlex.join(command)} if method == "site_command" else {})


def check_cleared(record: dict[str, Any]) -> None:
    """Refuse a record of `clear_caches` whose data is still in memory as far as can be seen.

    Raises InputError; a record that could not be verified passes, and says so itself.
    """
    left, size = record["resident_bytes"], record["bytes"]
    if left is not None and left > RESIDENT_LIMIT * size:
        raise InputError(
            f"{left:,} of {size:,} bytes of data are still in this node's memory after cache_clear "
            f"= '{record['method']}': end what reads the data, move it from a file system in "
            f"memory to a disk, or set cache_clear = 'site_command'"
        )


def _drop_all() -> None:
    os.sync()
    try:
        DROP_CACHES.write_text("3\n", encoding="ascii")
    except OSError:
        raise InputError(
            "cannot write /proc/sys/vm/drop_caches: run as root or set cache_clear = 'fadvise'"
        ) from None


def _run_site_command(command: Sequence[str]) -> None:
    shown = f"cache_clear_command '{shlex.join(command)}'"
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{shown} cannot be started: {reason}") from None
    try:
        said = process.communicate(timeout=COMMAND_LIMIT_SECONDS)[1].decode("utf-8", "replace")
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise InputError(
            f"{shown} was ended after {COMMAND_LIMIT_SECONDS:g} s: it may ask for a password"
        ) from None
    if process.returncode != 0:
        last = (said.strip().splitlines() or ["it said nothing"])[-1][:200]
        raise InputError(f"{shown} ended with status {process.returncode}: {last}")


def _drop_pages(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # dirty pages stay, whatever is advised
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _sum_resident_bytes(files: list[Path]) -> int | None:
    resident = [_count_resident_bytes(file) for file in files]
    return None if None in resident else sum(filter(None, resident))


def _count_resident_bytes(file: Path) -> int | None:
    status = file.stat()
    if os.geteuid() not in (0, status.st_uid):
        return None  # the kernel tells others that every page is resident
    if status.st_size == 0:
        return 0
    pages = -(-status.st_size // mmap.PAGESIZE)
    vector = (ctypes.c_ubyte * pages)()
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    with (
        open(file, "rb") as source,
        mmap.mmap(source.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=protection) as view,
    ):
        address = ctypes.c_char.from_buffer(view)
        size = ctypes.c_size_t(status.st_size)
        libc = ctypes.CDLL(None, use_errno=True)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(address)), size, vector)
        del address
    return None if failed else bytes(vector).translate(LOWEST_BITS).count(1) * mmap.PAGESIZE


# Of a byte that mincore writes for a page, only the lowest bit has a meaning.
LOWEST_BITS = bytes(value & 1 for value in range(256))
