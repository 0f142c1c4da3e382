"""`python -m harness.compare A B`: two probes or results folders, and whether a change is real."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.commands import GOOD, NOT_GOOD, InputError, Parser, run_command
from harness.comparison_page import write_page
from harness.comparison_sides import Section, compare, read_probes
from harness.comparison_statistics import Difference
from harness.files import write_atomically

NAMES = {"resnet": "ResNet-50", "bert": "BERT-large"}


def main(arguments: Sequence[str]) -> int:
    """Print the comparison; status 1 where the second side is slower beyond chance."""
    parser = Parser(
        prog="python -m harness.compare",
        description="Hold two probes (--json documents), two folders of them, or two results "
        "folders against each other. Status 1 where the second is slower beyond chance. Scores and "
        "validity are compared by `python -m scoring compare`.",
    )
    parser.add_argument("first", type=Path, metavar="A", help="before")
    parser.add_argument(
        "second", type=Path, metavar="B", nargs="?",
        help="after; without it --report pictures the probes of A alone",
    )  # fmt: skip
    parser.add_argument(
        "--level", type=_level, default=0.05, metavar="P",
        help="of significance: the chance to call noise a change (default: 0.05)",
    )  # fmt: skip
    parser.add_argument("--report", type=Path, metavar="FILE", help="write one HTML page")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    options = parser.parse_args(arguments)
    if options.second is None:
        if options.report is None or options.json:
            parser.error(
                "give B to compare with, or --report FILE alone to picture the probes of A"
            )
        return _picture(options)
    sections = compare(options.first, options.second, options.level)
    if options.report is not None:
        _write_report((options.first, options.second), sections, options)
    if options.json:
        print(json.dumps(describe(sections, options), indent=1))
    else:
        print("\n".join(write_text(sections, options)))
    return NOT_GOOD if any(section.slower for section in sections) else GOOD


def _picture(options: argparse.Namespace) -> int:
    """Write the page of one side, which must hold probes."""
    if not read_probes(options.first):
        raise InputError(
            f"{options.first} holds no probes: give a probe's --json document or a folder of them, "
            "or a second results folder to compare with"
        )
    _write_report((options.first,), [], options)
    return GOOD


def _write_report(
    sides: Sequence[Path], sections: Sequence[Section], options: argparse.Namespace
) -> None:
    page = write_page(sides, sections, options.level)
    with write_atomically(options.report) as file:
        file.write(page)
    print(f"wrote {options.report}", file=sys.stderr)


def _level(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 0.5:
        raise argparse.ArgumentTypeError(f"--level must lie between 0 and 0.5, is '{text}'")
    return value


def describe(sections: list[Section], options: argparse.Namespace) -> dict[str, Any]:
    """The JSON document."""
    return {
        "schema": 1,
        "first": str(options.first),
        "second": str(options.second),
        "level": options.level,
        "benchmarks": {
            section.benchmark: {
                "compared": section.what,
                "second_is_slower": section.slower,
                "measures": [
                    {**asdict(found), "real": found.is_real(options.level)}
                    for found in section.differences
                ],
                "notes": section.notes,
            }
            for section in sections
        },
    }


def write_text(sections: list[Section], options: argparse.Namespace) -> Iterator[str]:
    """The same for people."""
    yield f"A = {options.first}, B = {options.second}"
    for section in sections:
        yield ""
        yield f"{NAMES[section.benchmark]} ({section.what})"
        width = max(len(_name(found)) for found in section.differences)
        yield f"  {'':{width}}  {'A':>13} {'B':>13}  {'change':>8}  verdict"
        for found in section.differences:
            yield f"  {_name(found):{width}}  {_write_difference(found, options.level)}"
        for note in section.notes:
            yield f"  note: {note}"


def _name(found: Difference) -> str:
    return found.name if found.unit == "/s" else f"{found.name} ({found.unit})"


def _write_difference(found: Difference, level: float) -> str:
    first, second = found.means
    change = found.write_change(found.change)
    line = f"{first:13,.4g} {second:13,.4g}  {change:>8}  "
    if first >= 1e4 or second >= 1e4:
        line = f"{first:13,.0f} {second:13,.0f}  {change:>8}  "
    if found.p is None or found.low is None or found.high is None or found.detectable is None:
        same = found.change == 0
        few = min(found.counts) < 2
        return line + ("the same" if same else "one value a side" if few else "no scatter")
    verdict = "real" if found.is_real(level) else "not shown"
    low, high = found.write_change(found.low), found.write_change(found.high)
    line += f"{verdict}: {low} to {high}, p = {found.p:.2g}"
    if verdict == "not shown":
        seen = found.write_change(found.detectable, digits=1).lstrip("+")
        line += f"; {seen} would be seen in four of five tries"
    return line


if __name__ == "__main__":
    run_command(main)
