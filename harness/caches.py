"""Clearing the page cache of the data before a run, and saying what was really done.

Rules: "Data State at Start of Run": the caches are flushed or the system restarted before each
run. Without root, posix_fadvise drops each data file's pages on this node; as root,
/proc/sys/vm/drop_caches drops everything. Neither reaches the caches of a storage server.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path
from typing import Any

from harness.commands import InputError

DROP_CACHES = Path("/proc/sys/vm/drop_caches")


def clear_caches(method: str, files: list[Path]) -> dict[str, Any]:
    """Drop the data files' pages from this node's page cache.

    method: "fadvise" (any user) or "drop_caches" (root).
    Returns {"method", "files", "bytes", "resident_bytes"}; resident_bytes is what is still in
    memory afterwards, None where only the files' owner could tell.
    Raises InputError where the method is refused: a run then does not start.
    """
    if method == "drop_caches":
        os.sync()
        try:
            DROP_CACHES.write_text("3\n", encoding="ascii")
        except OSError:
            raise InputError(
                "cannot write /proc/sys/vm/drop_caches: run as root or set cache_clear = 'fadvise'"
            ) from None
    for file in files:
        _drop_pages(file)
    resident = [_count_resident_bytes(file) for file in files]
    return {
        "method": method,
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "resident_bytes": None if None in resident else sum(filter(None, resident)),
    }


def _drop_pages(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # dirty pages stay, whatever is advised
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


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
    return None if failed else sum(page & 1 for page in vector) * mmap.PAGESIZE
