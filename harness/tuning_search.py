"""The search: one knob after the other, measured in turn with what is there, kept only if real.

For each knob the present value and all candidates are measured in rounds, each round in the
other order, so that a drift of the machine meets all alike. After LOOKS rounds each candidate is
held against the present value by Welch's test of harness/comparison_statistics.py. The level is
divided by all tests that the search may make (Bonferroni), so that the chance to keep any change
that is noise stays below it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from harness.comparison_statistics import compare_values
from harness.tuning_knobs import Knob, Value, Values
from harness.tuning_probes import Measured

# Rounds after which candidates are judged; the last is the end of a knob's search.
LOOKS = (3, 6)
Verdict = Literal[
    "kept", "faster, but not the fastest", "slower", "no gain seen", "failed", "unfinished",
    "not tried",
]  # fmt: skip


class OutOfTime(Exception):
    """The budget does not hold another trial."""


@dataclass
class Budget:
    """Minutes of this call, strictly: no trial begins that would probably not end within it."""

    seconds: float
    longest_trial_seconds: float = 0.0
    start_seconds: float = field(default_factory=time.monotonic)

    @property
    def left_seconds(self) -> float:
        """Seconds left, negative when over."""
        return self.start_seconds + self.seconds - time.monotonic()

    def allow(self) -> float:
        """The limit of the next trial in seconds: a quarter of the budget, or what is left.

        Raises OutOfTime where it would not be enough.
        """
        left = self.left_seconds
        if left <= max(0.0, self.longest_trial_seconds):
            raise OutOfTime
        return min(left, max(30.0, self.seconds / 4))


@dataclass
class Outcome:
    """One value of a knob. change, p: of its time a sample against the present value's."""

    values: Values
    rates: list[float] = field(default_factory=list)
    verdict: Verdict | None = None
    change: float | None = None
    p: float | None = None
    message: str = ""

    @property
    def seconds(self) -> float:
        """Mean seconds a sample, infinite where nothing was measured."""
        return fmean(1 / rate for rate in self.rates) if self.rates else float("inf")


@dataclass
class Decision:
    """What the search of one knob found. present: the value before; chosen: the one after."""

    knob: Knob
    present: Outcome
    candidates: list[Outcome]
    chosen: Values

    @property
    def changed(self) -> dict[tuple[str, str], Value]:
        """Keys whose value the search replaces."""
        if self.chosen == self.present.values:
            return {}
        return dict(zip(self.knob.keys, self.chosen, strict=True))


# (knob, values, round) -> outcome of one trial; raises OutOfTime
Measure = Callable[[Knob, Values, int], Measured]


def search_knob(knob: Knob, measure: Measure, level: float) -> Decision:
    """Search one knob at a level of significance for each single test."""
    present = Outcome(knob.present)
    candidates = [Outcome(values) for values in knob.candidates]
    if not candidates:
        return Decision(knob, present, [], knob.present)
    try:
        for number in range(1, LOOKS[-1] + 1):
            alive = [one for one in (present, *candidates) if one.verdict is None]
            for one in alive if number % 2 else reversed(alive):
                _try(one, measure(knob, one.values, number))
                if one is present and one.verdict and _is_refused(one):
                    return _conclude(knob, present, candidates)
            if number in LOOKS and _judge(present, candidates, level, number):
                break
            if all(one.verdict for one in candidates):
                break
    except OutOfTime:
        pass
    return _conclude(knob, present, candidates)


def _is_refused(present: Outcome) -> bool:
    """True where the probe refused the present configuration: it would refuse the others too."""
    return present.message.startswith("refused: ")


def _try(one: Outcome, found: Measured) -> None:
    if found.status == "measured":
        one.rates.append(found.samples_per_second)
    else:
        one.verdict = "failed"
        one.message = f"refused: {found.message}" if found.misused else found.message


def _judge(present: Outcome, candidates: list[Outcome], level: float, rounds: int) -> bool:
    """Judge the candidates that are left; True where more rounds would change nothing."""
    if present.verdict == "failed":
        return True
    base = [1 / rate for rate in present.rates]
    faster = []
    for one in candidates:
        if one.verdict is not None:
            continue
        times = [1 / rate for rate in one.rates]
        found = compare_values("time a sample", "s", base, times, level)
        if found is None:
            continue
        one.change, one.p = found.change, found.p
        if found.is_real(level) and found.change > 0:
            one.verdict = "slower"
        elif found.is_real(level):
            faster.append(one)
        elif found.change >= 0 or rounds == LOOKS[-1]:
            one.verdict = "no gain seen"
    open_ones = [one for one in candidates if one.verdict is None]
    best = min(faster, key=lambda one: one.seconds, default=None)
    # Another that seems faster still gets the rounds that are left.
    if best is None or (
        rounds != LOOKS[-1] and any(one.seconds < best.seconds for one in open_ones)
    ):
        return not open_ones
    best.verdict = "kept"
    for one in open_ones:
        if one is not best:
            one.verdict = "faster, but not the fastest" if one in faster else "no gain seen"
    return True


def _conclude(knob: Knob, present: Outcome, candidates: list[Outcome]) -> Decision:
    """Name what is left; where the present value fails, the fastest that ran takes its place."""
    chosen = knob.present
    ran = [one for one in candidates if one.verdict is None and len(one.rates) >= LOOKS[0]]
    if present.verdict == "failed" and not present.rates and ran:
        min(ran, key=lambda one: one.seconds).verdict = "kept"
        for one in ran:
            one.verdict = one.verdict or "no gain seen"
    for one in candidates:
        if one.verdict is None:
            one.verdict = "unfinished" if one.rates else "not tried"
        if one.verdict == "kept":
            chosen = one.values
    return Decision(knob, present, candidates, chosen)


def count_tests(knobs: list[Knob]) -> int:
    """All tests that a search of these knobs may make, which its level is divided by."""
    return max(1, len(LOOKS) * sum(len(knob.candidates) for knob in knobs))


def count_trials(knobs: list[Knob]) -> int:
    """The most trials that a search of these knobs makes."""
    return sum(LOOKS[-1] * (1 + len(knob.candidates)) for knob in knobs if knob.candidates)
