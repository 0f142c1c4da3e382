"""Two results side by side: what each is worth, where they differ, and whether that may be chance.

The first and the second result are called so everywhere; a pair holds (first, second).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from statistics import fmean, median
from typing import Any, TypeVar

from scoring.audit.speed import compute_samples, compute_samples_per_second
from scoring.findings import Finding
from scoring.report.timeline import Timeline, measure_timeline
from scoring.rules import BENCHMARKS, HYPERPARAMETER_KEYS
from scoring.run import Run
from scoring.score import Score
from scoring.submission import parse_count
from scoring.verdict import Verdict
from scoring.welch import MeanTest, compare_means

SCHEMA = 1
T = TypeVar("T")
Pair = tuple[T, T]
_LOG_KEYS = ("submission_org", "submission_platform", "submission_status", "number_of_nodes")


@dataclass(frozen=True)
class BenchmarkSide:
    """One result's figures of one benchmark, over its converged runs, compliant or not.

    minutes and samples_to_converge: run by run; phases: mean seconds of each part of a run, None
    where the logs do not tell it; samples_per_second: median, whole run, all accelerators.
    """

    verdict: Verdict
    minutes: list[float]
    samples_to_converge: list[float]
    samples_per_second: float | None
    samples_per_second_per_accelerator: float | None
    phases: dict[str, float | None]

    def describe(self) -> dict[str, Any]:
        """Give the figures as data."""
        verdict = self.verdict.describe()
        keys = ("valid", "latency_minutes", "latency_minutes_rcp_normalized", "global_batch_size")
        return {
            **{key: verdict[key] for key in keys},
            "rcp": verdict["rcp"]["result"],
            "converged_runs": len(self.minutes),
            "minutes": self.minutes,
            "samples_to_converge": self.samples_to_converge,
            "samples_per_second": self.samples_per_second,
            "samples_per_second_per_accelerator": self.samples_per_second_per_accelerator,
            "phase_seconds": self.phases,
        }


@dataclass(frozen=True)
class BenchmarkComparison:
    """One benchmark of both; a side is None where a result lacks it, a test where there is none."""

    sides: Pair[BenchmarkSide | None]
    minutes: MeanTest | None
    samples_to_converge: MeanTest | None
    settings: dict[str, Pair[Any]]

    def describe(self) -> dict[str, Any]:
        """Give the comparison as data."""
        return {
            "sides": [side.describe() if side else None for side in self.sides],
            "minutes": self.minutes.describe() if self.minutes else None,
            "samples_to_converge": (
                self.samples_to_converge.describe() if self.samples_to_converge else None
            ),
            "settings": {key: _make_finite(pair) for key, pair in self.settings.items()},
        }


@dataclass(frozen=True)
class Comparison:
    """Two results side by side; `system` and settings hold only what differs."""

    names: Pair[str]
    scores: Pair[Score]
    benchmarks: dict[str, BenchmarkComparison]
    system: dict[str, Pair[Any]]
    only: Pair[list[list[Finding]]]

    @property
    def valid(self) -> bool:
        """Say whether both results are valid."""
        return all(score.valid for score in self.scores)

    def describe(self) -> dict[str, Any]:
        """Give the comparison as one document."""
        first = self.scores[0]
        return {
            "schema": SCHEMA,
            "ruleset": first.ruleset,
            "profile": first.profile.name,
            "demonstration": first.profile.demonstration,
            "results": [
                {
                    "name": name,
                    "valid": score.valid,
                    "score": score.compute(normalized=False),
                    "score_rcp_normalized": score.compute(normalized=True),
                }
                for name, score in zip(self.names, self.scores, strict=True)
            ],
            "benchmarks": {name: item.describe() for name, item in self.benchmarks.items()},
            "system": {key: _make_finite(pair) for key, pair in self.system.items()},
            "findings_only_in": [
                [{**kind[0].describe(), "count": len(kind)} for kind in kinds]
                for kinds in self.only
            ],
        }


def _make_finite(value: Any) -> Any:
    """Give a value of a file as JSON can hold it: NaN and infinity as their names."""
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if isinstance(value, list | tuple):
        return [_make_finite(item) for item in value]
    if isinstance(value, dict):
        return {key: _make_finite(item) for key, item in value.items()}
    return value


def compare_scores(names: Pair[str], scores: Pair[Score]) -> Comparison:
    """Compare two results that were judged by the same profile and ruleset."""
    benchmarks = {
        benchmark: _compare_benchmark(_get_verdicts(scores, benchmark))
        for benchmark in BENCHMARKS
        if any(benchmark in score.verdicts for score in scores)
    }
    return Comparison(names, scores, benchmarks, _compare_systems(scores), _part_findings(scores))


def _get_verdicts(scores: Pair[Score], benchmark: str) -> Pair[Verdict | None]:
    """Give both verdicts on a benchmark."""
    return scores[0].verdicts.get(benchmark), scores[1].verdicts.get(benchmark)


def _compare_benchmark(verdicts: Pair[Verdict | None]) -> BenchmarkComparison:
    sides = (_measure_side(verdicts[0]), _measure_side(verdicts[1]))
    first, second = sides
    if first is None or second is None:
        return BenchmarkComparison(sides, None, None, {})
    return BenchmarkComparison(
        sides=sides,
        minutes=compare_means(first.minutes, second.minutes),
        samples_to_converge=compare_means(first.samples_to_converge, second.samples_to_converge),
        settings=_compare_settings(first.verdict, second.verdict),
    )


def _measure_side(verdict: Verdict | None) -> BenchmarkSide | None:
    if verdict is None:
        return None
    runs = [run for run in verdict.members if run.converged and run.minutes is not None]
    speeds = [speed for run in runs if (speed := compute_samples_per_second(run)) is not None]
    speed = median(speeds) if speeds else None
    accelerators = verdict.result.accelerator_count
    samples = [_measure_samples(run) for run in runs]
    return BenchmarkSide(
        verdict=verdict,
        minutes=[run.minutes for run in runs if run.minutes is not None],
        samples_to_converge=[value for value in samples if value is not None],
        samples_per_second=speed,
        samples_per_second_per_accelerator=speed / accelerators if speed and accelerators else None,
        phases=_measure_phases(runs),
    )


def _measure_samples(run: Run) -> float | None:
    point = run.convergence_point
    return None if point is None else compute_samples(run, point)


def _measure_phases(runs: list[Run]) -> dict[str, float | None]:
    timelines = [timeline for run in runs if (timeline := measure_timeline(run))]
    phases: dict[str, float | None] = {}
    for field in fields(Timeline):
        values = [getattr(timeline, field.name) for timeline in timelines]
        known = [value for value in values if value is not None]
        phases[field.name] = fmean(known) if known and len(known) == len(values) else None
    return phases


def _compare_settings(first: Verdict, second: Verdict) -> dict[str, Pair[Any]]:
    keys = ("global_batch_size", *HYPERPARAMETER_KEYS[first.result.benchmark], "train_samples")
    if first.result.benchmark == "bert":
        # There it is what the run took, and no setting.
        keys = keys[:-1]
    pairs = {key: (_get_setting(first, key), _get_setting(second, key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def _get_setting(verdict: Verdict, key: str) -> Any:
    values = (run.get_value(key) for run in verdict.members if run.get_events(key))
    return next(values, None)


def _compare_systems(scores: Pair[Score]) -> dict[str, Pair[Any]]:
    """Give what differs in the system descriptions, and in what the logs say of the system."""
    described = [score.submission.system or {} for score in scores]
    logged = [_read_logs(score) for score in scores]
    tables = [{**log, **description} for log, description in zip(logged, described, strict=True)]
    keys = dict.fromkeys(key for table in tables for key in table)
    pairs = {key: (tables[0].get(key), tables[1].get(key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if _differ(*pair)}


def _differ(first: Any, second: Any) -> bool:
    """Say whether two values differ; a description writes a count as text, a log as a number."""
    count = parse_count(first)
    return bool(first != second) and (count is None or count != parse_count(second))


def _read_logs(score: Score) -> dict[str, Any]:
    runs = [run for verdict in score.verdicts.values() for run in verdict.members]
    values = {key: [run.get_value(key) for run in runs if run.get_events(key)] for key in _LOG_KEYS}
    return {key: found[0] for key, found in values.items() if found}


def _part_findings(scores: Pair[Score]) -> Pair[list[list[Finding]]]:
    """Give, for each result, the kinds of findings (rule and benchmark) that only it has."""
    tables: list[dict[tuple[str, str | None], list[Finding]]] = []
    for score in scores:
        table: dict[tuple[str, str | None], list[Finding]] = {}
        for finding in score.findings:
            table.setdefault((finding.rule, finding.benchmark), []).append(finding)
        tables.append(table)
    first, second = tables
    return (
        [kind for key, kind in first.items() if key not in second],
        [kind for key, kind in second.items() if key not in first],
    )
