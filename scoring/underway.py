"""Runs under way: what their unfinished logs say, read without disturbing them.

A log that is being written ends in the middle of a line more often than not; that is no fault.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

from scoring.convergence import Reference, check_convergence
from scoring.log import read_log
from scoring.rules import BENCHMARKS
from scoring.run import Run
from scoring.verdict import Verdict

# Where the campaign of this kit lets a run write its log until the run has finished.
_UNFINISHED = re.compile(r"\.unfinished_\d{1,9}\.txt", re.ASCII)
FILE_LIMIT = 200
MINUTE_MS = 60_000


@dataclass(frozen=True)
class RunUnderWay:
    """A run that has not finished: seconds since its start and since its last line.

    started: the clock runs; before that, elapsed_seconds counts from the log's first line.
    point: of the last evaluation, epochs or samples; remaining_seconds is None where nothing
    can be said of it.
    """

    run: Run
    started: bool
    ended: bool
    elapsed_seconds: float
    silent_seconds: float
    point: float | None
    accuracy: float | None
    remaining_seconds: float | None


def read_unfinished(folder: Path) -> list[Run]:
    """Read the logs of unfinished runs below `folder`; a file that vanishes meanwhile is none."""
    runs = []
    for benchmark in BENCHMARKS:
        place = folder / benchmark
        paths = sorted(place.iterdir()) if place.is_dir() else []
        names = [path for path in paths if _UNFINISHED.fullmatch(path.name)]
        runs += [Run(benchmark, read_log(path, folder)) for path in names[:FILE_LIMIT]]
    return [run for run in runs if run.log.events]


def observe_run(
    run: Run, now_ms: float, verdict: Verdict | None, references: list[Reference] | None
) -> RunUnderWay:
    """Say how far an unfinished run has come and when it may end.

    verdict: of the benchmark's finished runs; references: of the convergence test, if it applies.
    """
    first, last = run.log.events[0], max(event.time_ms for event in run.log.events)
    begin = run.start or first
    evaluations = run.evaluations_by_time
    expected = _expect_point(run, verdict, references)
    # A clock behind that of the hosts must not make times negative.
    now_ms = max(now_ms, last)
    return RunUnderWay(
        run=run,
        started=run.start is not None,
        ended=run.stop is not None,
        elapsed_seconds=(now_ms - begin.time_ms) / 1000,
        silent_seconds=(now_ms - last) / 1000,
        point=evaluations[-1].point if evaluations else None,
        accuracy=evaluations[-1].accuracy if evaluations else None,
        remaining_seconds=_estimate_remaining(run, now_ms, expected, verdict),
    )


def _list_converged(verdict: Verdict | None) -> list[Run]:
    runs = verdict.result.runs if verdict else []
    return [run for run in runs if not run.unusable and run.convergence_point is not None]


def _expect_point(
    run: Run, verdict: Verdict | None, references: list[Reference] | None
) -> float | None:
    """Expect the run to converge where its sisters did, without any where the reference does."""
    points = [sister.convergence_point or 0.0 for sister in _list_converged(verdict)]
    if points:
        return fmean(points)
    if not references or run.global_batch_size is None:
        return None
    record = check_convergence([run], references, needed=3).reference
    return record.mean if record else None


def _estimate_remaining(
    run: Run, now_ms: float, expected: float | None, verdict: Verdict | None
) -> float | None:
    """Estimate the seconds left: by the pace of the evaluations, before the first by the sisters.

    None before the clock runs, and once the run is past the point where it was expected to end.
    """
    if run.start is None:
        return None
    evaluations = run.evaluations_by_time
    elapsed_ms = now_ms - run.start.time_ms
    if not evaluations:
        lengths = [sister.minutes for sister in _list_converged(verdict) if sister.minutes]
        total_ms = median(lengths) * MINUTE_MS if lengths else 0.0
        return max(0.0, total_ms - elapsed_ms) / 1000 if lengths else None
    last = evaluations[-1]
    if run.reaches_target(last.accuracy):
        return 0.0
    if expected is None or last.point <= 0 or last.point >= expected:
        return None
    total_ms = (last.time_ms - run.start.time_ms) * expected / last.point
    return max(0.0, total_ms - elapsed_ms) / 1000
