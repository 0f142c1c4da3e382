"""Published accuracy curves, from a data file: what a healthy run looks like."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = Path(__file__).with_name("published_curves.toml")
NEARNESS = 0.05


@dataclass(frozen=True)
class PublishedCurve:
    """Accuracy of `runs` published runs by point, epochs (ResNet) or samples (BERT).

    band: what low and high are, in words; source: the results they were read from.
    """

    benchmark: str
    global_batch_size: int
    runs: int
    band: str
    source: str
    points: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@cache
def load_curves(path: Path = FILE) -> tuple[PublishedCurve, ...]:
    """Read all curves."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["curve"]
    lists = ("points", "mean", "low", "high")
    return tuple(
        PublishedCurve(**{**row, **{name: tuple(row[name]) for name in lists}}) for row in rows
    )


def find_curve(benchmark: str, global_batch_size: int | None) -> PublishedCurve | None:
    """Find the curve of the nearest batch size; None outside of what was published.

    The batch size must lie between the smallest and the largest published one, and within 5 % of
    the curve's.
    """
    curves = [curve for curve in load_curves() if curve.benchmark == benchmark]
    if global_batch_size is None or not curves:
        return None
    sizes = [curve.global_batch_size for curve in curves]
    nearest = min(curves, key=lambda curve: abs(curve.global_batch_size - global_batch_size))
    distance = abs(nearest.global_batch_size - global_batch_size)
    inside = min(sizes) <= global_batch_size <= max(sizes)
    return nearest if inside and distance <= NEARNESS * nearest.global_batch_size else None
