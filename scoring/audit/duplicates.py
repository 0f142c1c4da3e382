"""Checks for one run delivered twice."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

from scoring.findings import Finding
from scoring.run import Evaluation, Run
from scoring.submission import Result

CURVE_LENGTH = 3


def _find_same(
    result: Result, rule: str, what: str, get_trait: Callable[[Run], Hashable | None]
) -> Iterator[Finding]:
    owners: dict[Hashable, Run] = {}
    for run in result.runs:
        trait = get_trait(run)
        if trait is None:
            continue
        other = owners.setdefault(trait, run)
        if other is not run:
            yield run.remark(rule, f"{what} as {other.name}", run.start)


def _get_times(run: Run) -> Hashable | None:
    return (run.start.time_ms, run.stop.time_ms) if run.start and run.stop else None


def _list_evaluations(run: Run) -> list[Evaluation]:
    """Give the evaluations by time, each accuracy of a point once.

    A copy is one also where its lines stand in another order, or one of them stands twice.
    """
    table: dict[tuple[float, float], Evaluation] = {}
    for evaluation in sorted(run.evaluations, key=lambda e: (e.time_ms, e.point)):
        table.setdefault((evaluation.point, evaluation.accuracy), evaluation)
    return list(table.values())


def _get_rhythm(run: Run) -> Hashable | None:
    """Give the times of the evaluations since run_start: a shifted copy keeps them."""
    evaluations = _list_evaluations(run)
    if run.start is None or len(evaluations) < CURVE_LENGTH:
        return None
    return tuple(e.time_ms - run.start.time_ms for e in evaluations)


def _get_curve(run: Run) -> Hashable | None:
    accuracies = tuple(evaluation.accuracy for evaluation in _list_evaluations(run))
    return accuracies if len(accuracies) >= CURVE_LENGTH else None


def check_same_run(result: Result) -> Iterator[Finding]:
    """Refuse two files with one start and stop, or one rhythm, to the millisecond."""
    found = list(
        _find_same(result, "same-run-twice", "the same run_start and run_stop", _get_times)
    )
    yield from found
    known = {finding.file for finding in found}
    text = "the same times of all evaluations since run_start"
    for finding in _find_same(result, "same-run-twice", text, _get_rhythm):
        if finding.file not in known:
            yield finding


def check_same_curve(result: Result) -> Iterator[Finding]:
    """Refuse two files with the same list of three or more accuracies."""
    yield from _find_same(result, "same-curve-twice", "the same list of accuracies", _get_curve)
