"""Latency of a result, and the choice among more runs than needed (rules, Scoring)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from scoring.run import Run


def compute_olympic_mean(minutes: list[float]) -> float:
    """Give the mean without fastest and slowest, minutes; infinite with two failed runs."""
    return fmean(sorted(minutes)[1:-1])


def get_minutes(run: Run) -> float:
    """Give the minutes that a run counts with: infinite where it is unusable."""
    return math.inf if run.unusable or run.minutes is None else run.minutes


@dataclass(frozen=True)
class Window:
    """Consecutive runs by launch time: place of the first, the runs, their latency in minutes."""

    first: int
    runs: tuple[Run, ...]
    minutes: float


@dataclass(frozen=True)
class WindowChoice:
    """All windows of a group and the one that counts; `median_minutes` may be infinite."""

    windows: tuple[Window, ...]
    chosen: Window
    median_minutes: float

    def describe(self) -> dict[str, Any]:
        """Give the choice as data, infinite latencies as null."""
        return {
            "files": [run.name for run in self.chosen.runs],
            "first": self.chosen.first,
            "latency_minutes": _finite(self.chosen.minutes),
            "median_minutes": _finite(self.median_minutes),
            "windows": [
                {
                    "first": window.first,
                    "files": [run.name for run in window.runs],
                    "latency_minutes": _finite(window.minutes),
                }
                for window in self.windows
            ],
        }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _order_by_launch(runs: list[Run]) -> list[Run]:
    """Give the runs in the order of launch; `runs` are in the order of their file numbers.

    A log without any time stands behind the file before it: in the end it would be in fewer
    windows than a run that failed where it was made.
    """
    known = [run for run in runs if math.isfinite(run.launch_ms)]
    order = sorted(known, key=lambda run: (run.launch_ms, run.name))
    before: Run | None = None
    for run in runs:
        if math.isinf(run.launch_ms):
            place = next((i for i, other in enumerate(order, 1) if other is before), 0)
            order.insert(place, run)
        before = run
    return order


def choose_window(runs: list[Run], needed: int) -> WindowChoice:
    """Choose the `needed` consecutive runs whose latency is the median of all windows.

    Order is launch time. With an even number of windows the slower of the two middle ones
    counts, because the rules leave it open; so an infinite upper middle makes it invalid.
    """
    order = _order_by_launch(runs)
    windows = []
    for first in range(len(order) - needed + 1):
        members = tuple(order[first : first + needed])
        latency = compute_olympic_mean([get_minutes(run) for run in members])
        windows.append(Window(first, members, latency))
    ranked = sorted(windows, key=lambda window: (window.minutes, window.first))
    upper = ranked[len(ranked) // 2]
    lower = ranked[(len(ranked) - 1) // 2]
    return WindowChoice(tuple(windows), upper, (upper.minutes + lower.minutes) / 2)
