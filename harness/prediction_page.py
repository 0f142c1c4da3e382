"""The page of a prediction: figures, time breakdown, spread, scaling beside published results."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from harness.page import (
    DEMONSTRATION,
    write_chart,
    write_document,
    write_figure,
    write_table,
    write_words,
)
from harness.prediction_advice import list_changes
from harness.prediction_campaign import BAND, compute_expected
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
from harness.prediction_report import (
    NAMES,
    combine_scores,
    explain_total,
    list_facts,
    list_terms,
    name_basis,
)
from harness.systems import System

NODES = (1, 2, 4, 8, 16)


def write_page(system: System, forecasts: dict[str, Forecast]) -> str:
    """Write the page of a prediction."""
    return write_document(f"Prediction: {system.name}", _write_body(system, forecasts))


def _write_body(system: System, forecasts: dict[str, Forecast]) -> Iterator[str]:
    if system.campaign.profile == "demo":
        yield DEMONSTRATION
    yield f"<h1>Prediction for {write_words(system.name)}</h1>"
    yield (
        f"<p>{system.nodes.count} nodes of {system.nodes.ranks_per_node} ranks. No run was made: "
        f"this follows from {name_basis(forecasts)}. Below each "
        f"figure stands its band, {BAND[0]:g} to {BAND[1]:g} % of simulated campaigns.</p>"
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
    yield f'<section id="{found.benchmark}"><h2>{name}</h2>'
    yield from (f"<p>{write_words(fact[0].upper() + fact[1:])}.</p>" for fact in list_facts(found))
    bars, spread = _picture_terms(found), _picture_spread(found)
    yield '<div class="charts">'
    if system.nodes.one_machine:
        yield bars + spread
    else:
        yield f"<div>{bars}{spread}</div>"
        yield write_chart(
            draw_scaling(found), "This rate and global batch on more or fewer nodes, and what was "
            "published (point at a mark for its name)",
        )  # fmt: skip
    yield "</div>"
    yield from _write_changes(found)
    yield from (f'<p class="soft">Note: {write_words(note)}.</p>' for note in found.notes)
    yield "</section>"


def _picture_terms(found: Forecast) -> str:
    rows = [
        (name, seconds, f"{seconds:.1f} s, {100 * share:.1f} %")
        for name, seconds, share in list_terms(found)
    ]
    caption = f"Where the time of one run goes: {explain_total(found)}"
    return write_chart(draw_bars(rows, "time by term"), caption)


def _picture_spread(found: Forecast) -> str:
    minutes = found.campaigns.minutes
    valid = minutes[~np.isnan(minutes)]
    label = f"{LETTERS[found.benchmark]}, minutes"
    picture = draw_histogram(valid, found.band, label, "simulated campaigns")
    return write_chart(picture, f"{len(valid):,} simulated campaigns; in blue, the band")


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
    # One accelerator has one colour in both benchmarks' pictures.
    known = sorted({row.accelerator for row in load_published_results()})
    colours = dict(zip(known, itertools.cycle((GRAY, *COLOURS[2:])), strict=False))
    series = []
    for name in known:
        mine = [row for row in rows if row.accelerator == name]
        if not mine:
            continue
        points = tuple((float(row.accelerators), row.minutes) for row in mine)
        names = tuple(f"{r.round} {r.submitter} {r.system}: {r.minutes:.2f} min" for r in mine)
        series.append(Series(name, points, colours[name], names=names))
    series.append(Series("this rate", tuple(curve), BLUE, joined=True))
    here = ((float(job.ranks), found.minutes),)
    series.append(Series("this system", here, ORANGE))
    title = f"{UNITS[job.benchmark]}: minutes over accelerators"
    return draw_points(series, "accelerators", "minutes", log=True, title=title)
