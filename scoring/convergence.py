"""The convergence test against reference points (RCP), in closed form.

The records are those that mlperf-logging ships with each ruleset. Follows its checker, not the
example of the rules, where they differ: the deviation is of all reference points.
Source: mlperf_logging/rcp_checker/rcp_checker.py; scoring rules, RCP section.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from scoring.compliance import find_package
from scoring.exits import InputError
from scoring.run import Run
from scoring.student import compute_quantile

NOT_CONVERGED = 1e9
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Reference:
    """A reference record: mean without extremes, population deviation of all, degrees' n."""

    name: str
    global_batch_size: int
    points: tuple[float, ...]
    mean: float
    deviation: float
    kept: int

    def compute_minimum(self, runs: int) -> float:
        """Give the smallest acceptable mean of `runs` runs: one-sided pooled t-test at 5 %."""
        submitted = runs - 2
        if self.deviation == 0:
            return self.mean
        t = compute_quantile(_CONFIDENCE, self.kept + submitted - 2)
        return self.mean - t * self.deviation * math.sqrt(1 / self.kept + 1 / submitted)


@dataclass(frozen=True)
class Convergence:
    """The verdict: result is pass, fail or missing; means in epochs (ResNet) or samples (BERT)."""

    result: str
    message: str
    mean: float | None = None
    reference: Reference | None = None
    minimum_mean: float | None = None
    scaling_factor: float | None = None
    stock_message: str | None = None

    def describe(self) -> dict[str, Any]:
        """Give the verdict in the terms of the scoring contract, with what explains it."""
        return {
            "result": self.result,
            "mean": self.mean,
            "rcp_mean": self.reference.mean if self.reference else None,
            "minimum_mean": self.minimum_mean,
            "scaling_factor": self.scaling_factor,
            "record": self.reference.name if self.reference else None,
            "message": self.message,
            "stock_message": self.stock_message,
        }


def load_references(ruleset: str, benchmark: str) -> list[Reference]:
    """Load mlperf-logging's records of a ruleset, by batch size; raises InputError without."""
    path = find_package() / "rcp_checker" / f"training_{ruleset}" / f"rcps_{benchmark}.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        records = [
            _make_reference(name, record["BS"], record["Epochs to converge"])
            for name, record in table.items()
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: reference points cannot be read: {error}") from None
    return sorted(records, key=lambda record: record.global_batch_size)


def _make_reference(name: str, global_batch_size: int, points: list[float]) -> Reference:
    ordered = sorted(points)
    mean_of_all = fmean(ordered)
    deviation = math.sqrt(fmean((point - mean_of_all) ** 2 for point in ordered))
    return Reference(
        name=name,
        global_batch_size=global_batch_size,
        points=tuple(ordered),
        mean=fmean(ordered[1:-1]),
        deviation=deviation,
        kept=len(ordered) - 2,
    )


def prune_references(records: list[Reference]) -> list[Reference]:
    """Drop records that converge slower than the line between their neighbours.

    Not the convex hull: after a removal the same place is looked at again, never the one before.
    """
    fastest = min(records, key=lambda record: record.mean)
    kept = [r for r in records if r.global_batch_size >= fastest.global_batch_size]
    place = 1
    while place < len(kept) - 1:
        low, here, high = kept[place - 1 : place + 2]
        if here.mean > _interpolate(low, high, here.global_batch_size, 1).mean:
            del kept[place]
        else:
            place += 1
    return kept


def _interpolate(low: Reference, high: Reference, batch: int, runs: int) -> Reference:
    weight = (batch - low.global_batch_size) / (high.global_batch_size - low.global_batch_size)
    return Reference(
        name=f"between {low.name} and {high.name}",
        global_batch_size=batch,
        points=(),
        mean=low.mean + weight * (high.mean - low.mean),
        deviation=low.deviation + weight * (high.deviation - low.deviation),
        # Twice the runs, here not less two: as the stock tool counts.
        kept=2 * runs,
    )


def match_reference(batch: int, pruned: list[Reference], runs: int) -> tuple[Reference | None, str]:
    """Find the record for a batch size, and the words of the stock tool for the case.

    runs: how many make a result, which an interpolated record counts with.
    """
    exact = [record for record in pruned if record.global_batch_size == batch]
    below = [record for record in pruned if record.global_batch_size < batch]
    above = [record for record in pruned if record.global_batch_size > batch]
    if exact:
        return exact[0], "RCP found"
    if below and above:
        record = _interpolate(below[-1], above[0], batch, runs)
        return record, "RCP Interpolation"
    if above:
        return above[0], "RCP not found but slower convergence on smaller batch size"
    return None, f"Missing RCP, please submit RCP with BS = {batch}"


def compute_mean(runs: list[Run]) -> float | None:
    """Give the mean point without smallest and largest; None if two runs did not converge."""
    points = [NOT_CONVERGED if r.convergence_point is None else r.convergence_point for r in runs]
    if len(points) < 3 or points.count(NOT_CONVERGED) > 1:
        return None
    return fmean(sorted(points)[1:-1])


def check_convergence(runs: list[Run], records: list[Reference], needed: int) -> Convergence:
    """Judge the convergence of the runs that make a result; `needed` is how many do."""
    # A run that broke off before it logged its batch size is one that did not converge.
    batches = {r.global_batch_size for r in runs if r.global_batch_size or r.status == "success"}
    batch = batches.pop() if len(batches) == 1 else None
    if batch is None:
        return Convergence("fail", "no global batch size common to all runs")
    mean = compute_mean(runs)
    record, message = match_reference(batch, prune_references(records), needed)
    if record is None:
        return Convergence("missing", message, mean)
    minimum = record.compute_minimum(needed)
    if mean is None:
        return Convergence("fail", "Insufficient convergence", None, record, minimum)
    factor = max(1.0, record.mean / mean) if mean > 0 else None
    if mean >= minimum:
        return Convergence("pass", message, mean, record, minimum, factor)
    if batch < record.global_batch_size:
        message = f"Missing RCP, please submit RCP with BS = {batch}"
        return Convergence("missing", message, mean, record, minimum, factor)
    return Convergence("fail", message, mean, record, minimum, factor)
