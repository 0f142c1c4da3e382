"""The page of a comparison, or of one side alone: steps of probes, time and rates of runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from harness.comparison_runs import MEASURES, RunTimes, list_logs, read_run
from harness.comparison_sides import BENCHMARKS, UNITS, Section, name_rate, read_probes
from harness.comparison_statistics import Difference
from harness.page import (
    DEMONSTRATION,
    write_chart,
    write_document,
    write_figure,
    write_table,
    write_words,
)
from harness.prediction_pictures import BLUE, ORANGE, Series, draw_bars, draw_points
from harness.prediction_step import Probe

NAMES = {"resnet": "ResNet-50", "bert": "BERT-large"}
LETTERS = ("A", "B")
COLOURS = (BLUE, ORANGE)
# Measures that stand large at the top; all stand in the tables.
HEADLINES = {MEASURES[key][0] for key in ("samples_per_second", "evaluation_seconds", "minutes")}
HEADLINES |= {name_rate(unit) for unit in UNITS.values()}
CPU = '<p class="demonstration">Probes of a CPU: they say nothing of a GPU.</p>'


def write_page(sides: Sequence[Path], sections: Sequence[Section], level: float) -> str:
    """Write the page of one or two sides; sections: what their comparison found, if any.

    Raises InputError and OSError where a side cannot be read.
    """
    names = " and ".join(path.name for path in sides)
    return write_document(f"Comparison: {names}", _write_body(sides, sections, level))


def _write_body(sides: Sequence[Path], sections: Sequence[Section], level: float) -> Iterator[str]:
    probes = [read_probes(path) for path in sides]
    runs = {
        benchmark: [
            [] if found else [read_run(log, benchmark) for log in list_logs(path, benchmark)]
            for path, found in zip(sides, probes, strict=True)
        ]
        for benchmark in BENCHMARKS
    }
    if any(run.demonstration for found in runs.values() for side in found for run in side):
        yield DEMONSTRATION
    if any(probe.device.startswith("cpu") for side in probes for probe in side):
        yield CPU
    yield f"<h1>{'Comparison' if len(sides) > 1 else 'Probes'}</h1>"
    for letter, path in zip(LETTERS, sides, strict=False):
        yield f"<p>{letter} = {write_words(str(path))}</p>"
    yield '<div class="figures">'
    for section in sections:
        for found in section.differences:
            if found.name not in HEADLINES:
                continue
            verdict = "real" if found.is_real(level) else "not shown to be real"
            label = f"{NAMES[section.benchmark]}: {found.name}"
            yield write_figure(found.write_change(found.change), label, f"A to B, {verdict}")
    yield "</div>"
    for benchmark in BENCHMARKS:
        mine = [[probe for probe in side if probe.benchmark == benchmark] for side in probes]
        compared = next((one for one in sections if one.benchmark == benchmark), None)
        if any(mine) or all(runs[benchmark]):
            yield f'<section id="{benchmark}"><h2>{NAMES[benchmark]}</h2><div class="charts">'
            yield from (
                _picture_probes(benchmark, mine) if any(mine) else _picture_runs(runs[benchmark])
            )
            yield "</div>"
            yield from _write_section(compared, level) if compared else _list_probes(mine)
            yield "</section>"


def _picture_probes(benchmark: str, sides: list[list[Probe]]) -> Iterator[str]:
    """Step times with their tenth percentiles, and rates, in the order of the files."""
    if max(len(side) for side in sides) == 1:
        yield from _picture_single_probes(benchmark, sides)
        return
    steps, rates = [], []
    for letter, colour, side in zip(LETTERS, COLOURS, sides, strict=False):
        points, names = [], []
        for number, probe in enumerate(side, 1):
            for seconds, text in ((probe.p10, "p10"), (probe.seconds, "median"),
                                  (probe.p90, "p90")):  # fmt: skip
                points.append((float(number), 1000 * seconds))
                names.append(f"{letter} {probe.file}: {text} {1000 * seconds:.3g} ms")
        if side:
            steps.append(Series(letter, tuple(points), colour, names=tuple(names)))
            medians = [(float(n), p.batch / p.seconds) for n, p in enumerate(side, 1)]
            rates.append(Series(letter, tuple(medians), colour, joined=True))
    picture = draw_points(steps, "probe", "ms a step", log=False, title="step times")
    yield write_chart(
        picture, "Steps of each probe: the median, and the tenth percentiles about it"
    )
    picture = draw_points(rates, "probe", f"{UNITS[benchmark]}/s", log=False, title="rates")
    yield write_chart(picture, f"{UNITS[benchmark]} a second and rank, in the order of the probes")


def _picture_single_probes(benchmark: str, sides: list[list[Probe]]) -> Iterator[str]:
    """The same where a side has one probe: bars."""
    pairs = [(letter, one) for letter, side in zip(LETTERS, sides, strict=False) for one in side]
    steps = [
        (f"{letter}, {name}", seconds, f"{1000 * seconds:,.3g} ms")
        for letter, one in pairs
        for name, seconds in (("p10", one.p10), ("median", one.seconds), ("p90", one.p90))
    ]
    caption = "Steps: the median, and the tenth percentiles about it"
    by_side = [colour for colour, side in zip(COLOURS, sides, strict=False) for _ in side]
    by_step = [colour for colour in by_side for _ in range(3)]
    yield write_chart(draw_bars(steps, "step times", by_step), caption)
    rates = [(letter, one.batch / one.seconds, f"{one.batch / one.seconds:,.1f}/s")
             for letter, one in pairs]  # fmt: skip
    picture = draw_bars(rates, "rates", by_side)
    yield write_chart(picture, f"{UNITS[benchmark]} a second and rank")


def _picture_runs(sides: list[list[RunTimes]]) -> Iterator[str]:
    """Where the time of a mean run went, and rates over the time of every run; the time to target
    of every run where the logs time no evaluation, without which no rate over time is known."""
    bars, colours, series = [], [], []
    for letter, colour, side in zip(LETTERS, COLOURS, sides, strict=False):
        timed = [run for run in side if run.evaluation_seconds is not None]
        training = "training" if timed else "training and evaluation"
        shares = [(training, fmean(run.seconds - run.evaluations_seconds for run in side))]
        if timed:
            shares.append(("evaluation", fmean(run.evaluations_seconds for run in timed)))
        for name, seconds in shares:
            bars.append((f"{letter}, {name}", seconds, f"{seconds:.1f} s"))
            colours.append(colour)
        points = [point for run in side for point in run.rates]
        names = [f"{letter} {run.file}" for run in side for _ in run.rates]
        if points:
            series.append(Series(letter, tuple(points), colour, names=tuple(names)))
    picture = draw_bars(bars, "time of a run", colours)
    yield write_chart(picture, "Where the time of a mean run went")
    if series:
        picture = draw_points(series, "minutes", "samples/s", log=False, title="rate over time")
        yield write_chart(picture, "Training rate between evaluations, over the time of each run")
        return
    minutes = [
        Series(letter, tuple((float(n), m) for n, m in enumerate(reached, 1)), colour)
        for letter, colour, side in zip(LETTERS, COLOURS, sides, strict=False)
        if (reached := sorted(run.minutes for run in side if run.minutes is not None))
    ]
    if minutes:
        picture = draw_points(minutes, "run", "minutes", log=False, title="time to target")
        yield write_chart(picture, "Time to target of each run, the fastest first")


def _write_section(section: Section, level: float) -> Iterator[str]:
    head = ("measure", "A", "B", "change", "from", "to", "p", "verdict")
    rows = [_write_row(found, level) for found in section.differences]
    yield from write_table(head, rows, frozenset(range(1, 7)))
    yield from (f'<p class="soft">Note: {write_words(note)}.</p>' for note in section.notes)


def _write_row(found: Difference, level: float) -> tuple[str, ...]:
    means = (f"{mean:,.4g}" if mean < 1e4 else f"{mean:,.0f}" for mean in found.means)
    means = (f"{mean}{'' if found.unit.startswith('/') else ' '}{found.unit}" for mean in means)
    ends = ("" if end is None else found.write_change(end) for end in (found.low, found.high))
    chance = "" if found.p is None else f"{found.p:.2g}"
    verdict = "real" if found.is_real(level) else "not shown"
    return (found.name, *means, found.write_change(found.change), *ends, chance, verdict)


def _list_probes(sides: list[list[Probe]]) -> Iterator[str]:
    head = ("probe", "device", "samples a step", "steps", "median", "p10", "p90", "samples/s")
    rows = [
        (
            Path(probe.file).name,
            probe.device,
            str(probe.batch),
            str(probe.steps),
            *(f"{1000 * value:.3g} ms" for value in (probe.seconds, probe.p10, probe.p90)),
            f"{probe.batch / probe.seconds:,.1f}",
        )
        for side in sides
        for probe in side
    ]
    yield from write_table(head, rows, frozenset(range(2, 8)))
