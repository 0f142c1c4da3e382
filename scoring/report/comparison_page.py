"""The page that shows two results side by side."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from scoring.comparison import BenchmarkComparison, Comparison
from scoring.comparison_prose import list_differences, list_figures, write_statements
from scoring.findings import quote
from scoring.prose import NAMES
from scoring.report.lines import write_explanations
from scoring.report.page import write_banner, write_document
from scoring.report.pairs import draw_pair_accuracies, draw_pair_values
from scoring.report.picture import render_picture
from scoring.report.text import clean

TEXT_LIMIT = 200


def write_comparison_page(comparison: Comparison) -> str:
    """Write the whole page."""
    return write_document("MLPerf Training: two results", _write_body(comparison))


def _write_body(comparison: Comparison) -> Iterator[str]:
    yield from write_banner(comparison.scores[0])
    yield "<h1>MLPerf Training, closed division: two results</h1>"
    for place, name in zip(("First", "Second"), comparison.names, strict=True):
        yield f"<p><b>{place}:</b> {clean(name)}</p>"
    yield from _write_pairs([(name, *values) for name, values in list_figures(comparison)])
    for benchmark, item in comparison.benchmarks.items():
        yield f'<section id="{benchmark}"><h2>{NAMES[benchmark]}</h2>'
        yield from (f"<p>{clean(text)}.</p>" for text in write_statements(benchmark, item))
        yield from _write_charts(benchmark, item)
        yield "</section>"
    for title, pairs in list_differences(comparison):
        yield f"<section><h2>{clean(title[0].upper() + title[1:])}</h2>"
        rows = [(key, *(quote(value, TEXT_LIMIT) for value in pair)) for key, pair in pairs.items()]
        yield from _write_pairs([(key, one, other) for key, one, other in rows])
        yield "</section>"
    yield from _write_findings(comparison)


def _write_pairs(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    yield '<div class="scroll"><table class="pairs"><thead><tr><th></th><th>first</th>'
    yield "<th>second</th></tr></thead><tbody>"
    for name, one, other in rows:
        yield f"<tr><th>{clean(name)}</th><td>{clean(one)}</td><td>{clean(other)}</td></tr>"
    yield "</tbody></table></div>"


def _write_charts(benchmark: str, item: BenchmarkComparison) -> Iterator[str]:
    if not any(side and side.minutes for side in item.sides):
        return
    minutes = [side.minutes if side else [] for side in item.sides]
    samples = [side.samples_to_converge if side else [] for side in item.sides]
    million = [[value / 1e6 for value in values] for values in samples]
    pictures = (
        ("minutes", "Run times", partial(draw_pair_values, minutes, "minutes")),
        (
            "samples",
            "Where the runs converged",
            partial(draw_pair_values, million, "million samples"),
        ),
        ("accuracies", "Accuracy", partial(draw_pair_accuracies, item)),
    )
    yield '<div class="charts">'
    for key, title, draw in pictures:
        label = f"{NAMES[benchmark]}: {title}, first blue, second orange"
        svg = render_picture(draw, f"{benchmark}-{key}", label)
        yield f"<figure>{svg}<figcaption><b>{title}.</b> First blue, second orange.</figcaption>"
        yield "</figure>"
    yield "</div>"


def _write_findings(comparison: Comparison) -> Iterator[str]:
    yield "<section><h2>Findings only in one</h2>"
    for place, kinds in zip(("first", "second"), comparison.only, strict=True):
        yield f"<h3>Only in the {place}</h3>"
        if not kinds:
            yield "<p>None.</p>"
        for kind in kinds:
            finding = kind[0]
            count = f", {len(kind)} times" if len(kind) > 1 else ""
            yield (
                f'<div class="finding {finding.severity}"><p><b class="{finding.severity}">'
                f"{finding.severity}: {finding.rule}</b> "
                f'<span class="place">{clean(finding.benchmark or "")}{count}</span></p>'
                f"<p>{clean(finding.message)}</p></div>"
            )
    yield from write_explanations([kind[0].rule for kinds in comparison.only for kind in kinds])
    yield "</section>"
