"""What a search has found, as a table, as JSON and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness.page import (
    DEMONSTRATION,
    write_chart,
    write_document,
    write_figure,
    write_table,
    write_words,
)
from harness.prediction_pictures import COLOURS, Series, draw_bars, draw_points
from harness.tuning_knobs import LEFT_ALONE, Value, write_value
from harness.tuning_record import Record
from harness.tuning_search import Decision, Outcome

NAMES = {"resnet": "ResNet-50", "bert": "BERT-large"}
UNITS = {"resnet": "images/s", "bert": "sequences/s"}
HEAD = ("benchmark", "knob", "value", "trials", "rate of a rank", "time", "p", "verdict")
NUMBERS = frozenset({3, 4, 5, 6})


@dataclass(frozen=True)
class Search:
    """A finished search. ranks: probed at once on this machine; all_ranks: the system's, which
    measure what shows across ranks; most_trials: what it would have made with time enough."""

    system: str
    demonstration: bool
    ranks: int
    all_ranks: int
    device: str
    level: float
    tests: int
    most_trials: int
    record: Record
    decisions: list[Decision]


def list_rows(search: Search) -> Iterator[tuple[str, ...]]:
    """The table of all that was tried, a row a value."""
    for decision in search.decisions:
        knob = decision.knob
        if not knob.candidates:
            values = knob.describe(knob.present)
            yield (knob.benchmark, knob.name, values, "", "", "", "", "no other value to try")
            continue
        for one in (decision.present, *decision.candidates):
            rate = f"{1 / one.seconds:,.1f} {UNITS[knob.benchmark]}"
            yield (
                knob.benchmark,
                knob.name,
                knob.describe(one.values),
                str(len(one.rates)),
                rate if one.rates else "",
                "" if one.change is None else f"{one.change:+.1%}",
                "" if one.p is None else f"{one.p:.2g}",
                _write_verdict(decision, one),
            )


def _write_verdict(decision: Decision, one: Outcome) -> str:
    said = f": {one.message}" if one.message else ""
    if one is not decision.present:
        return f"{one.verdict}{said}"
    if one.verdict == "failed":
        return f"present, failed{said}"
    if not one.rates:
        return "present, not tried"
    return "present, replaced" if decision.changed else "present, kept"


def write_text(search: Search) -> Iterator[str]:
    """The table for people."""
    if search.demonstration:
        yield "DEMONSTRATION: small models, made data, a CPU. The figures mean nothing."
    rows = [HEAD, *list_rows(search)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        cells = (
            text.rjust(width) if column in NUMBERS else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()
    yield ""
    yield from (f"not searched: {key} ({benchmark}): {why}" for benchmark, key, why in LEFT_ALONE)
    yield ""
    yield _describe_tests(search)


def _describe_tests(search: Search) -> str:
    made = len(search.record.trials)
    across = {one.knob.kind == "exchange" for one in search.decisions if one.knob.candidates}
    words = {
        False: f"{search.ranks} rank(s) of this machine",
        True: f"all {search.all_ranks} ranks",
    }
    ranks = " or ".join(words[kind] for kind in sorted(across or {False}))
    return (
        f"{made} trials of at most {search.most_trials}, each of {ranks} at once "
        f"on {search.device or 'this machine'}; rates are the slowest rank's. A "
        f"change is kept where chance would show it in fewer than {search.level:g} of searches: "
        f"{search.level:g} / {search.tests} for each of {search.tests} tests"
    )


def describe(search: Search) -> dict[str, Any]:
    """The JSON document."""
    return {
        "schema": 1,
        "system": search.system,
        "demonstration": search.demonstration,
        "ranks_at_once": search.ranks,
        "all_ranks": search.all_ranks,
        "device": search.device,
        "level": search.level,
        "tests": search.tests,
        "trials": len(search.record.trials),
        "knobs": [
            {
                "benchmark": decision.knob.benchmark,
                "knob": decision.knob.name,
                "measured_by": decision.knob.kind,
                "why_convergence_stays": decision.knob.why,
                "present": decision.knob.describe(decision.present.values),
                "chosen": decision.knob.describe(decision.chosen),
                "changed": bool(decision.changed),
                "values": [
                    {
                        "settings": decision.knob.describe(one.values),
                        "samples_per_second": one.rates,
                        "change": one.change,
                        "p": one.p,
                        "verdict": _write_verdict(decision, one),
                    }
                    for one in (decision.present, *decision.candidates)
                ],
            }
            for decision in search.decisions
        ],
        "left_alone": [
            {"benchmark": benchmark, "key": key, "why": why} for benchmark, key, why in LEFT_ALONE
        ],
    }


def write_page(search: Search) -> str:
    """The page: what was gained, rate by value, rate over trials, everything tried."""
    return write_document(f"Tuning: {search.system}", _write_body(search))


def _write_body(search: Search) -> Iterator[str]:
    if search.demonstration:
        yield DEMONSTRATION
    yield f"<h1>Tuning of {write_words(search.system)}</h1>"
    yield f"<p>{write_words(_describe_tests(search))}.</p>"
    yield '<div class="figures">'
    for decision in search.decisions:
        kept = next((one for one in decision.candidates if one.verdict == "kept"), None)
        if decision.knob.candidates:
            label = f"{NAMES[decision.knob.benchmark]}, {decision.knob.name}"
            timed = kept is not None and kept.change is not None
            below = "time a sample" if timed else decision.knob.describe(decision.chosen)
            yield write_figure(_name_outcome(decision, kept), label, below)
    yield "</div>"
    for decision in search.decisions:
        if any(one.rates for one in (decision.present, *decision.candidates)):
            yield from _write_knob(search, decision)
    yield "<section><h2>All that was tried</h2>"
    yield from write_table(HEAD, list_rows(search), NUMBERS)
    yield "<h3>Not searched</h3>"
    yield from write_table(("benchmark", "key", "why"), LEFT_ALONE)
    yield "</section>"


def _name_outcome(decision: Decision, kept: Outcome | None) -> str:
    """What a knob's search came to, in a word; kept: the value that takes the present one's place,
    whose gain is not known where the present one did not run."""
    if kept is not None:
        return "replaced" if kept.change is None else f"{kept.change:+.1%}"
    verdicts = {one.verdict for one in decision.candidates}
    if verdicts & {"slower", "no gain seen"}:
        return "as it is"
    return next((word for word in ("unfinished", "failed") if word in verdicts), "not tried")


def _write_knob(search: Search, decision: Decision) -> Iterator[str]:
    knob = decision.knob
    unit = UNITS[knob.benchmark]
    ran = [one for one in (decision.present, *decision.candidates) if one.rates]
    yield f"<section><h2>{NAMES[knob.benchmark]}: {write_words(knob.name)}</h2>"
    yield f'<p class="soft">{write_words(knob.why)}.</p><div class="charts">'
    bars = [
        (_shorten(one.values), 1 / one.seconds, f"{1 / one.seconds:,.1f} {unit}") for one in ran
    ]
    keys = " x ".join(key for _, key in knob.keys)
    yield write_chart(draw_bars(bars, f"rate by {knob.name}"), f"Rate of a rank by {keys}")
    series = _list_series(search, decision, ran)
    picture = draw_points(series, "trial", unit, log=False, title=f"rates of {knob.name}")
    caption = "Every trial in the order of the search"
    if knob.kind != "input":
        caption += ": the median step, and above and below it the tenth percentiles"
    yield write_chart(picture, caption)
    yield "</div></section>"


def _shorten(values: Sequence[Value]) -> str:
    return " x ".join(write_value(value) for value in values)


def _list_series(search: Search, decision: Decision, ran: list[Outcome]) -> list[Series]:
    """Rates over the number of the trial, and for steps those of the quick and slow tenth."""
    series = []
    for place, one in enumerate(ran):
        settings = decision.knob.describe(one.values)
        points, names = [], []
        for number, trial in enumerate(search.record.trials, 1):
            mine = (trial.benchmark, trial.knob, trial.settings)
            found = search.record.weigh(trial)
            if mine != (decision.knob.benchmark, decision.knob.name, settings):
                continue
            if found.status != "measured":
                continue
            step = found.step_seconds
            for key, text in (("median", "median"), ("p10", "a tenth of its steps is faster"),
                              ("p90", "a tenth of its steps is slower")):  # fmt: skip
                if step or key == "median":
                    factor = step["median"] / step[key] if step else 1.0
                    points.append((float(number), found.samples_per_second * factor))
                    names.append(f"{settings}, round {trial.round}, {text}")
        if points:
            colour = COLOURS[place % len(COLOURS)]
            series.append(Series(_shorten(one.values), tuple(points), colour, names=tuple(names)))
    return series
