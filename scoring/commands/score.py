"""`python -m scoring score DIR`: the verdict, R, B and the score."""

from __future__ import annotations

import argparse
import json

from scoring.commands.arguments import add_judging_arguments, judge
from scoring.exits import NOT_VALID, VALID, write_output
from scoring.prose import write_prose

HELP = "print the verdict and the score"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command reads from its line."""
    add_judging_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(options: argparse.Namespace) -> int:
    """Print the score of a folder of logs."""
    score = judge(options)
    if options.json:
        write_output(f"{json.dumps(score.describe(), indent=1, allow_nan=False)}\n")
    else:
        write_output(write_prose(score))
    return VALID if score.valid else NOT_VALID
