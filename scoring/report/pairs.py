"""The pictures of two results side by side: the first blue, the second orange."""

from __future__ import annotations

from matplotlib.figure import Figure

from scoring.comparison import BenchmarkComparison
from scoring.report.picture import make_figure
from scoring.report.units import BLUE, ORANGE, POINTS_SHOWN, RED
from scoring.rules import TARGETS

_COLORS = (BLUE, ORANGE)


def draw_pair_values(values: list[list[float]], unit: str) -> Figure:
    """Draw one figure of every run of both results, and their means."""
    figure = make_figure(2.2)
    axes = figure.axes[0]
    for row, (own, color) in enumerate(zip(values, _COLORS, strict=True)):
        # Runs lie in order along the row's height, so that equal ones do not hide each other.
        heights = [row + 0.5 * (place / max(1, len(own) - 1) - 0.5) for place in range(len(own))]
        axes.plot(sorted(own), heights, "o", color=color, markersize=4, alpha=0.85)
        if own:
            mean = sum(own) / len(own)
            axes.plot([mean, mean], [row - 0.4, row + 0.4], color=color, linewidth=1.6)
    axes.set_yticks([0, 1], ["first", "second"])
    axes.set_ylim(1.6, -0.6)
    axes.set_xlabel(unit)
    axes.grid(visible=False, axis="y")
    return figure


def draw_pair_accuracies(item: BenchmarkComparison) -> Figure:
    """Draw the accuracy curves of both results and the target."""
    figure = make_figure()
    axes = figure.axes[0]
    benchmark = ""
    for side, color in zip(item.sides, _COLORS, strict=True):
        for run in side.verdict.members if side else []:
            benchmark = run.benchmark
            points = run.evaluations_by_point[:POINTS_SHOWN]
            axes.plot(
                [evaluation.point for evaluation in points],
                [evaluation.accuracy for evaluation in points],
                color=color,
                linestyle="dashed" if run.unusable else "solid",
                linewidth=0.9,
                alpha=0.8,
            )
    axes.axhline(TARGETS[benchmark], color=RED, linewidth=1.2, linestyle="dotted")
    axes.set_xlabel("epochs" if benchmark == "resnet" else "samples")
    axes.set_ylabel("accuracy")
    return figure
