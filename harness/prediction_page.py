"""The page of a prediction: figures, time breakdown, spread, scaling beside published results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from html import escape

import numpy as np

from harness.page import DEMONSTRATION, write_chart, write_document, write_figure, write_table
from harness.prediction_advice import list_changes
from harness.prediction_campaign import compute_expected
from harness.prediction_forecast import Forecast
from harness.prediction_inputs import LETTERS, UNITS
from harness.prediction_pictures import (
    BLUE,
    COLOURS,
    GRAY,
    ORANGE,
    Series,
    draw_bars,
    draw_histogram,
    draw_points,
)
from harness.prediction_published import load_published_results
from harness.prediction_report import NAMES, combine_scores
from harness.prediction_time import TERM_NAMES, Terms
from harness.systems import System

NODES = (1, 2, 4, 8, 16)


def write_page(system: System, forecasts: dict[str, Forecast]) -> str:
    """Write the page of a prediction."""
    return write_document(f"Prediction: {system.name}", _write_body(system, forecasts))


def _write_body(system: System, forecasts: dict[str, Forecast]) -> Iterator[str]:
    if system.campaign.profile == "demo":
        yield DEMONSTRATION
    yield f"<h1>Prediction for {escape(system.name)}</h1>"
    yield (
        f"<p>{system.nodes.count} nodes of {system.nodes.ranks_per_node} ranks. Nothing here was "
        "measured on several nodes: it follows from the training step of one rank.</p>"
    )
    yield '<div class="figures">'
    score = combine_scores(forecasts)
    if score is not None:
        yield _write_band("score = 7.19/R + 9.05/B", score[0], score[1:], "")
    for found in forecasts.values():
        label = f"{LETTERS[found.benchmark]}, {NAMES[found.benchmark]}"
        yield _write_band(label, found.minutes, found.band, " min")
    yield "</div>"
    for found in forecasts.values():
        yield from _write_benchmark(system, found)


def _write_band(label: str, value: float, band: tuple[float, ...], unit: str) -> str:
    return write_figure(f"{value:.3f}{unit}", label, f"{band[0]:.3f} to {band[1]:.3f}")


def _write_benchmark(system: System, found: Forecast) -> Iterator[str]:
    name = NAMES[found.benchmark]
    yield f'<section id="{found.benchmark}"><h2>{name}</h2><div class="charts">'
    total = found.terms.total
    rows = [
        (TERM_NAMES[field.name], seconds, f"{seconds:.1f} s, {100 * seconds / total:.1f} %")
        for field in fields(Terms)
        if (seconds := getattr(found.terms, field.name)) > 0
    ]
    yield write_chart(draw_bars(rows, "time by term"), "Where the time of one run goes")
    minutes = found.campaigns.minutes
    valid = minutes[~np.isnan(minutes)]
    label = f"{LETTERS[found.benchmark]}, minutes"
    yield write_chart(
        draw_histogram(valid, found.band, label, "simulated campaigns"),
        f"{len(valid):,} simulated campaigns; in colour, the band",
    )
    if not system.nodes.one_machine:
        yield write_chart(
            draw_scaling(found), "This rate and global batch on more or fewer nodes, and what was "
            "published (point at a mark for its name)",
        )  # fmt: skip
    yield "</div>"
    yield from _write_changes(found)
    yield from (f"<p>Note: {escape(note)}.</p>" for note in found.notes)
    yield "</section>"


def _write_changes(found: Forecast) -> Iterator[str]:
    changes = list_changes(found)
    if not changes:
        return
    rows = [
        (change.what, f"{change.gain_minutes:.3f}", f"{change.gain_score:.3f}")
        for change in changes
    ]
    head = ("change", "minutes saved", "score gained")
    yield from write_table(head, rows, numbers=frozenset({1, 2}))


def draw_scaling(found: Forecast) -> str:
    """Minutes over accelerators: this prediction on 1 to 16 nodes, and every published result."""
    job = found.settings.job
    curve = []
    for nodes in NODES:
        other = replace(job, nodes=nodes)
        if other.batch >= 1:
            terms = compute_expected(other, found.assumed, found.campaigns.point)
            curve.append((float(other.ranks), terms.total / 60))
    rows = [row for row in load_published_results() if row.benchmark == job.benchmark]
    colours = (*COLOURS[2:], GRAY)
    series = []
    for number, name in enumerate(sorted({row.accelerator for row in rows})):
        mine = [row for row in rows if row.accelerator == name]
        points = tuple((float(row.accelerators), row.minutes) for row in mine)
        names = tuple(f"{r.round} {r.submitter} {r.system}: {r.minutes:.2f} min" for r in mine)
        series.append(Series(name, points, colours[number % len(colours)], names=names))
    series.append(Series("this rate", tuple(curve), BLUE, joined=True))
    here = ((float(job.ranks), found.minutes),)
    series.append(Series("this system", here, ORANGE))
    title = f"{UNITS[job.benchmark]}: minutes over accelerators"
    return draw_points(series, "accelerators", "minutes", log=True, title=title)
