"""When runs reach their target: distributions over epochs (ResNet) or samples (BERT), and the draw.

A run converges at some point that nobody sees, and ends at the first evaluation after it; where its
schedule has none left, it has failed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.prediction_published import (
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
    # That of the reference runs it follows, where it follows some.
    reference_learning_rate: float | None = None

    def draw(self, grid: Grid, shape: tuple[int, ...], generator: np.random.Generator) -> Array:
        """Draw where runs end; NaN for a failed run."""
        if self.values:
            return grid.round_up(generator.choice(np.asarray(self.values, np.float64), shape))
        if self.normal is not None:
            return grid.round_up(generator.normal(*self.normal, shape))
        chance = generator.random(shape)
        first = grid.round_up(np.full(shape, float(RESNET_FIRST_EPOCH)))
        second = grid.round_up(first + 0.5)
        missed = RESNET_REACHED_AT_FIRST + (1 - RESNET_REACHED_AT_FIRST) * RESNET_REACHED_AT_NEXT
        ends = np.where(chance < RESNET_REACHED_AT_FIRST, first, second)
        return np.where(chance < missed, ends, np.nan)


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
    global_batch_size: int, learning_rate: float, without: PublishedResult | None = None
) -> tuple[Convergence, Reference]:
    """BERT's distribution in samples: published runs of the same group of hyperparameters, else the
    reference's; and the reference of its convergence test.

    without: a published result to be predicted, whose own runs must not be looked at. Raises
    InputError above the largest reference.
    """
    records = load_references("bert")
    judge = find_reference(prune(records), global_batch_size, "bert")
    group = _find_group(global_batch_size, learning_rate, without)
    if group is None:
        reference = find_reference(records, global_batch_size, "bert")
        return _follow(reference, "samples", REFERENCE_GRANULARITY_SAMPLES / 2), judge
    interval = group.evaluation_interval_samples
    # What is published lies on the evaluations; the points before rounding up lie half an interval
    # lower on average, and spread less.
    spread = math.sqrt(max(group.deviation_samples**2 - interval**2 / 12, 0.0))
    source = (
        f"{group.converged_runs} published runs at global batch {global_batch_size:,}, learning "
        f"rate {learning_rate:g}"
    )
    return Convergence(source, normal=(group.mean_samples - interval / 2, spread)), judge


def _find_group(
    batch: int, rate: float, without: PublishedResult | None
) -> PublishedConvergence | None:
    for group in load_published_convergence():
        if group.global_batch_size == batch and math.isclose(
            group.learning_rate, rate, rel_tol=1e-3
        ):
            return group if without is None else group.without(without)
    return None


def _follow(reference: Reference, unit: str, earlier: float) -> Convergence:
    batch = reference.global_batch_size
    if reference.points:
        source = f"{len(reference.points)} reference runs at global batch {batch:,}"
        points = tuple(point - earlier for point in reference.points)
        return Convergence(source, points, reference_learning_rate=reference.learning_rate)
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
