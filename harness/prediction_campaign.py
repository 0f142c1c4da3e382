"""A campaign by simulation: what is uncertain is drawn, runs converge by chance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.prediction_convergence import Array, Convergence
from harness.prediction_network import Network
from harness.prediction_references import RUNS, Reference
from harness.prediction_step import StepModel, shape_step
from harness.prediction_time import (
    EVALUATION_PASS_SECONDS,
    Job,
    Machine,
    Terms,
    compute_evaluation_seconds,
    compute_run_seconds,
    compute_update_seconds,
)

CAMPAIGNS = 4000
BAND = (5.0, 95.0)
# Standard deviation of the predicted over the published time on several nodes, convergence given
# (the validation in docs/prediction.md; tests/harness/test_prediction_validation.py checks it).
MODEL_DEVIATION = 0.036
# Runs of one published set differ in speed by 3 % (ResNet) and 5 % (BERT) from the slowest to the
# fastest, which is two to three standard deviations of 5 and 10 runs.
RUN_DEVIATION = {"resnet": 0.012, "bert": 0.016}


@dataclass(frozen=True)
class Uncertain:
    """A positive quantity between low and high, most likely middle; equal where it is known."""

    low: float
    middle: float
    high: float

    @classmethod
    def known(cls, value: float) -> Uncertain:
        """A quantity that is known."""
        return cls(value, value, value)

    def draw(self, generator: np.random.Generator, count: int) -> Array:
        """Draw values (count,), triangular between low and high."""
        if self.low == self.high:
            return np.full(count, self.middle)
        return generator.triangular(self.low, self.middle, self.high, count)


@dataclass(frozen=True)
class Assumptions:
    """What one benchmark's prediction rests on.

    measured_batch, measured_seconds: the step that was measured, or stated; overhead_samples: its
    fixed cost in samples, known from two measurements, else a range. first_epoch_seconds: values
    that are equally likely. network_gigabits, evaluation_ratio (against 1 / per-sample seconds),
    hidden_share, exposed: see Machine. machine_factor: a step is so many times slower than
    measured; deviation: relative, of every time predicted.
    """

    measured_batch: float
    measured_seconds: float
    overhead_samples: Uncertain
    network_gigabits: Uncertain
    measured_network_bytes_per_second: float | None
    hidden_share: Uncertain
    evaluation_ratio: Uncertain
    evaluation_per_second: float | None
    first_epoch_seconds: tuple[float, ...]
    start_stop_seconds: float
    input_per_second: float | None
    machine_factor: float
    deviation: float
    exposed: tuple[Job, float] | None = None


@dataclass(frozen=True)
class Campaigns:
    """Simulated campaigns: latencies in minutes (count,), NaN where two runs fail.

    normalized: with the RCP scaling. run_failure, campaign_failure: chances. rcp_pass: chance of
    the convergence test among valid campaigns, None where no reference applies. point: mean of what
    the counted runs converge at.
    """

    minutes: Array
    normalized: Array
    run_failure: float
    campaign_failure: float
    rcp_pass: float | None
    point: float


def make_machine(job: Job, assumed: Assumptions, draws: dict[str, Array] | None = None) -> Machine:
    """The machine of the most likely values; with draws, one of arrays of them."""
    values: dict[str, Any] = {
        "overhead": assumed.overhead_samples.middle,
        "gigabits": assumed.network_gigabits.middle,
        "hidden": assumed.hidden_share.middle,
        "ratio": assumed.evaluation_ratio.middle,
        "first_epoch": float(np.median(assumed.first_epoch_seconds)),
        "factor": 1.0,
    } | (draws or {})
    step = shape_step(assumed.measured_batch, assumed.measured_seconds, values["overhead"])
    step = step.scale(values["factor"] * assumed.machine_factor)
    rate = assumed.evaluation_per_second
    return Machine(
        step=step,
        network=Network(values["gigabits"], assumed.measured_network_bytes_per_second),
        evaluation_per_second=rate or values["ratio"] / step.per_sample_seconds,
        evaluation_pass_seconds=0.0 if rate else EVALUATION_PASS_SECONDS[job.benchmark],
        first_epoch_extra_seconds=values["first_epoch"],
        start_stop_seconds=assumed.start_stop_seconds,
        input_per_second=assumed.input_per_second,
        hidden_share=values["hidden"],
        exposed=assumed.exposed,
    )


def compute_expected(
    job: Job, assumed: Assumptions, point: float, changed: dict[str, Any] | None = None
) -> Terms:
    """Seconds of a run at the most likely values; changed: fields of the machine to replace."""
    machine = make_machine(job, assumed)
    return compute_run_seconds(job, replace(machine, **(changed or {})), point)


def simulate(
    job: Job, assumed: Assumptions, convergence: Convergence, reference: Reference | None, seed: int
) -> Campaigns:
    """Simulate campaigns of 5 (ResNet) or 10 (BERT) runs."""
    generator = np.random.default_rng(seed)
    runs = RUNS[job.benchmark]
    update, evaluation, once = _draw_machines(job, assumed, generator)
    points = convergence.draw(job.grid, (CAMPAIGNS, runs), generator)
    filled = np.nan_to_num(points, nan=job.grid.points[-1])
    updates = filled * job.samples_per_point / job.global_batch_size
    evaluations = np.searchsorted(np.asarray(job.grid.points), filled, side="right")
    pace = 1 + generator.normal(0.0, RUN_DEVIATION[job.benchmark], points.shape)
    seconds = pace * (updates * update[:, None] + evaluations * evaluation[:, None])
    # Every run reads cold storage anew, of the same machine.
    seconds += once[:, None]
    return _judge(points, np.where(np.isnan(points), np.inf, seconds / 60), reference, job)


def _draw_machines(
    job: Job, assumed: Assumptions, generator: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Seconds of an update, of an evaluation, and once a run, of each campaign's machine."""
    draws = {
        "overhead": assumed.overhead_samples.draw(generator, CAMPAIGNS),
        "gigabits": assumed.network_gigabits.draw(generator, CAMPAIGNS),
        "hidden": assumed.hidden_share.draw(generator, CAMPAIGNS),
        "ratio": assumed.evaluation_ratio.draw(generator, CAMPAIGNS),
        "first_epoch": generator.choice(np.asarray(assumed.first_epoch_seconds), CAMPAIGNS),
        "factor": np.exp(generator.normal(0.0, assumed.deviation, CAMPAIGNS)),
    }
    machine = make_machine(job, assumed, draws)
    each = np.ones(CAMPAIGNS)
    once = machine.first_epoch_extra_seconds + machine.start_stop_seconds
    update = compute_update_seconds(job, machine).total
    return each * update, each * compute_evaluation_seconds(job, machine), each * once


def _judge(points: Array, minutes: Array, reference: Reference | None, job: Job) -> Campaigns:
    failed = np.isnan(points)
    valid = failed.sum(axis=1) <= 1
    kept = np.sort(minutes, axis=1)[:, 1:-1]
    latency = np.where(valid, np.where(np.isinf(kept), 0.0, kept).mean(axis=1), np.nan)
    ordered = np.sort(np.where(failed, np.inf, points), axis=1)[:, 1:-1]
    mean = np.where(valid, np.where(np.isinf(ordered), 0.0, ordered).mean(axis=1), np.nan)
    normalized, passed = latency, None
    if reference is not None and valid.any():
        normalized = latency * np.maximum(1.0, reference.mean / mean)
        least = reference.compute_minimum_mean(job.benchmark)
        passed = float((mean[valid] >= least).mean())
    return Campaigns(
        minutes=latency,
        normalized=normalized,
        run_failure=float(failed.mean()),
        campaign_failure=float(1 - valid.mean()),
        rcp_pass=passed,
        point=float(np.nanmean(mean)) if valid.any() else math.nan,
    )


def take_band(values: Array) -> tuple[float, float, float]:
    """Median and both ends of the band of the valid campaigns."""
    low, middle, high = np.nanpercentile(values, (BAND[0], 50.0, BAND[1]))
    return float(middle), float(low), float(high)


def fix_shape(step: StepModel) -> Uncertain:
    """The overhead in samples of a step that two measurements have fixed."""
    return Uncertain.known(step.per_step_seconds / step.per_sample_seconds)
