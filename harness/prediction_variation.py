"""How much the validation hangs on the choice of anchors: every other pair in their place."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from statistics import fmean, median

from harness.prediction_published import load_published_results
from harness.prediction_validation import fit_pair, predict_outright, predict_training, summarize

# Rows whose batches differ less say too little of the line between them.
LEAST_BATCH_RATIO = 1.5


@dataclass(frozen=True)
class Variation:
    """Errors of a platform's rows on several nodes when any other two of its rows are the anchors.

    mean, bias: convergence and evaluation given; outright: mean error, nothing given. Each median
    and worst over the pairs of rows whose batches differ 1.5 times or more.
    """

    platform: str
    pairs: int
    mean: float
    worst_mean: float
    bias: float
    worst_bias: float
    outright: float
    worst_outright: float


def vary_anchors(platform: str) -> Variation | None:
    """Fit a platform to every pair of its rows in turn; None where fewer than two pairs fit."""
    rows = [r for r in load_published_results() if r.platform == platform and not r.shares_ports]
    found, outright = [], []
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
            errors = [abs(predict_outright(r, step) / r.minutes - 1) for r in others]
            outright.append(fmean(errors))
    if len(found) < 2:
        return None
    biases = [statistics.bias for statistics in found]
    means = [statistics.mean for statistics in found]
    worst = max(biases, key=abs)
    return Variation(
        platform, len(found), median(means), max(means), median(biases), worst, median(outright),
        max(outright),
    )  # fmt: skip
