"""A launcher and everything it starts: run it, relay what it says, and leave no orphan."""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def adopt_orphans() -> None:
    """Make this process the parent of any process that its children leave behind (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def list_descendants(pid: int) -> list[int]:
    """List the living processes below `pid`, children before grandchildren."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found, level = [], [pid]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        found += level
    return found


def run_tree(
    command: list[str],
    relay: Callable[[str], None],
    limit_seconds: float,
    folder: Path,
) -> int | None:
    """Run a command in a folder and pass each line it writes (stdout and stderr) to `relay`.

    Returns its exit status, or None if it was ended at the time limit. Whatever happens
    (interrupt, limit, an error in `relay`), no process that it started outlives the call.
    """
    deadline = time.monotonic() + limit_seconds
    before = set(list_descendants(os.getpid()))
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_end_with_parent,  # noqa: PLW1509  one prctl call, safe after fork
    )
    try:
        if not _relay_lines(process, relay, deadline):
            return None
        return process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        with _hold_interrupts():
            end_tree(process, keep=before)
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def _hold_interrupts() -> Iterator[None]:
    """Let nobody's second Ctrl-C stop the cleaning up half way (main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)


def _relay_lines(
    process: subprocess.Popen[bytes], relay: Callable[[str], None], deadline: float
) -> bool:
    if process.stdout is None:
        raise ValueError("the process was started without a pipe")
    pipe = process.stdout.fileno()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while time.monotonic() < deadline:
            # A launcher may end while something it started holds the pipe open: poll it too.
            ready = selector.select(timeout=0.5)
            chunk = os.read(pipe, 1 << 16) if ready else b""
            if chunk:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    relay(line.decode("utf-8", "replace"))
            elif ready or process.poll() is not None:
                if rest:
                    relay(rest.decode("utf-8", "replace"))
                return True
    return False


def end_tree(
    process: subprocess.Popen[bytes], keep: set[int], patience_seconds: float = 10.0
) -> None:
    """End a launcher and all it started: politely, then surely.

    keep: processes below this one that were there before the launcher and are left alone.
    """
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    # What the launcher left behind has become a child of this process (adopt_orphans).
    orphans = [pid for pid in list_descendants(os.getpid()) if pid not in keep]
    for pid in orphans:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in orphans:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
