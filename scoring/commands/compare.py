"""`python -m scoring compare FIRST SECOND`: two results side by side."""

from __future__ import annotations

import argparse
import json
import sys

from scoring.commands.arguments import add_rule_arguments, get_profile, read_path
from scoring.exits import NOT_VALID, VALID, write_output
from scoring.files import write_atomically
from scoring.findings import make_printable
from scoring.profile import DEFAULT

HELP = "hold two results against each other"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command reads from its line."""
    for name, place in (("FIRST", "first"), ("SECOND", "second")):
        text = "a package, or a folder that holds resnet/ and/or bert/"
        parser.add_argument(place, metavar=name, type=read_path, help=text)
    add_rule_arguments(parser, DEFAULT)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--output", type=read_path, metavar="FILE", help="write a page, HTML")


def run(options: argparse.Namespace) -> int:
    """Compare two results; status 0 where both are valid."""
    # Only here: reading archives is nothing that the other commands need.
    from scoring.comparison import compare_scores
    from scoring.comparison_input import score_side
    from scoring.comparison_prose import write_comparison

    profile = get_profile(options)
    first, second = (
        score_side(path, options.ruleset, profile, options.window)
        for path in (options.first, options.second)
    )
    names = (str(options.first), str(options.second))
    comparison = compare_scores(names, (first, second))
    if options.output:
        # Drawing imports matplotlib.
        from scoring.report.comparison_page import write_comparison_page

        with write_atomically(options.output) as file:
            file.write(write_comparison_page(comparison).encode())
        print(make_printable(f"wrote {options.output}"), file=sys.stderr)
    if options.json:
        write_output(f"{json.dumps(comparison.describe(), indent=1, allow_nan=False)}\n")
    else:
        write_output(write_comparison(comparison))
    return VALID if comparison.valid else NOT_VALID
