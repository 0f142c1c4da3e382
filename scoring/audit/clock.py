"""Checks of the clock: markers, initialisation, caches, order of times, order of runs."""

from __future__ import annotations

from collections.abc import Iterator

from scoring.findings import Finding, quote
from scoring.rules import INITIALISATION_LIMIT_MS
from scoring.run import Run
from scoring.submission import Result

MINUTE_MS = 60_000
LATE_START_MS = 60_000
CACHE_CLEAR_AGE_MS = 30 * MINUTE_MS
CLOCK_SLACK_MS = 1000
SPREAD_LIMIT_MS = 7 * 24 * 60 * MINUTE_MS


def check_markers_once(result: Result) -> Iterator[Finding]:
    """Refuse a second run_start, run_stop or init_stop; the stock tools take one of them."""
    for run in result.runs:
        for key in ("run_start", "run_stop", "init_stop"):
            for event in run.get_events(key)[1:]:
                first = run.get_events(key)[0].line
                yield run.remark("marker-twice", f"{key} stands in line {first} already", event)


def check_initialisation(result: Result) -> Iterator[Finding]:
    """Refuse 30 minutes or more of initialisation; report a late start after init_stop."""
    for run in result.runs:
        if not run.start:
            continue
        if run.initialisation:
            length_ms = run.start.time_ms - run.initialisation.time_ms
            if length_ms >= INITIALISATION_LIMIT_MS:
                message = f"{length_ms / MINUTE_MS:.2f} min from init_start to run_start, limit 30"
                yield run.remark("init-over-30min", message, run.start)
        stop = run.get_last("init_stop")
        if stop and run.start.time_ms - stop.time_ms > LATE_START_MS:
            seconds = (run.start.time_ms - stop.time_ms) / 1000
            message = f"{seconds:.0f} s from init_stop to run_start"
            yield run.remark("late-run-start", message, run.start)


def check_caches(result: Result) -> Iterator[Finding]:
    """Report caches not cleared, not stated as cleared, or cleared long before the run."""
    for run in result.runs:
        if not run.start:
            continue
        clears = run.get_events("cache_clear")
        before = [event for event in clears if event.time_ms <= run.start.time_ms]
        if not before:
            message = "no cache_clear before run_start"
            yield run.remark("cache-clear-missing", message, run.start)
            continue
        wrong = next((event for event in clears if event.value is not True), None)
        if wrong:
            message = f"cache_clear has the value {quote(wrong.value)}, not true"
            yield run.remark("cache-clear-value", message, wrong)
        latest = max(before, key=lambda event: event.time_ms)
        age_ms = run.start.time_ms - latest.time_ms
        if age_ms > CACHE_CLEAR_AGE_MS:
            message = f"caches cleared {age_ms / MINUTE_MS:.1f} min before run_start"
            yield run.remark("cache-clear-early", message, latest)


def check_time_order(result: Result) -> Iterator[Finding]:
    """Report a time more than a second earlier than that of a line before it."""
    for run in result.runs:
        latest = None
        worst = None
        for event in run.log.events:
            if latest is None or event.time_ms > latest.time_ms:
                latest = event
            back_ms = latest.time_ms - event.time_ms
            if back_ms > CLOCK_SLACK_MS and (worst is None or back_ms > worst[0]):
                worst = (back_ms, event, latest)
        if worst:
            back_ms, event, before = worst
            message = f"stamped {back_ms / 1000:.3f} s before line {before.line}, which precedes it"
            yield run.remark("clock-back", message, event)


def _get_span(run: Run) -> tuple[float, float]:
    """Give start and stop in ms; a run that never stopped ends with its last line."""
    start = run.start.time_ms if run.start else 0.0
    stop = run.stop.time_ms if run.stop else max(event.time_ms for event in run.log.events)
    return start, stop


def check_runs_order(result: Result) -> Iterator[Finding]:
    """Report runs that overlap, pauses in which runs may be missing, runs days apart."""
    runs = sorted((run for run in result.runs if run.start), key=_get_span)
    spans = [(run, *_get_span(run)) for run in runs]
    latest: tuple[float, Run] | None = None
    for run, start, stop in spans:
        if latest and start < latest[0]:
            message = f"the run starts before {latest[1].name} stops"
            yield run.remark("runs-overlap", message, run.start)
        if latest is None or stop > latest[0]:
            latest = (stop, run)
    if not spans:
        return
    days = (spans[-1][1] - spans[0][1]) / (24 * 60 * MINUTE_MS)
    if days * 24 * 60 * MINUTE_MS > SPREAD_LIMIT_MS:
        message = f"the runs start {days:.1f} days apart"
        yield Finding("spread-over-7d", message, result.benchmark)
    lengths = [stop - start for run, start, stop in spans if run.minutes]
    yield from _find_pause(spans, min(lengths, default=0))


def check_other_benchmark(result: Result) -> Iterator[Finding]:
    """Report runs that overlap with the other benchmark's, where one system makes both."""
    if not result.profile.nodes:
        return
    for run in result.runs:
        if not run.start:
            continue
        start = run.start.time_ms
        for other in result.other_runs:
            begin, end = _get_span(other) if other.start else (start, start)
            if begin <= start < end:
                message = f"the run starts before {other.name} stops"
                yield run.remark("runs-overlap", message, run.start)
                break


def _find_pause(spans: list[tuple[Run, float, float]], shortest_ms: float) -> Iterator[Finding]:
    latest_stop = spans[0][2]
    widest: tuple[float, Run] | None = None
    for run, start, stop in spans[1:]:
        gap_ms = start - latest_stop
        if gap_ms > shortest_ms > 0 and (widest is None or gap_ms > widest[0]):
            widest = (gap_ms, run)
        latest_stop = max(latest_stop, stop)
    if widest:
        gap_ms, run = widest
        message = (
            f"nothing ran for {gap_ms / MINUTE_MS:.1f} min before this run, "
            f"{gap_ms / shortest_ms:.1f} times the shortest run: runs may be missing"
        )
        yield run.remark("idle-gap", message, run.start)
