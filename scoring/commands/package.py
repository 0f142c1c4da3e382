"""`python -m scoring package`: makes the response package of a finished campaign."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from scoring.commands.arguments import add_rule_arguments, get_profile, read_path
from scoring.exits import NOT_VALID, VALID
from scoring.findings import make_printable

HELP = "make the response package of a campaign"
PROFILE = "lp2bm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command reads from its line."""
    parser.add_argument(
        "--results",
        type=read_path,
        required=True,
        metavar="DIR",
        help="the campaign's, or its parent",
    )
    parser.add_argument(
        "--system", type=read_path, required=True, metavar="FILE", help="systems/NAME.toml"
    )
    parser.add_argument(
        "--output",
        type=read_path,
        required=True,
        metavar="PKG",
        help="folder, .tar, .tar.gz or .zip",
    )
    parser.add_argument(
        "--description", type=read_path, metavar="FILE", help="system description (DIR/system.json)"
    )
    parser.add_argument(
        "--image-manifest", type=read_path, metavar="FILE", help="manifest.json of the image used"
    )
    parser.add_argument(
        "--source",
        type=read_path,
        metavar="DIR",
        help="the kit as it ran (the one this command is of)",
    )
    add_rule_arguments(parser, PROFILE)


def run(options: argparse.Namespace) -> int:
    """Make the package, or say on stderr why not."""
    from scoring.package.build import build_package
    from scoring.package.order import Order, RefusalError
    from scoring.package.source import ROOT
    from scoring.prose import DEMONSTRATION, format_score

    order = Order(
        results=options.results,
        system=options.system,
        output=Path(os.path.normpath(options.output)),
        profile=get_profile(options),
        ruleset=options.ruleset,
        window=options.window,
        description=options.description,
        image_manifest=options.image_manifest,
        source=options.source or ROOT,
        verify=True,
        say=_say,
    )
    try:
        built = build_package(order)
    except RefusalError as refusal:
        for reason in refusal.reasons:
            _say(f"error: {reason}")
        count = len(refusal.reasons)
        _say(f"no package was made: {count} {'reason' if count == 1 else 'reasons'} above")
        return NOT_VALID
    for remark in built.remarks:
        _say(remark)
    if order.profile.demonstration:
        print(DEMONSTRATION)
    score = format_score(built.score.compute(normalized=False))
    print(f"{make_printable(str(order.output))}: {len(built.manifest.files)} files, score {score}")
    return VALID


def _say(text: str) -> None:
    print(make_printable(text), file=sys.stderr)
