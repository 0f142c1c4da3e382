"""`python -m scoring report DIR`: one page with all figures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scoring.commands.arguments import add_judging_arguments, judge, read_path
from scoring.exits import NOT_VALID, VALID
from scoring.files import write_atomically
from scoring.findings import make_printable
from scoring.score import Score

HELP = "write a page with all figures"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command reads from its line."""
    add_judging_arguments(parser)
    parser.add_argument("--output", type=read_path, required=True, metavar="FILE", help="HTML file")


def run(options: argparse.Namespace) -> int:
    """Write the report of a folder of logs."""
    score = judge(options)
    write_report(score, options.output)
    return VALID if score.valid else NOT_VALID


def write_report(score: Score, output: Path) -> None:
    """Write the page whole or not at all."""
    # Only here: drawing imports matplotlib, which no other command must wait for.
    from scoring.report.page import write_page

    with write_atomically(output) as file:
        file.write(write_page(score).encode())
    print(make_printable(f"wrote {output}"), file=sys.stderr)
