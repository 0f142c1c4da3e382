"""A comparison in words, for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from scoring.comparison import BenchmarkComparison, Comparison
from scoring.findings import make_printable, quote
from scoring.prose import DEMONSTRATION, LETTERS, NAMES, format_minutes, format_score
from scoring.welch import MeanTest

COLUMN = 26
NAME_WIDTH = 34
KEY_LIMIT, ROWS_SHOWN = 80, 80
_SMALLEST_P = 1e-6
_SIGNIFICANT = 0.05


def write_comparison(comparison: Comparison) -> str:
    """Write both results beside each other, then what differs."""
    return "".join(f"{make_printable(line)}\n" for line in _write_lines(comparison))


def _write_lines(comparison: Comparison) -> Iterator[str]:
    if comparison.scores[0].profile.demonstration:
        frame = "#" * (len(DEMONSTRATION) + 4)
        yield from (frame, f"# {DEMONSTRATION} #", frame, "")
    for place, name in zip(("first", "second"), comparison.names, strict=True):
        yield f"{place + ':':8}{name}"
    yield ""
    yield _write_row("", ("first", "second"))
    for name, values in list_figures(comparison):
        yield _write_row(name, values)
    yield ""
    for benchmark, item in comparison.benchmarks.items():
        yield from write_statements(benchmark, item)
    for title, pairs in list_differences(comparison):
        yield from ("", f"{title}:")
        for key, (one, other) in pairs.items():
            yield _write_row(f"  {key}", (quote(one, COLUMN), quote(other, COLUMN)))
    for place, kinds in zip(("first", "second"), comparison.only, strict=True):
        if kinds:
            yield from ("", f"findings only in the {place}:")
        for kind in kinds:
            count = f" ({len(kind)} times)" if len(kind) > 1 else ""
            where = kind[0].benchmark or ""
            yield f"  {kind[0].severity:7} {kind[0].rule}{count}: {where}: {kind[0].message}"


def _write_row(name: str, values: tuple[str, str]) -> str:
    return f"{name:{NAME_WIDTH}} {values[0]:>{COLUMN}} {values[1]:>{COLUMN}}".rstrip()


def list_figures(comparison: Comparison) -> Iterator[tuple[str, tuple[str, str]]]:
    """List the figures of both results in words: name, (first, second)."""
    first, second = comparison.scores
    yield "verdict", (_write_state(first.valid), _write_state(second.valid))
    plain = (first.compute(normalized=False), second.compute(normalized=False))
    scaled = (first.compute(normalized=True), second.compute(normalized=True))
    yield "score", (format_score(plain[0]), format_score(plain[1]))
    yield "score, scaled to the reference", (format_score(scaled[0]), format_score(scaled[1]))
    for benchmark, item in comparison.benchmarks.items():
        yield from list_benchmark_figures(benchmark, item)


def _write_state(valid: bool) -> str:
    return "valid" if valid else "NOT VALID"


def list_benchmark_figures(
    benchmark: str, item: BenchmarkComparison
) -> Iterator[tuple[str, tuple[str, str]]]:
    """List the figures of one benchmark in words: name, (first, second)."""
    unit = "images" if benchmark == "resnet" else "sequences"

    def both(name: str, write: Callable[[dict[str, Any]], str]) -> tuple[str, tuple[str, str]]:
        one, other = (write(side.describe()) if side else "absent" for side in item.sides)
        return f"{NAMES[benchmark]} {name}", (one, other)

    yield both("verdict", lambda side: _write_state(side["valid"]))
    yield both(LETTERS[benchmark], lambda side: format_minutes(side["latency_minutes"]))
    yield both("convergence test", lambda side: str(side["rcp"]))
    yield both("run minutes", lambda side: _write_range(side["minutes"], ".3f"))
    yield both(
        "samples to converge", lambda side: _write_range(side["samples_to_converge"], ",.0f")
    )
    yield both("batch size", lambda side: _write_number(side["global_batch_size"], ",d"))
    yield both(f"{unit}/s", lambda side: _write_number(side["samples_per_second"], ",.0f"))
    yield both(
        f"{unit}/s per accelerator",
        lambda side: _write_number(side["samples_per_second_per_accelerator"], ",.1f"),
    )
    for phase in ("initialisation", "first_interval", "training", "evaluation"):
        yield both(
            f"{phase.replace('_', ' ')}, s",
            lambda side, phase=phase: _write_number(side["phase_seconds"][phase], ",.1f"),  # type: ignore[misc]
        )


def _write_number(value: float | None, form: str) -> str:
    return "unknown" if value is None else f"{value:{form}}"


def _write_range(values: list[float], form: str) -> str:
    if not values:
        return "none"
    low, high = f"{min(values):{form}}", f"{max(values):{form}}"
    return low if low == high else f"{low} to {high}"


def write_statements(benchmark: str, item: BenchmarkComparison) -> Iterator[str]:
    """Write a sentence on each figure that was tested: the difference, and whether by chance."""
    tests = (
        ("minutes of a run", "min", ".3f", item.minutes),
        ("samples to converge", "samples", ",.0f", item.samples_to_converge),
    )
    for what, unit, form, test in tests:
        if test:
            yield f"{NAMES[benchmark]}, {what}: {_write_test(test, unit, form)}"
        else:
            yield f"{NAMES[benchmark]}, {what}: no test, a side has fewer than two converged runs"


def _write_test(test: MeanTest, unit: str, form: str) -> str:
    first, second = test.means
    if test.p is None or test.t is None or test.interval is None or test.degrees is None:
        state = "the same in all runs of both" if test.difference == 0 else "without any scatter"
        return f"{first:{form}} and {second:{form}} {unit}, {state}: nothing to test"
    share = f" ({100 * test.difference / first:+.2f} %)" if first else ""
    sign = "+" + form
    verdict = "significant" if test.p < _SIGNIFICANT else "not significant"
    verdict += f" at {100 * _SIGNIFICANT:.0f} %"
    p = f"p < {_SMALLEST_P:g}" if test.p < _SMALLEST_P else f"p = {test.p:.2g}"
    low, high = test.interval
    return (
        f"second minus first {test.difference:{sign}} {unit}{share}, "
        f"95 % interval {low:{sign}} to {high:{sign}}; {test.test}, {test.runs[0]} and "
        f"{test.runs[1]} runs: t = {test.t:.2f}, {test.degrees:.1f} degrees of freedom, "
        f"{p}: {verdict}"
    )


def list_differences(comparison: Comparison) -> Iterator[tuple[str, dict[str, tuple[Any, Any]]]]:
    """List tables of settings and system fields that differ: title, {key: (first, second)}.

    Keys come out of files, so their length and number are cut.
    """
    for benchmark, item in comparison.benchmarks.items():
        if item.settings:
            yield f"{NAMES[benchmark]}, settings that differ", item.settings
    pairs = comparison.system
    if pairs:
        shown = {key[:KEY_LIMIT]: pair for key, pair in list(pairs.items())[:ROWS_SHOWN]}
        count = f" ({ROWS_SHOWN} of {len(pairs)})" if len(pairs) > ROWS_SHOWN else ""
        yield f"system and software that differ{count}", shown
