"""The page of a prediction: figures, time breakdown, spread, scaling beside published results."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import fields, replace
from html import escape

import numpy as np

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

STYLE = """
body { margin: 0 auto; padding: 1.2rem; max-width: 72rem; color: #1d2939; background: #fff;
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h2 { margin: 2.2rem 0 .6rem; padding-bottom: .25rem; border-bottom: 2px solid #d5dae1; }
.demonstration { padding: .8rem 1rem; border: 4px solid #b42318; color: #b42318; font-size: 1.5rem;
  font-weight: 800; text-align: center; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
  gap: .8rem; }
.figures div { border: 1px solid #d5dae1; border-radius: .4rem; padding: .6rem .8rem; }
.figures b { display: block; font-size: 1.55rem; }
.figures span, figcaption { font-size: .88rem; color: #475467; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr));
  gap: 1.2rem; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid #d5dae1; }
"""
NODES = (1, 2, 4, 8, 16)


def write_page(system: System, forecasts: dict[str, Forecast]) -> str:
    """Write the page: self-contained, with a content policy that forbids all but its own style."""
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    body = "\n".join(_write_body(system, forecasts))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Prediction: {escape(system.name)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _write_body(system: System, forecasts: dict[str, Forecast]) -> Iterator[str]:
    if system.campaign.profile == "demo":
        yield '<p class="demonstration">DEMONSTRATION: small models, made data</p>'
    yield f"<h1>Prediction for {escape(system.name)}</h1>"
    yield (
        f"<p>{system.nodes.count} nodes of {system.nodes.ranks_per_node} ranks. Nothing here was "
        "measured on several nodes: it follows from the training step of one rank.</p>"
    )
    yield '<div class="figures">'
    score = combine_scores(forecasts)
    if score is not None:
        yield _write_figure("score = 7.19/R + 9.05/B", score[0], score[1:], "")
    for found in forecasts.values():
        yield _write_figure(
            f"{LETTERS[found.benchmark]}, {NAMES[found.benchmark]}",
            found.minutes,
            found.band,
            " min",
        )
    yield "</div>"
    for found in forecasts.values():
        yield from _write_benchmark(system, found)


def _write_figure(label: str, value: float, band: tuple[float, ...], unit: str) -> str:
    return (
        f"<div><b>{value:.3f}{unit}</b><span>{escape(label)}<br>{band[0]:.3f} to {band[1]:.3f}"
        "</span></div>"
    )


def _write_benchmark(system: System, found: Forecast) -> Iterator[str]:
    name = NAMES[found.benchmark]
    yield f'<section id="{found.benchmark}"><h2>{name}</h2><div class="charts">'
    total = found.terms.total
    rows = [
        (TERM_NAMES[field.name], seconds, f"{seconds:.1f} s, {100 * seconds / total:.1f} %")
        for field in fields(Terms)
        if (seconds := getattr(found.terms, field.name)) > 0
    ]
    yield _write_chart(draw_bars(rows, "time by term"), "Where the time of one run goes")
    minutes = found.campaigns.minutes
    valid = minutes[~np.isnan(minutes)]
    label = f"{LETTERS[found.benchmark]}, minutes"
    yield _write_chart(
        draw_histogram(valid, found.band, label, "simulated campaigns"),
        f"{len(valid):,} simulated campaigns; in colour, the band",
    )
    if not system.nodes.one_machine:
        yield _write_chart(
            draw_scaling(found), "This rate and global batch on more or fewer nodes, and what was "
            "published (point at a mark for its name)",
        )  # fmt: skip
    yield "</div>"
    yield from _write_changes(found)
    yield from (f"<p>Note: {escape(note)}.</p>" for note in found.notes)
    yield "</section>"


def _write_chart(svg: str, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def _write_changes(found: Forecast) -> Iterator[str]:
    changes = list_changes(found)
    if not changes:
        return
    yield "<table><thead><tr><th>change</th><th>minutes saved</th><th>score gained</th></tr>"
    yield "</thead>"
    for change in changes:
        yield (
            f"<tr><td>{escape(change.what)}</td><td>{change.gain_minutes:.3f}</td>"
            f"<td>{change.gain_score:.3f}</td></tr>"
        )
    yield "</table>"


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
