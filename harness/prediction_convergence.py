"""When runs reach their target: distributions over epochs (ResNet) or samples (BERT), and the draw.

A run converges at some point that nobody sees, and ends at the first evaluation after it; where its
schedule has none left, it has failed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from harness.prediction_published import (
    Hyperparameters,
    PublishedConvergence,
    PublishedResult,
    load_published_convergence,
)
from harness.prediction_references import (
    Reference,
    find_reference,
    load_references,
    prune,
)

Array = NDArray[np.float64]

# Published ResNet runs at global batches up to 3520, schedules ending at epoch 35 to 38 (v2.1 to
# v5.0, 620 runs, identical sets once): at epoch 35 or the first evaluation after it 575 had reached
# the target; 35 ended there without; 10 went on to the next evaluation, and all 10 reached it.
RESNET_LARGEST_SMALL_BATCH = 3520
RESNET_FIRST_EPOCH = 35
RESNET_REACHED_AT_FIRST = 575 / 620
# Ten of ten, by the rule of succession.
RESNET_REACHED_AT_NEXT = 11 / 12
# Reference runs of BERT were evaluated about every 25,000 samples, so that on average they had
# converged half of that earlier.
REFERENCE_GRANULARITY_SAMPLES = 25_000
# How much the sets of one group of hyperparameters differ beyond what the scatter of their runs
# explains, relative: 22 groups of two and more published sets, 105 degrees of freedom.
SETS_DEVIATION = 0.010


@dataclass(frozen=True)
class Grid:
    """The points at which a run evaluates, ascending, in epochs or samples; the last ends it."""

    points: tuple[float, ...]

    def round_up(self, latent: Array) -> Array:
        """The evaluation that sees each latent point; NaN for those after the last."""
        ends = np.append(np.asarray(self.points, dtype=np.float64), np.nan)
        found: Array = ends[np.searchsorted(ends[:-1], latent - 1e-9)]
        return found


@dataclass(frozen=True)
class Convergence:
    """A distribution of latent points, and where it comes from.

    Exactly one of: values (drawn with equal chance), normal (mean, deviation), or neither
    (ResNet's published shares of the first and second evaluation from epoch 35).
    """

    source: str
    values: tuple[float, ...] = ()
    normal: tuple[float, float] | None = None
    # Standard deviation, relative, of what all runs of a campaign have in common: how far the whole
    # distribution may lie from the truth.
    common_deviation: float = 0.0

    def draw(self, grid: Grid, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
        """Draw where runs end; NaN for a failed run. shape: campaigns x runs, or runs."""
        common = np.exp(generator.normal(0.0, self.common_deviation, (*shape[:-1], 1)))
        if self.values:
            latent = generator.choice(np.asarray(self.values, np.float64), shape)
            return grid.round_up(common * latent)
        if self.normal is not None:
            return grid.round_up(common * generator.normal(*self.normal, shape))
        chance = generator.random(shape)
        first = grid.round_up(np.full(shape, float(RESNET_FIRST_EPOCH)))
        second = grid.round_up(first + 0.5)
        missed = RESNET_REACHED_AT_FIRST + (1 - RESNET_REACHED_AT_FIRST) * RESNET_REACHED_AT_NEXT
        ends = np.where(chance < RESNET_REACHED_AT_FIRST, first, second)
        return np.where(chance < missed, ends, np.nan)

    def scale(self, factor: float, common_deviation: float, source: str) -> Convergence:
        """The same distribution at `factor` times its points."""
        values = tuple(factor * value for value in self.values)
        normal = self.normal and (factor * self.normal[0], factor * self.normal[1])
        return Convergence(source, values, normal, common_deviation)


def find_resnet_convergence(global_batch_size: int) -> tuple[Convergence, Reference]:
    """ResNet's distribution in epochs, and the reference of its convergence test.

    Raises InputError above the largest reference.
    """
    records = load_references("resnet")
    judge = find_reference(prune(records), global_batch_size, "resnet")
    if global_batch_size <= RESNET_LARGEST_SMALL_BATCH:
        return Convergence("620 published runs at global batches up to 3520"), judge
    return _follow(find_reference(records, global_batch_size, "resnet"), "epochs", 0.0), judge


def find_bert_convergence(
    hyperparameters: Hyperparameters, without: PublishedResult | None = None
) -> tuple[Convergence, Reference]:
    """BERT's distribution in samples: published runs of the same group of hyperparameters, else
    reference runs of it, else the reference of the batch, as far as other groups of published runs
    lie from theirs; and the reference of its convergence test.

    without: a published result to be predicted, whose own runs must not be looked at. Raises
    InputError above the largest reference.
    """
    batch = hyperparameters.global_batch_size
    records = load_references("bert")
    judge = find_reference(prune(records), batch, "bert")
    group = find_group(hyperparameters, without)
    if group is not None:
        return _follow_group(group), judge
    earlier = REFERENCE_GRANULARITY_SAMPLES / 2
    known = find_known_reference(hyperparameters)
    if known is not None:
        deviation = math.hypot(SETS_DEVIATION, known.deviation / known.mean / len(known.points))
        return replace(_follow(known, "samples", earlier), common_deviation=deviation), judge
    factor, deviation = compare_groups_with_references(hyperparameters)
    found = _follow(find_reference(records, batch, "bert"), "samples", earlier)
    source = (
        f"{found.source}, and {100 * (factor - 1):+.0f} % (standard deviation "
        f"{100 * deviation:.0f} %) as published runs of other hyperparameters lie from theirs"
    )
    return found.scale(factor, deviation, source), judge


def find_group(
    hyperparameters: Hyperparameters, without: PublishedResult | None = None
) -> PublishedConvergence | None:
    """The published runs of a group of hyperparameters, less those of one result; else None."""
    for group in load_published_convergence():
        if group.hyperparameters.equal(hyperparameters):
            return group if without is None else group.without(without)
    return None


def find_known_reference(hyperparameters: Hyperparameters) -> Reference | None:
    """The reference record that was run with these very hyperparameters, None without one."""
    for record in load_references("bert"):
        if record.hyperparameters is not None and record.hyperparameters.equal(hyperparameters):
            return record
    return None


def _follow_group(group: PublishedConvergence) -> Convergence:
    mean, spread = _see_before_rounding(group)
    deviation = math.hypot(
        SETS_DEVIATION * math.sqrt(1 + 1 / group.sets),
        group.deviation_samples / mean / math.sqrt(group.converged_runs),
    )
    stated = group.hyperparameters
    source = (
        f"{group.converged_runs} published runs of the same hyperparameters (global batch "
        f"{stated.global_batch_size:,}, learning rate {stated.learning_rate:g})"
    )
    return Convergence(source, normal=(mean, spread), common_deviation=deviation)


def _see_before_rounding(group: PublishedConvergence) -> tuple[float, float]:
    """Mean and deviation of the points that nobody sees: what is published lies on the evaluations,
    half an interval later on average, and spreads more."""
    interval = group.evaluation_interval_samples
    spread = math.sqrt(max(group.deviation_samples**2 - interval**2 / 12, 0.0))
    return group.mean_samples - interval / 2, spread


@functools.cache
def compare_groups_with_references(without: Hyperparameters) -> tuple[float, float]:
    """How published groups of hyperparameters converge against the references of their batches.

    Returns the geometric mean of the ratios and the standard deviation of their logarithms, over
    all groups but `without` at batches that references cover.
    """
    records = load_references("bert")
    smallest, largest = records[0].global_batch_size, records[-1].global_batch_size
    ratios = []
    for group in load_published_convergence():
        batch = group.hyperparameters.global_batch_size
        if smallest <= batch <= largest and not group.hyperparameters.equal(without):
            reference = find_reference(records, batch, "bert").mean
            reference -= REFERENCE_GRANULARITY_SAMPLES / 2
            ratios.append(math.log(_see_before_rounding(group)[0] / reference))
    return math.exp(fmean(ratios)), stdev(ratios)


def _follow(reference: Reference, unit: str, earlier: float) -> Convergence:
    batch = reference.global_batch_size
    if reference.points:
        source = f"{len(reference.points)} reference runs at global batch {batch:,}"
        points = tuple(point - earlier for point in reference.points)
        return Convergence(source, points)
    source = f"the reference points next to global batch {batch:,}, interpolated, in {unit}"
    return Convergence(source, normal=(reference.mean - earlier, reference.deviation))


def state_convergence(point: float, unit: str) -> Convergence:
    """What the user states: every run converges there."""
    return Convergence(f"as stated: {point:,g} {unit}", values=(point,))


def spread_over_schedule(grid: Grid) -> Convergence:
    """Any evaluation of the schedule with equal chance: nothing is known."""
    source = "nothing known: any evaluation of the schedule, with equal chance"
    return Convergence(source, values=grid.points)


def follow_runs(points: Sequence[float], folder: str) -> Convergence:
    """The points of earlier runs of this very configuration."""
    return Convergence(f"{len(points)} runs in {folder}", values=tuple(points))
