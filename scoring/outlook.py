"""What the runs so far promise: the latency so far and the convergence test so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean

from scoring.convergence import compute_mean
from scoring.latency import compute_olympic_mean, get_minutes
from scoring.run import Run
from scoring.verdict import Verdict


@dataclass(frozen=True)
class LatencySoFar:
    """Mean minutes of `kept` runs; None where there is no finite one."""

    minutes: float | None
    kept: int


@dataclass(frozen=True)
class ConvergenceSoFar:
    """The convergence test with the runs so far, against the minimum for the final count.

    mean, minimum: epochs (ResNet) or samples (BERT). chance: of passing in the end, from 0 to 1;
    None when no runs are missing.
    """

    mean: float
    minimum: float
    would_pass: bool
    chance: float | None


def compute_latency_so_far(runs: list[Run]) -> LatencySoFar:
    """Compute the olympic mean of the runs there are; of fewer than three the mean of all."""
    minutes = [get_minutes(run) for run in runs]
    if len(minutes) < 3:
        finite = [value for value in minutes if math.isfinite(value)]
        return LatencySoFar(fmean(finite) if finite else None, len(finite))
    mean = compute_olympic_mean(minutes)
    return LatencySoFar(mean if math.isfinite(mean) else None, len(minutes) - 2)


def compute_convergence_so_far(verdict: Verdict) -> ConvergenceSoFar | None:
    """Hold the runs so far against the smallest mean allowed; None without points or reference.

    The chance takes the points of the runs still missing as scattered around the mean so far with
    the deviation of the reference, so that the final mean of N runs after k has the variance
    s^2 * (N - k) / (N * k). Dropping the extremes is left out of it: it is a first estimate.
    """
    convergence, runs = verdict.convergence, verdict.result.runs
    if convergence.reference is None or convergence.minimum_mean is None:
        return None
    points = [run.convergence_point for run in runs if run.convergence_point is not None]
    mean = compute_mean(runs) if len(runs) >= 3 else fmean(points) if points else None
    if mean is None:
        return None
    minimum = convergence.minimum_mean
    needed, there = verdict.result.runs_needed, len(runs)
    chance = None
    if there < needed:
        variance = convergence.reference.deviation**2 * (needed - there) / (needed * there)
        chance = _compute_chance(mean - minimum, math.sqrt(variance))
    return ConvergenceSoFar(mean, minimum, mean >= minimum, chance)


def _compute_chance(distance: float, deviation: float) -> float:
    """Compute P(X >= 0) of a normal variable around `distance`."""
    if deviation == 0:
        return 1.0 if distance >= 0 else 0.0
    return (1 + math.erf(distance / deviation / math.sqrt(2))) / 2
