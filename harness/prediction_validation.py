"""The prediction against published results: fitted to two rows a platform, tried on all others."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from harness.prediction_convergence import Grid, find_bert_convergence, find_resnet_convergence
from harness.prediction_network import Network
from harness.prediction_published import PublishedResult, load_published_results
from harness.prediction_references import RUNS
from harness.prediction_step import StepModel, fit_step
from harness.prediction_time import (
    EVALUATION_PASS_SECONDS,
    EVALUATION_RATIO,
    START_STOP_SECONDS,
    Job,
    Machine,
    compute_evaluation_seconds,
    compute_run_seconds,
    compute_update_seconds,
)

# What the published runs trained and averaged: images of an epoch, evaluation samples, and the
# bytes of 16-bit gradients of 25,557,032 and 336,226,108 parameters.
TRAIN_IMAGES = 1_281_167
EVALUATION_SAMPLES = {"resnet": 50_000, "bert": 10_000}
GRADIENT_BYTES = {"resnet": 2 * 25_557_032, "bert": 2 * 336_226_108}
# NVIDIA's MXNet sends gradients during the backward pass; its BERT waits for the end of it
# (apex DistributedDataParallel with delay_allreduce, training_results_v4.0).
LAST_BUCKET_SHARE = {"resnet": 0.1, "bert": 1.0}
# A platform of one anchor has the shape of another, scaled to its one row. NVIDIA's image
# classifier ran fused kernels on one node and plain ones on several (export NETWORK= of its
# configurations), so on several nodes the plain shape is scaled by what one node of the same
# software is slower.
SHAPED_LIKE = {
    "ResNet H100 preview": "ResNet H100 fused",
    "ResNet H100 preview plain": "ResNet H100 plain",
    "ResNet H100 v3.0": "ResNet H100 fused",
    "ResNet H100 v3.0 plain": "ResNet H100 plain",
    "BERT H100 preview": "BERT H100",
    "BERT B200": "BERT GB200",
}
SCALED_BY = {
    "ResNet H100 preview plain": "ResNet H100 preview",
    "ResNet H100 v3.0 plain": "ResNet H100 v3.0",
}
CAMPAIGNS = 2000
# Rows whose batches differ less say too little of the line between them.
LEAST_BATCH_RATIO = 1.5


@dataclass(frozen=True)
class Comparison:
    """A published result beside its predictions, in minutes.

    training: its own epochs or samples and, where logged, its own evaluation seconds are given, so
    that steps, network, first epoch, start and end are predicted; time: evaluation is predicted
    too; outright: convergence as well, from what was known without its own runs.
    """

    result: PublishedResult
    training_minutes: float
    time_minutes: float
    outright_minutes: float

    @property
    def training_error(self) -> float:
        """Relative error, convergence and evaluation given."""
        return self.training_minutes / self.result.minutes - 1

    @property
    def time_error(self) -> float:
        """Relative error, convergence given."""
        return self.time_minutes / self.result.minutes - 1

    @property
    def outright_error(self) -> float:
        """Relative error, nothing given."""
        return self.outright_minutes / self.result.minutes - 1


@dataclass(frozen=True)
class Statistics:
    """Errors of several predictions, as fractions."""

    rows: int
    mean: float
    median: float
    largest: float
    bias: float
    deviation: float


def summarize(errors: Iterable[float]) -> Statistics:
    """Count, mean and median and largest absolute error, mean signed error, standard deviation."""
    found = list(errors)
    sizes = [abs(error) for error in found]
    bias = fmean(found)
    deviation = math.sqrt(fmean((error - bias) ** 2 for error in found))
    return Statistics(len(found), fmean(sizes), median(sizes), max(sizes), bias, deviation)


def make_job(result: PublishedResult) -> Job:
    """What a published result trained."""
    if result.benchmark == "resnet":
        grid = tuple(float(e) for e in range(result.evaluation_grid, 101, 4))
        unit = float(TRAIN_IMAGES)
    else:
        grid = tuple(float(n * result.evaluation_grid) for n in range(1, 101))
        unit = 1.0
    return Job(
        benchmark=result.benchmark,
        nodes=result.nodes,
        ranks_per_node=result.accelerators_per_node,
        global_batch_size=result.global_batch_size,
        samples_per_point=unit,
        evaluation_samples=EVALUATION_SAMPLES[result.benchmark],
        gradient_bytes=GRADIENT_BYTES[result.benchmark],
        last_bucket_share=LAST_BUCKET_SHARE[result.benchmark],
        grid=Grid(grid),
    )


def make_machine(result: PublishedResult, step: StepModel) -> Machine:
    """The machine of a published result, with a platform's step."""
    cold = compute_first_epoch_extra() if result.benchmark == "resnet" else 0.0
    return Machine(
        step=step,
        network=Network(result.network_gigabits_per_node),
        evaluation_per_second=EVALUATION_RATIO[result.benchmark] / step.per_sample_seconds,
        evaluation_pass_seconds=EVALUATION_PASS_SECONDS[result.benchmark],
        first_epoch_extra_seconds=cold,
        start_stop_seconds=START_STOP_SECONDS[result.benchmark],
    )


@functools.cache
def compute_first_epoch_extra() -> float:
    """Median over ResNet's anchors of what the first epoch took longer than the later ones.

    Whatever the number of nodes: they read from storage that they share.
    """
    return median(
        result.first_epoch_extra_seconds
        for result in load_published_results()
        if result.anchor and result.benchmark == "resnet"
    )


def list_anchors(platform: str) -> list[PublishedResult]:
    """The rows that a platform is fitted to: one or two."""
    return [row for row in load_published_results() if row.anchor and row.platform == platform]


@functools.cache
def fit_platform(platform: str) -> StepModel:
    """The step of a platform: a line through its two anchors, or another's through its one."""
    anchors = list_anchors(platform)
    if len(anchors) == 2:
        return fit_pair(anchors[0], anchors[1])
    shape = fit_platform(SHAPED_LIKE[platform])
    anchor = list_anchors(SCALED_BY.get(platform, platform))[0]
    reference = fit_platform(SHAPED_LIKE[anchor.platform])
    factor = 1.0
    for _ in range(8):
        factor = _measure_step(anchor, reference.scale(factor)) / reference.seconds(
            anchor.local_batch
        )
    return shape.scale(factor)


def fit_pair(first: PublishedResult, second: PublishedResult) -> StepModel:
    """The line through two published rows. Raises ValueError where they contradict each other."""
    step = StepModel(1e-3, 0.0)
    # The evaluation's rate hangs on the fit where the logs do not time it: a few rounds settle.
    for _ in range(8):
        step = fit_step(
            (first.local_batch, _measure_step(first, step)),
            (second.local_batch, _measure_step(second, step)),
        )
    return step


def _measure_step(result: PublishedResult, step: StepModel) -> float:
    """Seconds of a rank's step in a published run, less all that is no step.

    step: for the evaluation's rate, where the logs do not time evaluation.
    """
    job, machine = make_job(result), make_machine(result, step)
    evaluation = result.evaluation_seconds
    if evaluation == 0:
        count = result.converged_at // job.grid.points[0]
        evaluation = count * compute_evaluation_seconds(job, machine)
    seconds = result.minutes * 60 - evaluation - machine.start_stop_seconds
    seconds -= result.first_epoch_extra_seconds
    updates = result.converged_at * job.samples_per_point / job.global_batch_size
    return seconds / updates - compute_update_seconds(job, machine).all_reduce


def compare_result(result: PublishedResult) -> Comparison:
    """Predict a published result, with and without its own convergence and evaluation."""
    job = make_job(result)
    machine = make_machine(result, fit_platform(result.platform))
    terms = compute_run_seconds(job, machine, result.converged_at)
    if result.benchmark == "resnet":
        convergence, _ = find_resnet_convergence(result.global_batch_size)
    else:
        convergence, _ = find_bert_convergence(
            result.global_batch_size, result.learning_rate, without=result
        )
    runs = RUNS[result.benchmark]
    points = convergence.draw(job.grid, (CAMPAIGNS, runs), np.random.default_rng(0))
    # A failed run is the slowest: NaN sorts last. Campaigns with two are no result.
    kept = np.sort(points, axis=1)[:, 1:-1]
    expected = float(np.nanmean(kept[~np.isnan(kept).any(axis=1)]))
    outright = compute_run_seconds(job, machine, expected).total / 60
    training = predict_training(result, machine.step)
    return Comparison(result, training, terms.total / 60, outright)


def predict_training(result: PublishedResult, step: StepModel) -> float:
    """Minutes of a published result, its convergence and logged evaluation given."""
    job, machine = make_job(result), make_machine(result, step)
    terms = compute_run_seconds(job, machine, result.converged_at)
    evaluation = result.evaluation_seconds or terms.evaluation
    return (terms.total - terms.evaluation + evaluation) / 60


def compare_all() -> list[Comparison]:
    """Every published row that no fit has used, in the order of the table."""
    rows = [row for row in load_published_results() if not row.anchor]
    return [
        compare_result(row)
        for row in rows
        if list_anchors(row.platform) or row.platform in SHAPED_LIKE
    ]


def group_comparisons(comparisons: list[Comparison]) -> dict[str, list[Comparison]]:
    """Split by what the model is to be judged on: several nodes, one node, shared ports."""
    groups: dict[str, list[Comparison]] = {"several nodes": [], "one node": [], "shared ports": []}
    for comparison in comparisons:
        result = comparison.result
        key = "one node" if result.nodes == 1 else "several nodes"
        groups["shared ports" if result.shares_ports else key].append(comparison)
    return groups


@dataclass(frozen=True)
class Variation:
    """Errors of a platform's rows on several nodes when any other two of its rows are the anchors.

    mean, bias: median and worst over the pairs of rows whose batches differ 1.5 times or more.
    """

    platform: str
    pairs: int
    mean: float
    worst_mean: float
    bias: float
    worst_bias: float


def vary_anchors(platform: str) -> Variation | None:
    """Fit a platform to every pair of its rows in turn; None where fewer than two pairs fit."""
    rows = [r for r in load_published_results() if r.platform == platform and not r.shares_ports]
    found = []
    for first, second in itertools.combinations(rows, 2):
        batches = sorted((first.local_batch, second.local_batch))
        untimed = first.evaluation_seconds == 0 or second.evaluation_seconds == 0
        if batches[1] < LEAST_BATCH_RATIO * batches[0] or untimed:
            continue
        try:
            step = fit_pair(first, second)
        except ValueError:
            continue
        others = [row for row in rows if row.nodes > 1 and row not in (first, second)]
        if others:
            found.append(summarize(predict_training(r, step) / r.minutes - 1 for r in others))
    if len(found) < 2:
        return None
    biases = [statistics.bias for statistics in found]
    means = [statistics.mean for statistics in found]
    worst = max(biases, key=abs)
    return Variation(platform, len(found), median(means), max(means), median(biases), worst)
