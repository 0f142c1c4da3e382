"""The prediction against published results: fitted to two rows a platform, tried on all others."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np

from harness.prediction_campaign import BAND, MODEL_DEVIATION
from harness.prediction_convergence import (
    Array,
    Grid,
    find_bert_convergence,
    find_group,
    find_known_reference,
    find_resnet_convergence,
)
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
GROUPS = ("several nodes", "one node", "own hyperparameters", "shared ports")


@dataclass(frozen=True)
class Comparison:
    """A published result beside its predictions, in minutes.

    training: its own epochs or samples and, where logged, its own evaluation seconds are given, so
    that steps, network, first epoch, start and end are predicted; time: evaluation is predicted
    too; outright: convergence as well, from what was known without its own runs. band: of the
    outright prediction, where 90 % of such campaigns would end. known: others ran the same
    hyperparameters.
    """

    result: PublishedResult
    training_minutes: float
    time_minutes: float
    outright_minutes: float
    band: tuple[float, float]
    known: bool

    @property
    def in_band(self) -> bool:
        """True where the published time lies in the band of the outright prediction."""
        return self.band[0] <= self.result.minutes <= self.band[1]

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
    step = fit_platform(result.platform)
    terms = compute_run_seconds(job, make_machine(result, step), result.converged_at)
    return Comparison(
        result=result,
        training_minutes=predict_training(result, step),
        time_minutes=terms.total / 60,
        outright_minutes=predict_outright(result, step),
        band=predict_band(result, step),
        known=is_known(result),
    )


def is_known(result: PublishedResult) -> bool:
    """True where when it converges could be known before: others ran its hyperparameters."""
    stated = result.hyperparameters
    if stated is None:
        return True
    return find_group(stated, result) is not None or find_known_reference(stated) is not None


@functools.cache
def _draw_points(result: PublishedResult) -> Array:
    """Where the counted runs of simulated campaigns converge, known without the result's own."""
    if result.hyperparameters is None:
        convergence, _ = find_resnet_convergence(result.global_batch_size)
    else:
        convergence, _ = find_bert_convergence(result.hyperparameters, without=result)
    shape = (CAMPAIGNS, RUNS[result.benchmark])
    points = convergence.draw(make_job(result).grid, shape, np.random.default_rng(0))
    # A failed run is the slowest: NaN sorts last. Campaigns with two are no result.
    kept = np.sort(points, axis=1)[:, 1:-1]
    found: Array = kept[~np.isnan(kept).any(axis=1)]
    return found


def predict_outright(result: PublishedResult, step: StepModel) -> float:
    """Minutes of a published result from what was known without its own runs."""
    expected = float(_draw_points(result).mean())
    return compute_run_seconds(make_job(result), make_machine(result, step), expected).total / 60


def predict_band(result: PublishedResult, step: StepModel) -> tuple[float, float]:
    """Minutes between which 90 % of the simulated campaigns of a published result end."""
    job, machine, points = make_job(result), make_machine(result, step), _draw_points(result)
    updates = points * job.samples_per_point / job.global_batch_size
    evaluations = np.searchsorted(np.asarray(job.grid.points), points, side="right")
    seconds = updates * compute_update_seconds(job, machine).total
    seconds = seconds + evaluations * compute_evaluation_seconds(job, machine)
    seconds = seconds + machine.first_epoch_extra_seconds + machine.start_stop_seconds
    pace = np.random.default_rng(1).normal(0.0, MODEL_DEVIATION, len(points))
    low, high = np.percentile(np.exp(pace) * seconds.mean(axis=1) / 60, BAND)
    return float(low), float(high)


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
    """Split by what the model is to be judged on, by what is known before a run alone: several
    nodes and one node, hyperparameters that nobody else ran, nodes that share ports."""
    groups: dict[str, list[Comparison]] = {name: [] for name in GROUPS}
    for comparison in comparisons:
        result = comparison.result
        key = "one node" if result.nodes == 1 else "several nodes"
        key = key if comparison.known else "own hyperparameters"
        groups["shared ports" if result.shares_ports else key].append(comparison)
    return groups
