"""The pictures along a run: accuracies over the published band, and speed between evaluations."""

from __future__ import annotations

import itertools

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scoring.audit.speed import compute_samples
from scoring.published import PublishedCurve, find_curve
from scoring.report.picture import make_figure
from scoring.report.units import PALETTE, POINTS_SHOWN, RED, get_unit, label_run
from scoring.rules import TARGETS
from scoring.run import Run
from scoring.verdict import Verdict

BAND = "#cbd5e1"
LINES_LIMIT = 12


def find_published_curve(verdict: Verdict) -> PublishedCurve | None:
    """Find the published curve that a benchmark's runs may be held against, if there is one."""
    if verdict.result.profile.demonstration:
        return None
    batches = {run.global_batch_size for run in verdict.members if run.global_batch_size}
    return find_curve(verdict.result.benchmark, batches.pop() if len(batches) == 1 else None)


def caption_accuracies(verdict: Verdict) -> str:
    """Say what the picture of the accuracies holds, the band included."""
    name = verdict.result.benchmark
    text = f"Every evaluation of every run; dashed runs are unusable. Target {TARGETS[name]:g}."
    if verdict.result.profile.demonstration:
        return text
    curve = find_published_curve(verdict)
    if curve is None:
        return f"{text} No band: nothing published at this batch size was at hand."
    return (
        f"{text} Gray: {curve.runs} published runs of batch {curve.global_batch_size:,}, "
        f"{curve.band}."
    )


def draw_accuracies(verdict: Verdict) -> Figure:
    """Draw the accuracy curves of all runs over the published band, and the target."""
    figure = make_figure()
    axes = figure.axes[0]
    target = TARGETS[verdict.result.benchmark]
    unit = get_unit(verdict)
    _draw_band(axes, find_published_curve(verdict), unit[0])
    for place, run in enumerate(verdict.result.runs):
        points = run.evaluations_by_point[:POINTS_SHOWN]
        axes.plot(
            [evaluation.point / unit[0] for evaluation in points],
            [evaluation.accuracy for evaluation in points],
            color=PALETTE[place % len(PALETTE)],
            linestyle="dashed" if run.unusable else "solid",
            linewidth=1.1,
            marker="o",
            markersize=2.2,
            label=label_run(run, place),
        )
    axes.axhline(target, color=RED, linewidth=1.2, linestyle="dotted")
    transform = axes.get_yaxis_transform()
    text = f"target {target:g}"
    axes.text(0.01, target, text, transform=transform, color=RED, fontsize=8, va="bottom")
    axes.set_xlabel(unit[1])
    axes.set_ylabel("accuracy")
    accuracies = [e.accuracy for run in verdict.result.runs for e in run.evaluations]
    lowest, highest = min(accuracies, default=0.0), max(accuracies, default=0.0)
    axes.set_ylim(max(0.0, lowest - 0.03), min(1.0, max(target, highest)) + 0.03)
    _add_legend(axes, len(verdict.result.runs))
    return figure


def _draw_band(axes: Axes, curve: PublishedCurve | None, scale: float) -> None:
    if curve is None:
        return
    points = [point / scale for point in curve.points]
    label = f"published, batch {curve.global_batch_size:,}"
    axes.fill_between(points, curve.low, curve.high, color=BAND, linewidth=0, label=label)
    axes.plot(points, curve.mean, color="#64748b", linewidth=1)


def _add_legend(axes: Axes, runs: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if runs > LINES_LIMIT:
        # So many lines have no legend that helps; the band keeps its name.
        kept = [place for place, label in enumerate(labels) if label.startswith("published")]
        handles, labels = [handles[p] for p in kept], [labels[p] for p in kept]
    if handles:
        axes.legend(handles, labels, title="run", ncols=2, loc="lower right", title_fontsize=8)


def list_interval_speeds(run: Run) -> list[tuple[float, float, float]]:
    """List the intervals between evaluations: first and last point, training samples per second.

    The first one begins at run_start; an interval that takes no time or no samples is left out.
    """
    if run.start is None:
        return []
    ends = [(0.0, run.start.time_ms)]
    ends += [(e.point, e.time_ms) for e in run.evaluations_by_point[:POINTS_SHOWN]]
    speeds = []
    for (before, begin_ms), (after, end_ms) in itertools.pairwise(ends):
        samples = compute_samples(run, after - before)
        if samples and samples > 0 and end_ms > begin_ms:
            speeds.append((before, after, samples / (end_ms - begin_ms) * 1000))
    return speeds


def draw_intervals(verdict: Verdict) -> Figure:
    """Draw training samples per second of each interval between evaluations, run by run."""
    figure = make_figure()
    axes = figure.axes[0]
    scale, unit = get_unit(verdict)
    for place, run in enumerate(verdict.result.runs):
        speeds = list_interval_speeds(run)
        axes.plot(
            [after / scale for _, after, _ in speeds],
            [speed for _, _, speed in speeds],
            color=PALETTE[place % len(PALETTE)],
            linestyle="dashed" if run.unusable else "solid",
            linewidth=1,
            marker="o",
            markersize=2.2,
            label=label_run(run, place),
        )
    axes.set_ylim(bottom=0)
    axes.set_xlabel(unit)
    axes.set_ylabel("images/s" if verdict.result.benchmark == "resnet" else "sequences/s")
    _add_legend(axes, len(verdict.result.runs))
    return figure
