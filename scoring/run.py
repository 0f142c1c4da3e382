"""One run: the facts that its log states, without judging them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from scoring.findings import Finding
from scoring.log import Event, Problem, RunLog
from scoring.rules import TARGETS, is_number

_WORK_KEYS = frozenset(
    f"{what}_{end}" for what in ("block", "epoch", "eval") for end in ("start", "stop", "accuracy")
)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: point in epochs (ResNet) or samples (BERT), accuracy, its log line."""

    point: float
    accuracy: float
    event: Event

    @property
    def time_ms(self) -> float:
        """Give the time stamped on the evaluation."""
        return self.event.time_ms


def read_seed(value: Any) -> int | None:
    """Read a logged seed: a whole number or its text. The stock check takes 1.5 for 1."""
    if isinstance(value, str):
        return int(value) if re.fullmatch(r"\s*[+-]?\d{1,40}\s*", value, re.ASCII) else None
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if is_number(value) and value == int(value) else None


@dataclass
class Run:
    """One run of a benchmark; `unusable` is filled by the verdict, with reason and line."""

    benchmark: str
    log: RunLog
    compliant: bool = False
    compliance_messages: list[tuple[int | None, str]] = field(default_factory=list)
    unusable: list[tuple[int | None, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Give the file's name relative to the examined folder."""
        return self.log.name

    @cached_property
    def _by_key(self) -> dict[str, list[Event]]:
        table: dict[str, list[Event]] = {}
        for event in self.log.events:
            table.setdefault(event.key, []).append(event)
        return table

    def get_events(self, key: str) -> list[Event]:
        """Give all lines with this key, in file order."""
        return self._by_key.get(key, [])

    def get_last(self, key: str) -> Event | None:
        """Give the last line with this key, or None."""
        events = self.get_events(key)
        return events[-1] if events else None

    def get_value(self, key: str) -> Any:
        """Give the value of the last line with this key, or None."""
        event = self.get_last(key)
        return event.value if event else None

    def get_text(self, key: str) -> str | None:
        """Give the value of the last line with this key where it is text."""
        value = self.get_value(key)
        return value if isinstance(value, str) else None

    @property
    def start(self) -> Event | None:
        """Give the line that starts the clock: the last run_start, as the stock tools take it."""
        return self.get_last("run_start")

    @property
    def stop(self) -> Event | None:
        """Give the line that stops the clock: the last run_stop."""
        return self.get_last("run_stop")

    @property
    def status(self) -> str | None:
        """Give the status of run_stop where it is text."""
        status = self.stop.metadata.get("status") if self.stop else None
        return status if isinstance(status, str) else None

    @property
    def minutes(self) -> float | None:
        """Give run_stop - run_start in minutes, unrounded; None without both or backwards."""
        if self.start is None or self.stop is None or self.stop.time_ms <= self.start.time_ms:
            return None
        return (self.stop.time_ms - self.start.time_ms) / 60_000

    @property
    def initialisation(self) -> Event | None:
        """Give the earliest init_start by time."""
        return min(self.get_events("init_start"), key=lambda event: event.time_ms, default=None)

    @property
    def launch_ms(self) -> float:
        """Give the time by which runs are ordered: earliest init_start, else the first line's."""
        event = self.initialisation or next(iter(self.log.events), None)
        return event.time_ms if event else math.inf

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """Give the evaluations with a number for point and accuracy, in file order."""
        return [
            Evaluation(event.metadata["epoch_num"], event.value, event)
            for event in self.get_events("eval_accuracy")
            if is_number(event.metadata.get("epoch_num")) and is_number(event.value)
        ]

    @cached_property
    def evaluations_by_point(self) -> list[Evaluation]:
        """Give one evaluation of each point (the last in file order), in the order of points."""
        table = {evaluation.point: evaluation for evaluation in self.evaluations}
        return [table[point] for point in sorted(table)]

    @property
    def evaluations_by_time(self) -> list[Evaluation]:
        """Give the evaluations in the order of their times."""
        return sorted(self.evaluations, key=lambda evaluation: evaluation.time_ms)

    @property
    def global_batch_size(self) -> int | None:
        """Give the global batch size where it is a positive whole number."""
        value = self.get_value("global_batch_size")
        return int(value) if is_number(value) and value > 0 and value == int(value) else None

    @cached_property
    def seeds(self) -> dict[int, Event]:
        """Give the logged seeds, whole numbers or their text, each with its first line."""
        table: dict[int, Event] = {}
        for event in self.get_events("seed"):
            seed = read_seed(event.value)
            if seed is not None:
                table.setdefault(seed, event)
        return table

    def reaches_target(self, accuracy: float) -> bool:
        """Say whether an accuracy is at the benchmark's target and below 1."""
        return TARGETS[self.benchmark] <= accuracy < 1.0

    @property
    def first_pass(self) -> Evaluation | None:
        """Give the earliest evaluation at the target."""
        passes = (e for e in self.evaluations_by_time if self.reaches_target(e.accuracy))
        return next(passes, None)

    @property
    def ends_below_target(self) -> bool:
        """Say whether a run that claims success has its last accuracy below the target."""
        last = self.evaluations_by_time[-1:]
        return self.status == "success" and any(not self.reaches_target(e.accuracy) for e in last)

    @property
    def converged(self) -> bool:
        """Say whether the run claims success and reached the target."""
        return self.status == "success" and self.first_pass is not None

    @cached_property
    def convergence_point(self) -> float | None:
        """Give the point of the convergence test: epochs (ResNet) or samples (BERT).

        It is the point of the last eval_accuracy line in file order before run_stop, rounded to
        three decimals; None for a run without success. The stock checker takes eval_error lines
        too, which no check of the evaluations looks at: one of them could name a later point.
        Source: mlperf_logging/rcp_checker/rcp_checker.py, read_submission_file.
        """
        if self.status != "success" or self.stop is None:
            return None
        lines = self.get_events("eval_accuracy")
        before = [event for event in lines if event.line < self.stop.line]
        if not before:
            return None
        point = before[-1].metadata.get("epoch_num")
        return round(point, 3) if is_number(point) else None

    def remark(self, rule: str, message: str, place: Event | int | None = None) -> Finding:
        """Make a finding on this run at a log line."""
        line = place.line if isinstance(place, Event) else place
        return Finding(rule, message, self.benchmark, self.name, line)

    @property
    def work(self) -> list[Event]:
        """Give the lines of blocks, epochs and evaluations."""
        return [event for event in self.log.events if event.key in _WORK_KEYS]

    def find_value_problems(self) -> Iterator[Problem]:
        """Find evaluation lines whose accuracy or point is no number."""
        for event in self.get_events("eval_accuracy"):
            point = event.metadata.get("epoch_num", 0)
            if not is_number(event.value) or not is_number(point):
                message = "eval_accuracy whose value or epoch_num is no number"
                yield Problem("parse-error", event.line, message)
