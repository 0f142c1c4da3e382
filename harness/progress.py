"""Progress of long work on stderr: how much, how fast, how long still."""

from __future__ import annotations

import sys
import time
from typing import ClassVar, TextIO


def format_seconds(seconds: float) -> str:
    """Write a duration as a person would: 42 s, 3 min 05 s, 2 h 10 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """A line on stderr for work of a known size, at most every `interval_seconds`.

    On a terminal the line is redrawn in place; in a file each report is a line of its own, and
    they come ten times more rarely. Work ends with `finish`, which leaves a line, or with `end`.
    """

    # The one whose line stands on a terminal, with the cursor behind it.
    shown: ClassVar[Progress | None] = None

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        stream: TextIO | None = None,
        interval_seconds: float = 0.5,
    ) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.stream = stream if stream is not None else sys.stderr
        self.terminal = self.stream.isatty()
        self.interval_seconds = interval_seconds if self.terminal else 10 * interval_seconds
        self.start_seconds = self.shown_seconds = time.monotonic()

    def update(self, done: int, note: str = "") -> None:
        """Report that `done` of `total` units are finished; `note` is appended as it is."""
        now = time.monotonic()
        if now - self.shown_seconds >= self.interval_seconds:
            self.shown_seconds = now
            self._write(self._line(done, now, note))

    def finish(self, done: int, note: str = "") -> None:
        """Write the last line, with the whole time taken."""
        now = time.monotonic()
        taken = format_seconds(now - self.start_seconds)
        rate = done / max(now - self.start_seconds, 1e-9)
        line = f"{self.label}: {done:,} {self.unit} in {taken} ({rate:,.0f} {self.unit}/s)"
        self._write(f"{line} {note}".rstrip())
        if self.terminal:
            self.stream.write("\n")
            self.stream.flush()
            Progress.shown = None

    def end(self) -> None:
        """Take the line off the terminal, so that what is written next begins a line."""
        if Progress.shown is self:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
            Progress.shown = None

    def _line(self, done: int, now: float, note: str) -> str:
        rate = done / max(now - self.start_seconds, 1e-9)
        left = (self.total - done) / rate if rate > 0 else 0.0
        share = 100 * done / self.total if self.total else 100.0
        line = f"{self.label}: {done:,}/{self.total:,} {self.unit} ({share:.0f} %)"
        line += f", {rate:,.0f} {self.unit}/s"
        if done < self.total and rate > 0:
            line += f", {format_seconds(left)} left"
        return f"{line} {note}".rstrip()

    def _write(self, line: str) -> None:
        if self.terminal:
            self.stream.write(f"\r\x1b[K{line}")
            Progress.shown = self
        else:
            self.stream.write(f"{line}\n")
        self.stream.flush()


def end_progress() -> None:
    """Take a line of unfinished work off the terminal, before a sentence about its end."""
    if Progress.shown is not None:
        Progress.shown.end()
