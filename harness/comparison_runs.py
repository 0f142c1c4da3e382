"""What a tuning engineer reads off a run log: where its time went and how fast it trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.commands import InputError
from harness.results import TOKEN

SIZE_LIMIT_BYTES = 64 << 20
DEMONSTRATION = "demonstration"
POINTS = {"resnet": "epochs", "bert": "samples"}
# Names and units of what is compared, in the order of the table; {points}: see POINTS.
MEASURES = {
    "samples_per_second": ("training rate, evaluation excluded", "samples/s"),
    "evaluation_seconds": ("one evaluation", "s"),
    "first_interval_extra_seconds": ("first interval, longer than the later ones by", "s"),
    "minutes": ("time to target", "min"),
    "converged_at": ("converged at", "{points}"),
}
# Measures that may lie about 0, so that their change is given in the unit.
ABOUT_ZERO = {"first_interval_extra_seconds"}


@dataclass(frozen=True)
class RunTimes:
    """One run; minutes and converged_at are None where it missed its target.

    seconds: of the whole run, evaluations_seconds: of all its evaluations; rates: (minutes since
    run_start, samples a second) of each interval between evaluations, at its end.
    demonstration: its log names systems/demo.toml's submitter.
    samples_per_second: of the whole run less its evaluations. first_interval_extra_seconds: what
    training up to the first evaluation took longer than at the pace of the later intervals.
    """

    file: str
    global_batch_size: int
    samples_per_second: float
    evaluation_seconds: float | None
    first_interval_extra_seconds: float | None
    minutes: float | None
    converged_at: float | None
    seconds: float
    evaluations_seconds: float
    rates: tuple[tuple[float, float], ...]
    demonstration: bool


def list_logs(folder: Path, benchmark: str) -> list[Path]:
    """The finished runs' logs of a benchmark in a results folder."""
    return sorted((folder / benchmark).glob("result_*.txt"))


def read_run(log: Path, benchmark: str) -> RunTimes:
    """Read one log. Raises InputError where it is no whole log of a run that evaluated."""
    events = list(_list_events(log))
    start, stop = _find(events, "run_start", log), _find(events, "run_stop", log)
    evaluations = _list_evaluations(events, log)
    points = [
        (_take_time(event, log), _take_point(event, log))
        for event in events
        if event["key"] in ("eval_accuracy", "eval_stop")
    ]
    if not points:
        raise InputError(f"{log}: has no evaluation, so nothing tells how far it trained")
    batch = _take_count(_find(events, "global_batch_size", log), log)
    unit = 1
    if benchmark == "resnet":
        unit = _take_count(_find(events, "train_samples", log), log)
    begun, ended = _take_time(start, log), _take_time(stop, log)
    seconds = (ended - begun) / 1000
    spent = sum(end - begin for begin, end, _ in evaluations) / 1000
    last = max(point for _, point in points)
    if seconds - spent <= 0:
        raise InputError(f"{log}: its evaluations take longer than the run: clocks are wrong")
    metadata = stop.get("metadata")
    reached = isinstance(metadata, dict) and metadata.get("status") == "success"
    return RunTimes(
        file=str(log),
        global_batch_size=batch,
        samples_per_second=last * unit / (seconds - spent),
        evaluation_seconds=spent / len(evaluations) if evaluations else None,
        first_interval_extra_seconds=_measure_first_interval(begun, evaluations),
        minutes=seconds / 60 if reached else None,
        converged_at=last if reached else None,
        seconds=seconds,
        evaluations_seconds=spent,
        rates=tuple(_list_rates(begun, evaluations, unit)),
        demonstration=any(
            event["key"] == "submission_org" and event.get("value") == DEMONSTRATION
            for event in events
        ),
    )


def _measure_first_interval(
    begun: float, evaluations: list[tuple[float, float, float]]
) -> float | None:
    """Seconds to the first evaluation beyond the pace from its end to the start of the last."""
    if len(evaluations) < 2:
        return None
    first, last = evaluations[0], evaluations[-1]
    between = sum(end - begin for begin, end, _ in evaluations[1:-1])
    trained = last[2] - first[2]
    if trained <= 0:
        return None
    pace = (last[0] - first[1] - between) / trained
    return (first[0] - begun - pace * first[2]) / 1000


def _list_rates(
    begun: float, evaluations: list[tuple[float, float, float]], unit: int
) -> Iterator[tuple[float, float]]:
    """(minutes since run_start, samples a second) of each interval of training, at its end."""
    trained_from, point = begun, 0.0
    for start, end, reached in evaluations:
        if start > trained_from and reached > point:
            rate = (reached - point) * unit / (start - trained_from) * 1000
            yield (start - begun) / 60_000, rate
        trained_from, point = end, reached


def _list_events(log: Path) -> Iterator[dict[str, Any]]:
    if log.stat().st_size > SIZE_LIMIT_BYTES:
        raise InputError(f"{log}: larger than 64 MiB, which no run log of these benchmarks is")
    with open(log, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            place = line.find(TOKEN)
            if place < 0:
                continue
            try:
                event = json.loads(line[place + len(TOKEN) :])
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict) and isinstance(event.get("key"), str):
                yield event


def _list_evaluations(events: list[dict[str, Any]], log: Path) -> list[tuple[float, float, float]]:
    """(start, end, point) of each evaluation, times in milliseconds."""
    found: list[tuple[float, float, float]] = []
    begun: float | None = None
    for event in events:
        if event["key"] == "eval_start":
            begun = _take_time(event, log)
        elif event["key"] == "eval_stop" and begun is not None:
            found.append((begun, _take_time(event, log), _take_point(event, log)))
            begun = None
    return found


def _find(events: list[dict[str, Any]], key: str, log: Path) -> dict[str, Any]:
    found = [event for event in events if event["key"] == key]
    if found:
        return found[-1]
    raise InputError(f"{log}: has no {key} line: not a whole run log")


def _take_time(event: dict[str, Any], log: Path) -> float:
    return _take_number(event.get("time_ms"), f"{log}: time_ms of {event['key']}")


def _take_point(event: dict[str, Any], log: Path) -> float:
    metadata = event.get("metadata")
    value = metadata.get("epoch_num") if isinstance(metadata, dict) else None
    return _take_number(value, f"{log}: epoch_num of {event['key']}")


def _take_count(event: dict[str, Any], log: Path) -> int:
    value = _take_number(event.get("value"), f"{log}: value of {event['key']}")
    if value < 1:
        raise InputError(f"{log}: value of {event['key']} must be at least 1, is {value}")
    return int(value)


def _take_number(value: Any, where: str) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e15:
        return float(value)
    raise InputError(f"{where} must be a number, 0 or more")
