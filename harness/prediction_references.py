"""MLPerf's reference convergence points (RCPs), read from the installed mlperf_logging package."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from harness.commands import InputError
from harness.prediction_published import Hyperparameters

RULESET = "4.0.0"
# Runs of a result, and how many of them count after the fastest and the slowest are dropped.
RUNS = {"resnet": 5, "bert": 10}
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Reference:
    """A reference record, or what lies between two.

    points: epochs (ResNet) or samples (BERT) of its runs, none where it lies between two; mean:
    without the extremes; deviation: of all points; kept: n of the test's degrees of freedom.
    """

    global_batch_size: int
    points: tuple[float, ...]
    mean: float
    deviation: float
    kept: int
    hyperparameters: Hyperparameters | None

    def compute_minimum_mean(self, benchmark: str) -> float:
        """The smallest mean that the convergence test accepts of a result (5 %, one-sided).

        Source: mlperf_logging rcp_checker, whose deviation is that of all points.
        """
        if self.deviation == 0:
            return self.mean
        from scipy.special import stdtrit

        submitted = RUNS[benchmark] - 2
        t = float(stdtrit(self.kept + submitted - 2, CONFIDENCE))
        return self.mean - t * self.deviation * math.sqrt(1 / self.kept + 1 / submitted)


def load_references(benchmark: str) -> list[Reference]:
    """All records of the ruleset, by batch size. Raises InputError where they cannot be read."""
    package = importlib.util.find_spec("mlperf_logging")
    if package is None or not package.submodule_search_locations:
        raise InputError(
            "mlperf_logging is not installed, whose reference points are needed: ./run_and_time.sh "
            "--dry-run makes the environment that has it"
        )
    folder = Path(package.submodule_search_locations[0]) / "rcp_checker" / f"training_{RULESET}"
    path = folder / f"rcps_{benchmark}.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        records = [_read_record(record) for record in table.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: reference points cannot be read: {error}") from None
    return sorted(records, key=lambda record: record.global_batch_size)


def _read_record(record: dict[str, Any]) -> Reference:
    points = sorted(float(point) for point in record["Epochs to converge"])
    return Reference(
        global_batch_size=int(record["BS"]),
        points=tuple(points),
        mean=fmean(points[1:-1]),
        deviation=pstdev(points),
        kept=len(points) - 2,
        hyperparameters=_read_hyperparameters(int(record["BS"]), record["Hyperparams"]),
    )


def _read_hyperparameters(batch: int, stated: dict[str, Any]) -> Hyperparameters | None:
    if "opt_lamb_beta_1" not in stated:
        return None
    return Hyperparameters(
        global_batch_size=batch,
        learning_rate=float(stated["opt_base_learning_rate"]),
        training_steps=int(stated["opt_learning_rate_training_steps"]),
        warmup_steps=int(stated["num_warmup_steps"]),
        start_warmup_step=int(stated["start_warmup_step"]),
        weight_decay=float(stated["opt_lamb_weight_decay_rate"]),
        beta_1=float(stated["opt_lamb_beta_1"]),
        beta_2=float(stated["opt_lamb_beta_2"]),
    )


def prune(records: list[Reference]) -> list[Reference]:
    """Leave out what converges slower than the line between its neighbours, as the checker does.

    Batches below that of the fastest record go first; after a removal the same place is looked at
    again, never the one before.
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


def _interpolate(low: Reference, high: Reference, batch: int, kept: int) -> Reference:
    weight = (batch - low.global_batch_size) / (high.global_batch_size - low.global_batch_size)
    mean = low.mean + weight * (high.mean - low.mean)
    deviation = low.deviation + weight * (high.deviation - low.deviation)
    return Reference(batch, (), mean, deviation, kept, None)


def find_reference(records: list[Reference], batch: int, benchmark: str) -> Reference:
    """The record of a batch size, else what lies between its neighbours, else the smallest one.

    Raises InputError above the largest batch: no reference covers it.
    """
    below = [record for record in records if record.global_batch_size <= batch]
    above = [record for record in records if record.global_batch_size > batch]
    if below and below[-1].global_batch_size == batch:
        return below[-1]
    if not above:
        largest = records[-1].global_batch_size
        mend = "--resnet-epochs" if benchmark == "resnet" else "--bert-samples"
        raise InputError(
            f"[batch] global_batch_size {batch} is above the largest reference convergence point "
            f"of {benchmark} ({largest}, ruleset {RULESET}): a submission would need a new one; to "
            f"predict all the same, say where it converges with {mend}"
        )
    if not below:
        return above[0]
    return _interpolate(below[-1], above[0], batch, 2 * RUNS[benchmark])
