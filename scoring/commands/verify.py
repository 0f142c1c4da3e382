"""`python -m scoring verify PKG`: is a response package whole, true and worth what it claims?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from scoring.commands.arguments import get_profile, read_path
from scoring.compliance import check_ruleset
from scoring.exits import NOT_VALID, VALID, write_output
from scoring.files import write_atomically
from scoring.profile import list_profiles
from scoring.rules import BENCHMARKS
from scoring.score import Score

HELP = "examine a response package: derive everything anew from its logs"
PROFILE = "lp2bm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command reads from its line."""
    parser.add_argument(
        "package", metavar="PKG", type=read_path, help="a folder, .tar, .tar.gz or .zip"
    )
    names = f"{', '.join(list_profiles())}, or a TOML file ({PROFILE})"
    parser.add_argument("--rfp", default=PROFILE, metavar="NAME", help=names)
    parser.add_argument("--ruleset", default="4.0.0", help="of mlperf-logging (4.0.0)")
    parser.add_argument(
        "--image-manifest", type=read_path, metavar="FILE", help="manifest.json of a rebuilt image"
    )
    parser.add_argument(
        "--report", type=read_path, metavar="FILE", help="write the score's HTML page"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def run(options: argparse.Namespace) -> int:
    """Examine a package and print the verdict."""
    from scoring.package.image import read_rebuilt_manifest
    from scoring.package.reading import open_package
    from scoring.package.verification import verify_package
    from scoring.package.verification_prose import write_verification

    profile = get_profile(options)
    check_ruleset(options.ruleset, list(BENCHMARKS))
    rebuilt = read_rebuilt_manifest(options.image_manifest) if options.image_manifest else None
    with open_package(options.package) as package:
        verification = verify_package(package, options.ruleset, profile, rebuilt)
        if options.report:
            _write_report(verification.material.score.value, options.report)
        if options.json:
            write_output(f"{json.dumps(verification.describe(), indent=1, allow_nan=False)}\n")
        else:
            write_output(write_verification(verification))
    return VALID if verification.valid else NOT_VALID


def _write_report(score: Score | None, output: Path) -> None:
    """Write the page of the derived score, whole or not at all."""
    if score is None:
        print(f"nothing could be scored: {output} is not written", file=sys.stderr)
        return
    # Only here: drawing imports matplotlib, which the verdict need not wait for.
    from scoring.report.page import write_page

    with write_atomically(output, "--report") as file:
        file.write(write_page(score).encode())
    print(f"wrote {output}", file=sys.stderr)
