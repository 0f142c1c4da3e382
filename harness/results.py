"""The results folder of a campaign: nothing in it is replaced, half-written or deleted."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.attempts import (
    Attempt,
    find_reason,
    list_attempts,
    next_attempt,
    record_attempt,
)
from harness.commands import InputError
from harness.files import write_atomically

FREE_SPACE_BYTES = 64 << 20
RESERVE_BYTES = 1 << 20
TAIL_BYTES = 4096
TOKEN = ":::MLLOG "


@dataclass(frozen=True)
class RunEnd:
    """What the end of a run's log says."""

    status: str
    accuracy: float | None
    reached_at: float | None
    minutes: float


def read_run_end(log: Path) -> RunEnd | None:
    """Read status, last accuracy and minutes of a log of ours; None without a whole run_stop line.

    A line that breaks off, as a full disk or a kill leaves it, is passed over.
    """
    start = stop = accuracy = point = status = None
    if not log.exists():
        return None
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith(TOKEN):
            continue
        try:
            event = json.loads(line[len(TOKEN) :])
        except ValueError:
            continue
        if event["key"] == "run_start":
            start = event["time_ms"]
        elif event["key"] == "eval_accuracy":
            accuracy, point = event["value"], event["metadata"]["epoch_num"]
        elif event["key"] == "run_stop":
            stop, status = event["time_ms"], event["metadata"]["status"]
    if start is None or stop is None or status is None:
        return None
    return RunEnd(status, accuracy, point, (stop - start) / 60_000)


def has_started(log: Path) -> bool:
    """Whether a log of ours holds a run_start line: the clock has begun to run."""
    if not log.exists():
        return False
    return '"key": "run_start"' in log.read_text(encoding="utf-8", errors="replace")


def has_stopped(log: Path) -> bool:
    """Whether a log of ours ends with a run_stop line; reads its end only, so ask at will."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            tail = file.read()
    except FileNotFoundError:
        return False
    return b'"key": "run_stop"' in tail and tail.endswith(b"\n")


def _read_settings(record: Path) -> dict[str, Any]:
    """Read what a campaign was begun with. Raises InputError for what no campaign writes."""
    try:
        settings = json.loads(record.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        raise InputError(
            f"{record}: not what a campaign writes: name another folder with --results"
        )
    return settings


class Results:
    """DIR/NAME with resnet/, bert/ (result_<k>.txt), output/ (what the ranks wrote), failed/."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.failed = folder / "failed"
        # Held while a campaign runs and given up for a record that finds the disk full.
        self.reserve = folder / ".reserve"
        self.settings: dict[str, str] = {}

    def log(self, benchmark: str, run: int) -> Path:
        """The log of a finished run."""
        return self.folder / benchmark / f"result_{run}.txt"

    def unfinished_log(self, benchmark: str, run: int) -> Path:
        """Where a run writes its log until it has finished."""
        return self.folder / benchmark / f".unfinished_{run}.txt"

    def output(self, benchmark: str, run: int) -> Path:
        """What the launcher and the ranks of a run wrote to stdout and stderr."""
        return self.folder / "output" / f"{benchmark}_{run}.txt"

    def finished_runs(self, benchmark: str) -> list[int]:
        """The numbers of finished runs, ascending."""
        for log in sorted((self.folder / benchmark).glob(".unfinished_*.txt")):
            # Its run ended, but the campaign was killed before it could give the log its name.
            number = log.stem.removeprefix(".unfinished_")
            if number.isdigit() and read_run_end(log) is not None:
                self.keep(benchmark, int(number))
        names = (self.folder / benchmark).glob("result_*.txt")
        numbers = (path.stem.removeprefix("result_") for path in names)
        return sorted(int(number) for number in numbers if number.isdigit())

    def open(self, settings: dict[str, str], benchmarks: list[str], resume: bool) -> None:
        """Make the folders, or go on with an earlier campaign of the same settings.

        settings: what the campaign is made of (hashes of the system and configuration files).
        Raises InputError if there are runs and no --resume, or if the settings have changed, or
        if there is next to no space; OSError where the folder cannot be written.
        """
        finished = sum(len(self.finished_runs(benchmark)) for benchmark in ("resnet", "bert"))
        if finished and not resume:
            raise InputError(
                f"{self.folder} holds {finished} finished run(s) of an earlier campaign: go on "
                f"with --resume, or name another folder with --results"
            )
        for name in (*benchmarks, "output"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.folder).free
        if free < FREE_SPACE_BYTES:
            raise InputError(f"{self.folder}: {free >> 20} MiB of disk left, 64 needed: free some")
        record = self.folder / "campaign.json"
        if finished and record.exists():
            for key, value in _read_settings(record).items():
                if settings.get(key, value) != value:
                    raise InputError(
                        f"{key} has changed since {self.folder} was begun: one campaign has one "
                        f"setting, so name another folder with --results"
                    )
        self._record_left_behind()
        with write_atomically(record) as file:
            json.dump(settings, file, indent=1)
        with write_atomically(self.reserve, "wb") as reserve:
            reserve.write(os.urandom(RESERVE_BYTES))  # nothing that a file system could compress
        self.settings = settings

    def _record_left_behind(self) -> None:
        """Put runs on record whose campaign was killed before it could do so itself."""
        for benchmark in ("resnet", "bert"):
            for log in sorted((self.folder / benchmark).glob(".unfinished_*.txt")):
                number = log.stem.removeprefix(".unfinished_")
                if number.isdigit():
                    words = find_reason(self.output(benchmark, int(number)))
                    reason = "the campaign itself was ended before the run was"
                    self.record_failure(
                        benchmark, int(number), f"{reason}; {words}" if words else reason, None
                    )

    def record_failure(self, benchmark: str, run: int, reason: str, status: int | None) -> Attempt:
        """Move a failed run's log and output to failed/, with a record of the reason.

        status: the launcher's, None where the campaign ended it. On a full disk the reserve makes
        room. Raises OSError, and then log and output are left for the next start.
        """
        log = self.unfinished_log(benchmark, run)
        attempt = Attempt(
            benchmark=benchmark,
            run=run,
            attempt=next_attempt(self.failed, benchmark, run),
            reason=reason,
            launcher_status=status,
            clock_started=has_started(log),
            recorded_utc=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            settings=self.settings,
        )
        output = self.output(benchmark, run)
        try:
            record_attempt(self.failed, attempt, log, output)
        except OSError:
            if not self.reserve.exists():
                raise
            self.reserve.unlink()
            record_attempt(self.failed, attempt, log, output)
        return attempt

    def failed_attempts(self) -> list[Attempt]:
        """All failed attempts on record."""
        return list_attempts(self.failed)

    def keep(self, benchmark: str, run: int) -> Path:
        """Give a finished run's log its name. Raises InputError rather than replace one."""
        final = self.log(benchmark, run)
        # Only the campaign that holds the lock makes results, so nothing can come in between.
        if final.exists():
            raise InputError(f"{final} has appeared meanwhile: it is left as it is")
        os.rename(self.unfinished_log(benchmark, run), final)
        return final

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one campaign. Raises InputError while another holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "w", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"another campaign is running in {self.folder}") from None
            except OSError as error:
                raise InputError(
                    f"{self.folder} cannot be locked ({error.strerror}): its file system has no "
                    f"locks (Lustre: mounted without -o flock); name a folder on another one with "
                    f"--results"
                ) from None
            try:
                yield
            finally:
                with suppress(OSError):  # what ended the campaign is what to tell
                    self.reserve.unlink(missing_ok=True)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
