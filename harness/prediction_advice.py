"""What a run's minutes would be if one thing changed: what limits, and the next best change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from harness.commands import InputError
from harness.prediction_campaign import compute_expected, make_machine
from harness.prediction_convergence import (
    Grid,
    find_bert_convergence,
    find_resnet_convergence,
)
from harness.prediction_forecast import Forecast
from harness.prediction_inputs import POINTS, UNITS
from harness.prediction_published import Hyperparameters, load_published_convergence
from harness.prediction_references import RUNS
from harness.prediction_time import Job
from harness.schedules import evaluation_interval_samples

# Weights of the request's score: 7.19 / R + 9.05 / B.
SCORE_WEIGHT = {"resnet": 7.19, "bert": 9.05}
RESNET_BATCHES = (1632, 2048, 3264, 4096, 8192)
# A rank holds at most this many samples at once in published runs, which have 80 GB or more.
LARGEST_BATCH = {"resnet": 816, "bert": 224}
DRAWS = 2000


@dataclass(frozen=True)
class Change:
    """One change: what, the minutes with it, and how far they and the score's part would move."""

    what: str
    minutes: float
    gain_minutes: float
    gain_score: float


def list_changes(forecast: Forecast) -> list[Change]:
    """All changes that help, the best first; minutes are those of the most likely values."""
    now = forecast.terms.total / 60
    weight = SCORE_WEIGHT[forecast.benchmark]
    found = [
        Change(what, minutes, now - minutes, weight / minutes - weight / now)
        for what, minutes in [*_change_machine(forecast), *_change_batch(forecast)]
    ]
    return sorted((c for c in found if c.gain_minutes > 0.001 * now), key=lambda c: c.minutes)


def _change_machine(forecast: Forecast) -> Iterator[tuple[str, float]]:
    job, assumed, terms = forecast.settings.job, forecast.assumed, forecast.terms
    total = terms.total
    step = make_machine(job, assumed).step
    point = forecast.campaigns.point

    def minutes(**changed: object) -> float:
        return compute_expected(job, assumed, point, changed).total / 60

    faster = replace(step, per_sample_seconds=step.per_sample_seconds / 1.1)
    yield "kernels 10 % faster", minutes(step=faster)
    leaner = replace(step, per_step_seconds=step.per_step_seconds / 2)
    yield "half the fixed cost of a step (launches, update)", minutes(step=leaner)
    yield "half the time of evaluation", (total - terms.evaluation / 2) / 60
    if forecast.settings.gradient_format == "fp32":
        yield "gradients in 16 bit", _halve_gradients(forecast)
    if terms.input > 0:
        yield "input that is never waited for (threads, prefetch)", minutes(input_per_second=None)
    if terms.first_epoch > 0:
        yield "first epoch as fast as the later ones", (total - terms.first_epoch) / 60


def _halve_gradients(forecast: Forecast) -> float:
    job = replace(forecast.settings.job, gradient_bytes=forecast.settings.job.gradient_bytes / 2)
    return compute_expected(job, forecast.assumed, forecast.campaigns.point).total / 60


def _change_batch(forecast: Forecast) -> Iterator[tuple[str, float]]:
    """Other global batches whose convergence is known, one step a rank without accumulation."""
    job = forecast.settings.job
    if forecast.reference is None:
        return
    for batch, group in _list_batches(job):
        per_rank = batch / job.ranks
        if batch % job.ranks or per_rank > LARGEST_BATCH[job.benchmark]:
            continue
        other = replace(job, global_batch_size=batch, grid=_make_grid(job, batch))
        try:
            point = _expect_point(other, group)
        except InputError:
            continue
        minutes = compute_expected(other, forecast.assumed, point).total / 60
        unit, points = UNITS[job.benchmark], POINTS[job.benchmark]
        yield (
            f"global batch {batch:,} ({per_rank:g} {unit} a rank, about {point:,.0f} {points}), "
            "with the hyperparameters it was published with"
            + (f", learning rate {group.learning_rate:g}" if group is not None else ""),
            minutes,
        )


def _list_batches(job: Job) -> list[tuple[int, Hyperparameters | None]]:
    if job.benchmark == "resnet":
        return [(batch, None) for batch in RESNET_BATCHES if batch != job.global_batch_size]
    groups = [g for g in load_published_convergence() if g.converged_runs >= 20]
    return [
        (g.hyperparameters.global_batch_size, g.hyperparameters)
        for g in groups
        if g.hyperparameters.global_batch_size != job.global_batch_size
    ]


def _make_grid(job: Job, batch: int) -> Grid:
    if job.benchmark == "resnet":
        first = int(job.grid.points[0])
        return Grid(tuple(float(epoch) for epoch in range(first, 90, 4)))
    interval = evaluation_interval_samples(batch)
    return Grid(tuple(float(n * interval) for n in range(1, 60)))


def _expect_point(job: Job, group: Hyperparameters | None) -> float:
    if group is None:
        convergence, _ = find_resnet_convergence(job.global_batch_size)
    else:
        convergence, _ = find_bert_convergence(group)
    runs = RUNS[job.benchmark]
    points = convergence.draw(job.grid, (DRAWS, runs), np.random.default_rng(0))
    kept = np.sort(points, axis=1)[:, 1:-1]
    return float(np.nanmean(kept[~np.isnan(kept).any(axis=1)]))
