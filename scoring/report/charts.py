"""The pictures of a benchmark that compare its runs: times, convergence, speed, parts."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scoring.audit.speed import compute_samples_per_second
from scoring.convergence import Reference
from scoring.report.picture import make_figure
from scoring.report.timeline import measure_timeline
from scoring.report.units import BLUE, GRAY, GREEN, ORANGE, POINTS_SHOWN, RED, get_unit, label_run
from scoring.run import Run
from scoring.verdict import Verdict


def _get_axes(figure: Figure) -> Axes:
    return figure.axes[0]


def _set_runs(axes: Axes, runs: list[Run]) -> None:
    axes.set_xticks(range(len(runs)), [label_run(run, place) for place, run in enumerate(runs)])
    axes.set_xlabel("run")
    axes.grid(visible=False, axis="x")


def draw_times(verdict: Verdict) -> Figure:
    """Draw the minutes of each run, what was dropped, and the latency."""
    figure = make_figure()
    axes = _get_axes(figure)
    runs = verdict.result.runs
    for place, run in enumerate(runs):
        dropped = verdict.dropped.get(run.name)
        counts = run in verdict.members and not dropped
        bar = axes.bar(place, run.minutes or 0, color=BLUE if counts else "#d5dae1", width=0.7)
        remark = "unusable" if run.unusable else dropped
        if remark:
            color = RED if run.unusable else "#475467"
            axes.bar_label(
                bar, labels=[remark], label_type="center", fontsize=8, color=color, rotation=90
            )
    if verdict.latency_minutes is not None:
        axes.axhline(verdict.latency_minutes, color=ORANGE, linewidth=1.4)
        title = f"mean of the rest: {verdict.latency_minutes:.3f} min"
        axes.set_title(title, loc="right", fontsize=9, color="#92400e")
    _set_runs(axes, runs)
    axes.set_ylabel("minutes")
    return figure


def _scale_point(verdict: Verdict, point: float) -> float:
    return point / get_unit(verdict)[0]


def draw_convergence(verdict: Verdict) -> Figure:
    """Draw where the runs converged against the reference points and the smallest mean."""
    figure = make_figure()
    axes = _get_axes(figure)
    reference = verdict.convergence.reference
    ours = [run.convergence_point for run in verdict.members if run.convergence_point is not None]
    rows: list[tuple[str, Any, str]] = [("runs", ours, BLUE)]
    if reference:
        rows.append(("reference", reference.points, GRAY))
        if not reference.points:
            _draw_deviation(axes, verdict, reference)
    for row, (_, points, color) in enumerate(rows):
        for point, height in _spread(points):
            axes.plot(
                _scale_point(verdict, point),
                row + height,
                "o",
                color=color,
                markersize=4,
                alpha=0.85,
            )
    _draw_means(axes, verdict)
    axes.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    axes.set_ylim(-0.6, len(rows) + 0.1)
    axes.set_xlabel(f"{get_unit(verdict)[1]} to converge")
    axes.grid(visible=False, axis="y")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.24))
    return figure


def _draw_deviation(axes: Axes, verdict: Verdict, reference: Reference) -> None:
    """Draw an interpolated reference, which has no points: its mean and one deviation."""
    ends = (reference.mean - reference.deviation, reference.mean + reference.deviation)
    places = [_scale_point(verdict, end) for end in ends]
    axes.plot(places, [1, 1], color=GRAY, linewidth=7, solid_capstyle="round", alpha=0.6)
    mean = _scale_point(verdict, reference.mean)
    axes.plot([mean], [1], "|", color="#475467", markersize=16)


def _draw_means(axes: Axes, verdict: Verdict) -> None:
    convergence, reference = verdict.convergence, verdict.convergence.reference
    if convergence.mean is not None:
        mean = _scale_point(verdict, convergence.mean)
        axes.plot([mean], [-0.32], "^", color=BLUE, markersize=7, label="mean of the runs")
    if reference:
        mean = _scale_point(verdict, reference.mean)
        axes.axvline(mean, color="#475467", linewidth=1, linestyle="dashed", label="reference mean")
    if convergence.minimum_mean is not None:
        minimum = _scale_point(verdict, convergence.minimum_mean)
        axes.axvline(minimum, color=RED, linewidth=1.2, label="smallest allowed mean")


def _spread(points: Any) -> list[tuple[float, float]]:
    """Stack equal points above each other: (point, height), heights within 0.6."""
    counts: dict[float, int] = {}
    placed = []
    ordered = sorted(points)[:POINTS_SHOWN]
    tallest = max((ordered.count(point) for point in set(ordered)), default=1)
    step = min(0.09, 0.6 / tallest)
    for point in ordered:
        placed.append((point, counts.get(point, 0) * step))
        counts[point] = counts.get(point, 0) + 1
    return placed


def draw_speeds(verdict: Verdict) -> Figure:
    """Draw training samples per second of each run, evaluation included."""
    figure = make_figure()
    axes = _get_axes(figure)
    runs = verdict.result.runs
    speeds = [compute_samples_per_second(run) or 0.0 for run in runs]
    unit = "images/s" if verdict.result.benchmark == "resnet" else "sequences/s"
    bars = axes.bar(range(len(runs)), speeds, color=GREEN, width=0.7)
    axes.bar_label(
        bars,
        labels=[f"{speed:,.0f}" if speed else "" for speed in speeds],
        fontsize=6.5,
        color="#475467",
        padding=2,
        rotation=0 if len(runs) < 7 else 90,
    )
    _set_runs(axes, runs)
    axes.set_ylabel(unit)
    axes.margins(y=0.12 if len(runs) < 7 else 0.25)
    return figure


def draw_timelines(verdict: Verdict) -> Figure:
    """Draw where the time went: initialisation before the clock, then the parts on it."""
    runs = verdict.result.runs
    figure = make_figure(max(2.2, 1.1 + 0.2 * min(len(runs), 60)))
    axes = _get_axes(figure)
    parts: dict[str, tuple[str, list[float]]] = {
        "first interval": (ORANGE, []),
        "training": (BLUE, []),
        "evaluation": (GREEN, []),
    }
    before = []
    for run in runs:
        timeline = measure_timeline(run)
        before.append(-timeline.initialisation / 60 if timeline else 0.0)
        for name, (_, lengths) in parts.items():
            value = getattr(timeline, name.replace(" ", "_")) if timeline else 0.0
            lengths.append((value or 0.0) / 60)
    places = range(len(runs))
    axes.barh(places, before, color=GRAY, height=0.65, label="initialisation")
    left = [0.0] * len(runs)
    for name, (color, lengths) in parts.items():
        axes.barh(places, lengths, left=left, color=color, height=0.65, label=name)
        left = [one + other for one, other in zip(left, lengths, strict=True)]
    axes.axvline(0, color="#334", linewidth=1)
    axes.set_yticks(places, [label_run(run, place) for place, run in enumerate(runs)])
    axes.invert_yaxis()
    axes.set_ylabel("run")
    axes.set_xlabel("minutes from run_start")
    axes.grid(visible=False, axis="y")
    axes.legend(
        loc="upper center",
        ncols=4,
        bbox_to_anchor=(0.5, 1.0),
        handlelength=1,
        columnspacing=1,
        borderaxespad=-1.6,
    )
    return figure


def has_finite_times(verdict: Verdict) -> bool:
    """Say whether there is any run to draw times of."""
    return any(run.minutes and math.isfinite(run.minutes) for run in verdict.result.runs)
