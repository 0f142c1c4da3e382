"""`python -m scoring explain [SLUG]`: what a finding means and how to mend it."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator

from scoring.exits import VALID
from scoring.explanation import Explanation, find_explanation, load_explanations
from scoring.findings import SEVERITIES

HELP = "say what a finding means"
WIDTH = 88
_HEADS = {
    "meaning": "means",
    "source": "source",
    "mend": "mend",
    "innocent": "may be innocent",
    "published": "among 242 published results",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command reads from its line."""
    parser.add_argument("slug", metavar="SLUG", nargs="?", help="as score prints it; else all")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(options: argparse.Namespace) -> int:
    """Explain one finding, or list all with their severities."""
    if options.slug is None:
        table = load_explanations()
        if options.json:
            print(json.dumps([item.describe() for item in table.values()], indent=1))
        else:
            print("\n".join(list_findings(table)))
        return VALID
    explanation = find_explanation(options.slug)
    if options.json:
        print(json.dumps(explanation.describe(), indent=1))
    else:
        print("\n".join(write_explanation(explanation)))
    return VALID


def list_findings(table: dict[str, Explanation]) -> Iterator[str]:
    """Give a line for each finding: severity, slug and the first sentence of its meaning."""
    widest = max(len(slug) for slug in table)
    for slug in SEVERITIES:
        if slug in table:
            explanation = table[slug]
            first = explanation.meaning.split(". ")[0].rstrip(".")
            sentence = textwrap.shorten(first, WIDTH, placeholder=" ...")
            yield f"{explanation.severity:7}  {slug:{widest}}  {sentence}"


def write_explanation(explanation: Explanation) -> Iterator[str]:
    """Give the lines of one explanation."""
    yield f"{explanation.slug} ({explanation.severity})"
    for field, head in _HEADS.items():
        text = getattr(explanation, field)
        if text:
            yield ""
            yield f"{head}:"
            yield from textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")
