"""The training step of one rank: seconds as a line over its batch, from probes or a stated rate.

seconds(batch) = per_sample_seconds * batch + per_step_seconds: kernels that scale with the batch,
and what every step costs whatever its batch (launches, the optimizer, short kernels).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.commands import InputError

SIZE_LIMIT_BYTES = 1 << 20
# What one step costs beside its samples, counted in samples: per_step_seconds / per_sample_seconds.
# The fits to published rows give 17 to 23 images and 9 to 19 sequences, more on A100 of 40 GB
# (docs/prediction_validation.md); zero is the limit of a perfect step, twice the largest that of
# one without CUDA graphs.
OVERHEAD_SAMPLES = {"resnet": 22.0, "bert": 10.0}
OVERHEAD_SAMPLES_RANGE = {"resnet": (0.0, 46.0), "bert": (0.0, 38.0)}


@dataclass(frozen=True)
class StepModel:
    """A line through the seconds of a step over the samples of a rank's batch."""

    per_sample_seconds: float
    per_step_seconds: float

    def seconds(self, batch: float) -> float:
        """Seconds of a step of `batch` samples on one rank."""
        return self.per_sample_seconds * batch + self.per_step_seconds

    def scale(self, factor: float) -> StepModel:
        """The same shape, `factor` times slower."""
        return StepModel(self.per_sample_seconds * factor, self.per_step_seconds * factor)


@dataclass(frozen=True)
class Probe:
    """What a trainer's probe measured: one rank's step on synthetic data.

    batch: samples of one step, accumulation included; steps: how many were timed; seconds: their
    median; p10, p90: the percentiles about it. ranks: that were measured at once, exchanging
    gradients where they are more than one, on so many nodes; exposed_seconds: of each step then,
    what of the exchange no computation hides.
    """

    file: str
    benchmark: str
    config: str
    device: str
    batch: int
    steps: int
    seconds: float
    p10: float
    p90: float
    ranks: int = 1
    nodes: int = 1
    exposed_seconds: float | None = None

    @property
    def spread(self) -> float:
        """Half of p10 to p90 over the median: the unsteadiness of one step."""
        return (self.p90 - self.p10) / 2 / self.seconds


def read_probe(path: Path, benchmark: str | None = None, alone: bool = False) -> Probe:
    """Read the --json document of `python -m resnet.train probe` or `python -m bert.train probe`.

    benchmark: the one it must be of, None for either. alone: of a probe of many ranks take the
    step without exchange, which a probe of one rank measures. Raises InputError naming file and
    key for anything else, and OSError where it cannot be read.
    """
    document = _read_json(path)
    found = document.get("benchmark")
    if found not in ([benchmark] if benchmark else ["resnet", "bert"]):
        wanted = f"'{benchmark}'" if benchmark else "'resnet' or 'bert'"
        raise InputError(f"{path}: 'benchmark' is {found!r}, must be {wanted}: another document?")
    ranks = _take_number({"world_size": 1, **document}, "world_size", str(path))
    name = "step_seconds_without_exchange" if alone and ranks > 1 else "step_seconds"
    step = document.get(name)
    if not isinstance(step, dict):
        raise InputError(f"{path}: '{name}' is missing: give a probe's --json document")
    median, low, high = (
        _take_number(step, key, f"{path}: {name}") for key in ("median", "p10", "p90")
    )
    batch, steps = (_take_number(document, key, str(path)) for key in ("samples_per_step", "steps"))
    if any(value != int(value) for value in (batch, steps, ranks)):
        raise InputError(
            f"{path}: 'samples_per_step', 'steps' and 'world_size' must be whole numbers"
        )
    nodes, exposed = 1.0, None
    if ranks > 1:
        nodes = _take_number(document, "nodes", str(path))
        exposed = _take_number(document, "all_reduce_not_hidden_seconds", str(path), zero=True)
    if not low <= median <= high:
        raise InputError(f"{path}: {name} must grow from p10 over median to p90")
    return Probe(
        file=str(path),
        benchmark=str(found),
        config=str(document.get("config", "")),
        device=str(document.get("device", "")),
        batch=int(batch),
        steps=int(steps),
        seconds=median,
        p10=low,
        p90=high,
        ranks=int(ranks),
        nodes=int(nodes),
        exposed_seconds=exposed,
    )


def _read_json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > SIZE_LIMIT_BYTES:
        raise InputError(f"{path}: larger than 1 MiB, which no probe's document is")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise InputError(
            f"{path}: not a JSON document: give what a probe prints with --json"
        ) from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: not a probe's document: its top is no JSON object")
    return document


def _take_number(table: dict[str, Any], key: str, where: str, zero: bool = False) -> float:
    """A positive number of a document, or 0 where that may be."""
    value = table.get(key)
    # An int may be too long for a float; a NaN compares as false.
    if (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and (0 < value < 1e15 or (zero and value == 0))
    ):
        return float(value)
    shown = "out of range" if isinstance(value, int) and abs(value) >= 10**15 else repr(value)
    raise InputError(f"{where}: '{key}' must be a positive number, is {shown[:40]}")


def fit_step(first: tuple[float, float], second: tuple[float, float]) -> StepModel:
    """The line through two (batch, seconds) points.

    Raises ValueError where the batches are equal, or where the line would give a step without
    samples less than no time, or a sample for nothing: the two points then contradict each other.
    """
    (small, fast), (large, slow) = sorted((first, second))
    if small == large:
        raise ValueError(f"both have the same batch, {small:g}: measure two different ones")
    per_sample = (slow - fast) / (large - small)
    per_step = fast - per_sample * small
    if per_sample <= 0:
        raise ValueError(f"a step of {large:g} samples is no slower than one of {small:g}")
    if per_step < -0.05 * fast:
        raise ValueError(
            f"the rate falls from {small / fast:,.1f} at {small:g} samples to {large / slow:,.1f} "
            f"at {large:g}: a larger batch must not be slower a sample"
        )
    return StepModel(per_sample, max(per_step, 0.0))


def shape_step(batch: float, seconds: float, overhead_samples: float) -> StepModel:
    """The line through one point, with a step's fixed cost given in samples."""
    per_sample = seconds / (batch + overhead_samples)
    return StepModel(per_sample, per_sample * overhead_samples)
