"""A launcher and everything it starts: run it, relay what it says, and leave no orphan."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import selectors
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

# What mpirun says first when it ends a job. In Open MPI 5.0 it may then wait for a lock of its own
# for ever: seen in 6 of 173 jobs on four hosts whose ranks all left with status 1 at once.
ENDS_THE_JOB = re.compile(
    r"^(prterun|mpirun) (detected|noticed) that|^MPI_ABORT was invoked|lost communication with a"
)
AFTER_THE_WORK_SECONDS = 60.0  # NCCL, graphs and containers are taken down
AFTER_THE_WORDS_SECONDS = 20.0  # the rest is ended by signals
ASK_EVERY_SECONDS, POLL_SECONDS = 1.0, 0.5


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
                # A process's name is bytes, cut after 15 of them.
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue  # it has ended meanwhile
            if fields[0] != b"Z":
                parents[int(entry.name)] = int(fields[1])
    found, level = [], [pid]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        found += level
    return found


@dataclass(frozen=True)
class End:
    """How a command came to its end."""

    status: int | None  # None: it was ended by us
    how: str  # "ended with status 1": what follows "it" or "the launcher" in a sentence


class _Patience:
    """How long a command may go on: to its limit, less once it has nothing left but to end."""

    def __init__(self, limit_seconds: float, is_over: Callable[[], bool] | None) -> None:
        self.deadline = time.monotonic() + limit_seconds
        self.how = "was ended at its time limit"
        self._is_over, self._asked = is_over, -ASK_EVERY_SECONDS

    def hear(self, line: str) -> None:
        """Take a line that the command wrote."""
        if ENDS_THE_JOB.search(line):
            self._shorten(AFTER_THE_WORDS_SECONDS, "hung while ending the job (it was ended)")

    def is_spent(self) -> bool:
        """Whether the command has had its time."""
        now = time.monotonic()
        if self._is_over is not None and now - self._asked >= ASK_EVERY_SECONDS:
            self._asked = now
            if self._is_over():
                self._is_over = None
                self._shorten(AFTER_THE_WORK_SECONDS, "hung with its work done (it was ended)")
        return now >= self.deadline

    def _shorten(self, seconds: float, how: str) -> None:
        deadline = time.monotonic() + seconds
        if deadline < self.deadline:
            self.deadline, self.how = deadline, how


def run_tree(
    command: list[str],
    relay: Callable[[str], None],
    limit_seconds: float,
    folder: Path,
    is_over: Callable[[], bool] | None = None,
) -> End:
    """Run a command in a folder and pass each line it writes (stdout and stderr) to `relay`.

    It is ended at the time limit; a minute after its work is over (is_over, asked once a second);
    and 20 s after mpirun has said that it ends the job. Whatever happens (interrupt, limit, an
    error in `relay`), no process that it started outlives the call.
    """
    patience = _Patience(limit_seconds, is_over)
    before = set(list_descendants(os.getpid()))
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,  # noqa: PLW1509  one prctl call, safe after fork
        )
    except PermissionError:
        if os.sep in command[0] or shutil.which(command[0]) is not None:
            raise
        # It is nowhere, and one folder of PATH is not this user's to search.
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), command[0]) from None

    def pass_on(line: str) -> None:
        patience.hear(line)
        relay(line)

    try:
        _relay_lines(process, pass_on, patience)
        status = _wait(process, patience)
        return End(status, patience.how if status is None else f"ended with status {status}")
    finally:
        with _hold_interrupts():
            end_tree(process, keep=before)
        if process.stdout is not None:
            process.stdout.close()


def _wait(process: subprocess.Popen[bytes], patience: _Patience) -> int | None:
    """Wait for the end of a process that has closed its output; None when patience is spent."""
    while True:
        try:
            return process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if patience.is_spent():
                return None


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
    process: subprocess.Popen[bytes], relay: Callable[[str], None], patience: _Patience
) -> None:
    if process.stdout is None:
        raise ValueError("the process was started without a pipe")
    pipe = process.stdout.fileno()
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while not patience.is_spent():
            # A launcher may end while something it started holds the pipe open: poll it too.
            ready = selector.select(timeout=POLL_SECONDS)
            chunk = os.read(pipe, 1 << 16) if ready else b""
            if chunk:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    relay(line.decode("utf-8", "replace"))
            elif ready or process.poll() is not None:
                if rest:
                    relay(rest.decode("utf-8", "replace"))
                return


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
