"""Checks of speed: within a run, between runs, against the published figures."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from scoring.findings import Finding
from scoring.rules import is_number
from scoring.run import Run
from scoring.submission import Result

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STRETCH_LIMIT = {"resnet": 1.10, "bert": 1.30}
RUN_LIMIT = {"resnet": 1.05, "bert": 1.10}
EPOCH_LIMIT = 0.02
EPOCH_SLACK_SECONDS = 0.05
WARN_FACTOR, RERUN_FACTOR = 1.10, 1.25
# The widest step between two generations in the table is 3.3 (BERT, A100 to H100).
UNKNOWN_FACTOR = 4
_PUBLISHED = Path(__file__).parents[1] / "published_throughput.toml"


def compute_samples(run: Run, point: float) -> float | None:
    """Turn an evaluation point into training samples; None without the data set's size."""
    if run.benchmark == "bert":
        return point
    size = run.get_value("train_samples")
    return point * size if is_number(size) and size > 0 else None


def compute_samples_per_second(run: Run) -> float | None:
    """Give training samples per second over the whole run, evaluation included."""
    points = run.evaluations_by_point
    samples = compute_samples(run, points[-1].point) if points else None
    return samples / (run.minutes * 60) if samples and run.minutes else None


def check_stretches(result: Result) -> Iterator[Finding]:
    """Report one interval up to an evaluation that is much faster than the run's median.

    The first interval, from run_start, is no part of the median: it holds what starts slowly. Too
    fast, it was trained in part before the clock ran.
    """
    if not result.profile.speed_checks:
        return
    limit = STRETCH_LIMIT[result.benchmark]
    for run in result.runs:
        points = run.evaluations_by_point
        rates = [
            ((after.point - before.point) / (after.time_ms - before.time_ms), after)
            for before, after in itertools.pairwise(points)
            if after.time_ms > before.time_ms
        ]
        if len(rates) < 2:
            continue
        usual = median(rate for rate, _ in rates)
        first_ms = points[0].time_ms - run.start.time_ms if run.start else 0
        if first_ms > 0:
            rates.append((points[0].point / first_ms, points[0]))
        fastest, evaluation = max(rates, key=lambda pair: pair[0])
        if usual > 0 and fastest > limit * usual:
            message = (
                f"the interval up to {evaluation.point:g} ran "
                f"{100 * (fastest / usual - 1):.0f} % faster than the run's median"
            )
            yield run.remark("fast-stretch", message, evaluation.event)


def check_runs(result: Result) -> Iterator[Finding]:
    """Report a run much faster than the others in samples per second."""
    if not result.profile.speed_checks:
        return
    speeds = [(compute_samples_per_second(run), run) for run in result.runs]
    known = [(speed, run) for speed, run in speeds if speed is not None]
    if len(known) < 3:
        return
    usual = median(speed for speed, _ in known)
    for speed, run in known:
        if speed > RUN_LIMIT[result.benchmark] * usual:
            message = f"{speed:.0f} samples/s, the median of the runs is {usual:.0f}"
            yield run.remark("fast-run", message, run.stop)


def _get_logged_throughput(value: Any) -> float | None:
    if not isinstance(value, dict):
        return None
    for name in ("throughput", "imgs_sec"):
        if is_number(value.get(name)) and value[name] > 0:
            return float(value[name])
    return None


def _get_epoch_times(run: Run, key: str) -> dict[float, float]:
    """Give the times in ms of epoch_start or epoch_stop by epoch."""
    return {
        event.metadata["epoch_num"]: event.time_ms
        for event in run.get_events(key)
        if is_number(event.metadata.get("epoch_num"))
    }


def check_epoch_clock(result: Result) -> Iterator[Finding]:
    """Report a logged throughput that the log's times contradict."""
    if result.benchmark == "bert":
        for run in result.runs:
            yield from _check_bert_clock(run)
        return
    for run in result.runs:
        size = run.get_value("train_samples")
        if not is_number(size) or size <= 0:
            continue
        batch = run.global_batch_size or 1
        # An epoch may be rounded up to a full batch.
        sizes = (size, math.ceil(size / batch) * batch)
        starts, stops = _get_epoch_times(run, "epoch_start"), _get_epoch_times(run, "epoch_stop")
        # A `throughput` line of its own is not held against the times: published runs state there
        # what their steps made, without the first epoch's wait for data (Intel, v2.1 to v3.1).
        for event in run.get_events("tracked_stats"):
            epoch = event.metadata.get("step")
            throughput = _get_logged_throughput(event.value)
            if throughput is None or not is_number(epoch):
                continue
            if epoch not in starts or epoch not in stops:
                continue
            seconds = (stops[epoch] - starts[epoch]) / 1000
            stated = [samples / throughput for samples in sizes]
            slack = max(EPOCH_LIMIT * stated[0], EPOCH_SLACK_SECONDS)
            if not stated[0] - slack <= seconds <= stated[1] + slack:
                message = (
                    f"epoch {epoch:g} is said to run {throughput:.0f} samples/s, which is "
                    f"{stated[0]:.2f} s, but its times are {seconds:.2f} s apart"
                )
                yield run.remark("epoch-clock", message, event)
                break


def _check_bert_clock(run: Run) -> Iterator[Finding]:
    """Hold the throughputs of BERT against the times: in this kit's logs, known by their hash of
    the sources, each is of the time since the one before, the first of that since run_start.
    """
    # A skipped update is in the throughput, and not in the samples that the line names.
    if not run.start or not run.get_events("source_sha256") or run.get_value("skipped_updates"):
        return
    before, point = run.start.time_ms, 0.0
    for event in run.get_events("tracked_stats"):
        throughput, step = _get_logged_throughput(event.value), event.metadata.get("step")
        if throughput is None or not is_number(step):
            return
        seconds, stated = (event.time_ms - before) / 1000, (step - point) / throughput
        if abs(seconds - stated) > max(EPOCH_LIMIT * stated, EPOCH_SLACK_SECONDS):
            message = (
                f"the {step - point:,g} samples up to {step:,g} are said to run {throughput:.0f} "
                f"samples/s, which is {stated:.2f} s, but took {seconds:.2f} s"
            )
            yield run.remark("epoch-clock", message, event)
            return
        before, point = event.time_ms, step


@cache
def _load_published() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = tomllib.loads(_PUBLISHED.read_text(encoding="utf-8"))[
        "accelerator"
    ]
    return rows


def find_published(accelerator: str, benchmark: str) -> float | None:
    """Find the highest published samples/s of an accelerator by its name; None if unknown."""
    name = accelerator.lower()
    for row in _load_published():
        if all(word.lower() in name for word in row["words"]):
            return row.get(benchmark)
    return None


def _find_highest(benchmark: str) -> float:
    """Find the highest published samples/s of any accelerator."""
    return max(float(row[benchmark]) for row in _load_published() if benchmark in row)


def check_plausibility(result: Result) -> Iterator[Finding]:
    """Report a speed per accelerator beyond what was ever published for it.

    One of which nothing was published may be faster than all others, but not several times.
    """
    name = (result.system or {}).get("accelerator_model_name")
    count = result.accelerator_count
    if not result.profile.speed_checks or not count:
        return
    highest = find_published(name, result.benchmark) if isinstance(name, str) else None
    of, limit = "", WARN_FACTOR
    if highest is None:
        highest, of, limit = _find_highest(result.benchmark), " of any accelerator", UNKNOWN_FACTOR
    for run in result.runs:
        speed = compute_samples_per_second(run)
        if speed is None or speed / count <= limit * highest:
            continue
        demand = "ask for a rerun" if speed / count > RERUN_FACTOR * highest else "ask why"
        message = (
            f"{speed / count:.0f} samples/s per accelerator, highest published{of} "
            f"{highest:.0f}: {demand}"
        )
        yield run.remark("implausible-throughput", message, run.stop)
