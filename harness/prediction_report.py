"""What a prediction says: one JSON document, or text for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from harness.prediction_advice import SCORE_WEIGHT, list_changes
from harness.prediction_campaign import BAND, take_band
from harness.prediction_forecast import Forecast
from harness.prediction_inputs import LETTERS, POINTS, UNITS
from harness.prediction_time import TERM_NAMES, Terms
from harness.systems import System

NAMES = {"resnet": "ResNet-50", "bert": "BERT-large"}
CHANGES_SHOWN = 5
LEAST_SECONDS = 0.005


def combine_scores(forecasts: dict[str, Forecast]) -> tuple[float, float, float] | None:
    """Median and band of 7.19/R + 9.05/B over the simulated campaigns; None without both."""
    if len(forecasts) < 2:
        return None
    scores = sum(
        SCORE_WEIGHT[name] / forecast.campaigns.minutes for name, forecast in forecasts.items()
    )
    return take_band(np.asarray(scores))


def describe(system: System, forecasts: dict[str, Forecast]) -> dict[str, Any]:
    """The JSON document: R, B and score with their bands, and each benchmark's reasons."""
    score = combine_scores(forecasts)
    letters: dict[str, Any] = {}
    for name in ("resnet", "bert"):
        found = forecasts.get(name)
        letters[LETTERS[name]] = found.minutes if found else None
        letters[f"{LETTERS[name]}_band"] = list(found.band) if found else None
    return {
        "schema": 1,
        "system": system.name,
        "profile": system.campaign.profile,
        "demonstration": system.campaign.profile == "demo",
        **letters,
        "score": score[0] if score else None,
        "score_band": list(score[1:]) if score else None,
        "band_percentiles": list(BAND),
        "benchmarks": {name: _describe_one(found) for name, found in forecasts.items()},
    }


def _describe_one(found: Forecast) -> dict[str, Any]:
    job, campaigns, reference = found.settings.job, found.campaigns, found.reference
    return {
        "minutes": found.minutes,
        "minutes_band": list(found.band),
        "minutes_rcp_normalized": found.normalized_minutes,
        "config": found.settings.file,
        "global_batch_size": job.global_batch_size,
        "samples_per_rank": found.settings.local_samples,
        "ranks": job.ranks,
        "samples_per_second_per_rank": found.assumed.measured_batch
        / found.assumed.measured_seconds,
        "converges_at": campaigns.point,
        "converges_in": POINTS[job.benchmark],
        "convergence_source": found.convergence.source,
        "run_failure_probability": campaigns.run_failure,
        "campaign_failure_probability": campaigns.campaign_failure,
        "rcp": {
            "mean": reference.mean if reference else None,
            "minimum_mean": reference.compute_minimum_mean(job.benchmark) if reference else None,
            "pass_probability": campaigns.rcp_pass,
            "scaling_factor": found.normalized_minutes / found.minutes,
        },
        "seconds": {field.name: getattr(found.terms, field.name) for field in fields(Terms)},
        "changes": [vars(change) for change in list_changes(found)],
        "notes": found.notes,
    }


def name_basis(forecasts: dict[str, Forecast]) -> str:
    """What was measured: one rank's step, and of which benchmarks the exchange of all ranks."""
    exchanged = [NAMES[name] for name, found in forecasts.items() if found.assumed.exposed]
    more = f", and of {' and '.join(exchanged)} the exchange of all ranks" if exchanged else ""
    return f"the training step of one rank{more}"


def write_text(system: System, forecasts: dict[str, Forecast]) -> Iterator[str]:
    """The same for people, line by line."""
    yield (
        f"{system.name}: {system.nodes.count} nodes x {system.nodes.ranks_per_node} ranks, "
        f"predicted from {name_basis(forecasts)}"
    )
    if system.campaign.profile == "demo":
        yield "A DEMONSTRATION: minutes of small models on made data, no prediction of a result"
    for found in forecasts.values():
        yield ""
        yield from _write_one(found)
    yield ""
    for name, found in forecasts.items():
        low, high = found.band
        yield f"{LETTERS[name]} = {found.minutes:.3f} min ({low:.3f} to {high:.3f})"
    score = combine_scores(forecasts)
    if score is None:
        yield "score: needs both benchmarks' rates"
    else:
        yield f"score = 7.19/R + 9.05/B = {score[0]:.3f} ({score[1]:.3f} to {score[2]:.3f})"
    yield f"(bands: {BAND[0]:g} to {BAND[1]:g} % of simulated campaigns)"


def write_point(point: float) -> str:
    """Epochs with two decimals, samples as whole ones."""
    return f"{point:,.0f}" if point >= 1000 else f"{point:.2f}"


def list_facts(found: Forecast) -> Iterator[str]:
    """What a benchmark's prediction rests on, and when it converges: a sentence each."""
    job, campaigns = found.settings.job, found.campaigns
    unit, points = UNITS[job.benchmark], POINTS[job.benchmark]
    rate = found.assumed.measured_batch / found.assumed.measured_seconds
    batch = found.assumed.measured_batch
    yield (
        f"training step of one rank: {rate:,.1f} {unit}/s at {batch:g} {unit}; a rank has "
        f"{found.settings.local_samples} in a step, global batch {job.global_batch_size:,} "
        f"({found.settings.file})"
    )
    yield (
        f"converges at {write_point(campaigns.point)} {points} on average; source: "
        f"{found.convergence.source}"
    )
    yield (
        f"{100 * campaigns.run_failure:.1f} % of runs and "
        f"{100 * campaigns.campaign_failure:.2f} % of campaigns fail"
    )
    if found.reference is not None and campaigns.rcp_pass is not None:
        yield (
            f"RCP mean {write_point(found.reference.mean)} {points}: the convergence test passes "
            f"in {100 * campaigns.rcp_pass:.0f} % of campaigns; scaled by it "
            f"{LETTERS[job.benchmark]} = {found.normalized_minutes:.3f} min"
        )


def list_terms(found: Forecast) -> list[tuple[str, float, float]]:
    """(name, seconds, share) of every term of a run that takes time worth showing."""
    return [
        (TERM_NAMES[field.name], seconds, seconds / found.terms.total)
        for field in fields(Terms)
        if (seconds := getattr(found.terms, field.name)) >= LEAST_SECONDS
    ]


def explain_total(found: Forecast) -> str:
    """Why the sum of a run's terms is not R or B."""
    letter = LETTERS[found.benchmark]
    return (
        f"{found.terms.total / 60:.3f} min with each part at its most likely; {letter} is the "
        "median of campaigns with each drawn by chance"
    )


def _write_one(found: Forecast) -> Iterator[str]:
    yield NAMES[found.benchmark]
    yield from (f"  {fact}" for fact in list_facts(found))
    for name, seconds, share in list_terms(found):
        yield f"  {seconds:9.2f} s  {100 * share:5.1f} %  {name}"
    yield f"  {found.terms.total:9.2f} s  in all: {explain_total(found)}"
    changes = list_changes(found)[:CHANGES_SHOWN]
    if changes:
        yield "  next best changes:"
    for change in changes:
        yield (
            f"    -{change.gain_minutes:.3f} min (+{change.gain_score:.3f} in the score): "
            f"{change.what}"
        )
    for note in found.notes:
        yield f"  note: {note}"
