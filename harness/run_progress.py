"""Progress of a run on rank 0's stderr, from a thread that reads one counter.

The timed loop adds to `samples` and does nothing else for it: no clock, no write, no lock.
"""

from __future__ import annotations

import sys
import threading
import time

from harness.progress import format_seconds
from harness.ranks import Ranks

# The campaign draws lines that begin so in place.
MARK = "~ "


class RunProgress:
    """Prints samples, rate, time left at most, and the last accuracy while a run goes on.

    total_samples: what the run consumes if it never reaches its target.
    """

    def __init__(
        self, ranks: Ranks, total_samples: int, unit: str, interval_seconds: float
    ) -> None:
        self.samples = 0
        self.note = ""
        self._total, self._unit = total_samples, unit
        self._interval_seconds = interval_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._report, daemon=True) if ranks.first else None

    def start(self) -> None:
        """Start reporting; call it when the clock starts."""
        self._start_seconds = time.monotonic()
        self.start_lap()
        if self._thread is not None:
            self._thread.start()

    def stop(self) -> None:
        """Stop reporting."""
        self._ended.set()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join()

    def start_lap(self) -> None:
        """Measure the next `lap_rate` from here."""
        self._lap_seconds, self._lap_samples = time.monotonic(), self.samples

    def lap_seconds(self) -> float:
        """Seconds since `start_lap`."""
        return max(time.monotonic() - self._lap_seconds, 1e-9)

    def lap_rate(self) -> float:
        """Samples a second of all ranks since `start_lap`."""
        return (self.samples - self._lap_samples) / self.lap_seconds()

    def rate(self) -> float:
        """Samples a second of all ranks since the start, evaluations included."""
        return self.samples / max(time.monotonic() - self._start_seconds, 1e-9)

    def _report(self) -> None:
        while not self._ended.wait(self._interval_seconds):
            rate = self.rate()
            left_seconds = (self._total - self.samples) / max(rate, 1e-9)
            line = f"{MARK}{self.samples:,} of at most {self._total:,} {self._unit}, "
            left = f", at most {format_seconds(left_seconds)} left" if rate > 0 else ""
            line += f"{rate:,.0f}/s{left} {self.note}"
            sys.stderr.write(line.rstrip() + "\n")
            sys.stderr.flush()
