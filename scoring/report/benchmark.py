"""The page's part on one benchmark: pictures, the runs, the convergence test."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from scoring.audit.speed import compute_samples_per_second
from scoring.prose import LETTERS, NAMES
from scoring.report import charts, curves
from scoring.report.picture import render_picture
from scoring.report.text import clean
from scoring.report.timeline import measure_timeline
from scoring.run import Run
from scoring.verdict import Verdict

PARTS_TEXT = (
    "Initialisation lies before the clock. The first part is the first epoch where the log tells "
    "it, else the time to the first evaluation."
)


def write_benchmark(verdict: Verdict) -> Iterator[str]:
    """Write the section of one benchmark."""
    name = verdict.result.benchmark
    state = "valid" if verdict.valid else "not valid"
    yield f'<section id="{name}"><h2>{NAMES[name]}: {state}</h2>'
    yield f"<p>{_introduce(verdict)}</p>"
    yield from _write_charts(verdict)
    yield from _write_runs(verdict)
    yield from _write_window(verdict)
    yield from _write_convergence(verdict)
    yield "</section>"


def _introduce(verdict: Verdict) -> str:
    letter = LETTERS[verdict.result.benchmark]
    if verdict.latency_minutes is None:
        return f"{len(verdict.result.runs)} runs; {letter} cannot be computed from them."
    kept = len(verdict.members) - 2
    return (
        f"{letter} = {verdict.latency_minutes:.4f} minutes: the mean of {kept} runs, after the "
        "fastest and the slowest are dropped."
    )


def _write_charts(verdict: Verdict) -> Iterator[str]:
    name = verdict.result.benchmark
    if not charts.has_finite_times(verdict):
        return
    separate = any(
        timeline.evaluation is not None
        for timeline in map(measure_timeline, verdict.result.runs)
        if timeline
    )
    rest = "" if separate else " The logs do not tell evaluation apart from training."
    pictures = [
        ("times", charts.draw_times, "Run times", "Minutes on the clock; pale bars do not count."),
        ("accuracies", curves.draw_accuracies, "Accuracy", curves.caption_accuracies(verdict)),
        (
            "convergence",
            charts.draw_convergence,
            "Where the runs converged",
            _caption_convergence(verdict),
        ),
        (
            "speeds",
            charts.draw_speeds,
            "Speed of each run",
            "Training samples per second of the whole run, evaluation included.",
        ),
        (
            "intervals",
            curves.draw_intervals,
            "Speed between evaluations",
            "Training samples per second from one evaluation to the next, evaluation included; the "
            "first interval begins with run_start.",
        ),
        ("timelines", charts.draw_timelines, "Where the time went", f"{PARTS_TEXT}{rest}"),
    ]
    yield '<div class="charts">'
    for key, draw, title, text in pictures:
        svg = render_picture(
            partial(draw, verdict), f"{name}-{key}", f"{NAMES[name]}: {title}. {text}"
        )
        yield f"<figure>{svg}<figcaption><b>{title}.</b> {clean(text)}</figcaption></figure>"
    yield "</div>"


def _caption_convergence(verdict: Verdict) -> str:
    reference = verdict.convergence.reference
    if reference is None:
        return "No reference points apply."
    if reference.points:
        return "Below the red line the mean would be faster than the reference allows."
    return (
        "The reference is interpolated for this batch size: its mean and one deviation. Below the "
        "red line the mean would be faster than the reference allows."
    )


def _write_runs(verdict: Verdict) -> Iterator[str]:
    unit = "epochs" if verdict.result.benchmark == "resnet" else "samples"
    heads = ("run", "minutes", "", f"{unit} to converge", "samples/s", "initialisation", "seed")
    yield '<h3>Runs</h3><div class="scroll"><table><thead><tr>'
    for place, head in enumerate(heads):
        kind = ' class="number"' if place in (1, 3, 4, 5) else ""
        yield f"<th{kind}>{head}</th>"
    yield "</tr></thead><tbody>"
    for run in verdict.result.runs:
        yield _write_run(verdict, run)
    yield "</tbody></table></div>"


def _write_run(verdict: Verdict, run: Run) -> str:
    dropped = verdict.dropped.get(run.name)
    remarks = [f"dropped: {dropped}"] if dropped else []
    if run.unusable:
        remarks.append(f"unusable: {run.unusable[0][1]}")
    elif verdict.window and run not in verdict.members:
        remarks.append("outside the window that counts")
    point = run.convergence_point
    speed = compute_samples_per_second(run)
    launch = run.initialisation
    seconds = (run.start.time_ms - launch.time_ms) / 1000 if run.start and launch else None
    cells = [
        ("", run.name.rsplit("/", 1)[-1]),
        ("number", "" if run.minutes is None else f"{run.minutes:.4f}"),
        ("", "; ".join(remarks)),
        ("number", "" if point is None else f"{point:,g}" if point < 1e5 else f"{point:,.0f}"),
        ("number", "" if speed is None else f"{speed:,.0f}"),
        ("number", "" if seconds is None else f"{seconds:.1f} s"),
        ("", ", ".join(str(seed) for seed in list(run.seeds)[:3])),
    ]
    row = "".join(
        f'<td class="{kind}">{clean(text)}</td>' if kind else f"<td>{clean(text)}</td>"
        for kind, text in cells
    )
    return f'<tr class="{"dropped" if dropped else "kept"}">{row}</tr>'


def _write_window(verdict: Verdict) -> Iterator[str]:
    if verdict.window is None or len(verdict.window.windows) < 2:
        return
    yield (
        "<h3>More runs than needed</h3><p>By launch time, each window of consecutive runs has a "
        "latency; the median window counts, the slower one of two middle ones.</p>"
        '<div class="scroll"><table><thead><tr><th>window</th><th>runs</th>'
        '<th class="number">minutes</th><th></th></tr></thead><tbody>'
    )
    for window in verdict.window.windows:
        runs = ", ".join(run.name.rsplit("/", 1)[-1] for run in window.runs)
        minutes = "infinite" if window.minutes == float("inf") else f"{window.minutes:.4f}"
        mark = "counts" if window is verdict.window.chosen else ""
        yield (
            f"<tr><td>{window.first}</td><td>{clean(runs)}</td>"
            f'<td class="number">{minutes}</td><td>{mark}</td></tr>'
        )
    yield "</tbody></table></div>"


def _write_convergence(verdict: Verdict) -> Iterator[str]:
    convergence, reference = verdict.convergence, verdict.convergence.reference
    rows = [
        ("result", f"{convergence.result} ({convergence.message})"),
        ("mlperf-logging's own verdict", convergence.stock_message or "not asked"),
        ("reference record", reference.name if reference else "none"),
        ("mean of the runs", _format(convergence.mean)),
        ("reference mean", _format(reference.mean if reference else None)),
        ("smallest allowed mean", _format(convergence.minimum_mean)),
        ("scaling factor", _format(convergence.scaling_factor, 6)),
    ]
    rows = rows if reference else rows[:1]
    yield '<h3>Convergence test</h3><table class="names"><tbody>'
    for name, text in rows:
        yield f"<tr><th>{clean(name)}</th><td>{clean(text)}</td></tr>"
    yield "</tbody></table>"


def _format(value: float | None, digits: int = 3) -> str:
    return "none" if value is None else f"{value:,.{digits}f}"
