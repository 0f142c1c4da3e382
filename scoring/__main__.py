"""The commands of scoring: `python -m scoring score|report DIR`.

Exit statuses: 0 valid; 1 not valid; 2 wrong usage or unreadable input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from scoring.profile import DEFAULT, ProfileError, list_profiles, load_profile
from scoring.prose import write_prose
from scoring.score import Score, score_folder
from scoring.submission import InputError

VALID, NOT_VALID, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a wrong call with one sentence and status 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave."""
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(UNUSABLE)


def make_parser() -> Parser:
    """Make the parser of the command line."""
    parser = Parser(prog="python -m scoring", description="Score MLPerf Training run logs.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    shared = Parser(add_help=False)
    shared.add_argument("folder", metavar="DIR", type=Path, help="holds resnet/ and/or bert/")
    shared.add_argument("--ruleset", default="4.0.0", help="of mlperf-logging (4.0.0)")
    shared.add_argument("--rfp", default=DEFAULT, metavar="NAME", help=", ".join(list_profiles()))
    shared.add_argument("--window", action="store_true", help="choose among more runs than needed")
    score = commands.add_parser("score", parents=[shared], help="print the verdict and the score")
    score.add_argument("--json", action="store_true", help="one JSON document on stdout")
    report = commands.add_parser("report", parents=[shared], help="write a page with all figures")
    report.add_argument("--output", type=Path, required=True, metavar="FILE", help="HTML file")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command and give its exit status."""
    options = make_parser().parse_args(arguments)
    try:
        profile = load_profile(options.rfp)
    except ProfileError as error:
        raise InputError(f"--rfp: {error}") from None
    score = score_folder(options.folder, options.ruleset, profile, options.window)
    if options.command == "report":
        write_report(score, options.output)
    elif options.json:
        print(json.dumps(score.describe(), indent=1, allow_nan=False))
    else:
        print(write_prose(score), end="")
    return VALID if score.valid else NOT_VALID


def write_report(score: Score, output: Path) -> None:
    """Write the page whole or not at all."""
    # Only here: drawing imports matplotlib, which `score` must not wait for.
    from scoring.report.page import write_page

    if not output.parent.is_dir():
        raise InputError(f"--output {output}: no such folder: make it first")
    text = write_page(score)
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=output.parent, prefix=f".{output.name}.", delete=False
    ) as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            temporary.chmod(0o666 & ~_get_umask())
            temporary.replace(output)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    print(f"wrote {output}", file=sys.stderr)


def _get_umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def run() -> NoReturn:
    """Run with the process's arguments; a mistake of the caller is one sentence and status 2."""
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        status = UNUSABLE
    except BrokenPipeError:
        # The reader of our output has gone: nothing to tell it, and no traceback at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = VALID
    except OSError as error:
        print(f"error: cannot use {error.filename}: {error.strerror}", file=sys.stderr)
        status = UNUSABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    raise SystemExit(status)


if __name__ == "__main__":
    run()
