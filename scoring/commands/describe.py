"""`python -m scoring describe --system FILE`: drafts the MLPerf system description.

Run it on one node of the system, in the environment or image of the runs. What it cannot find out
is left empty and named on stderr: fill it in by hand.
"""

from __future__ import annotations

import argparse
import os
import sys

from scoring.commands.arguments import read_path
from scoring.exits import VALID, InputError
from scoring.files import write_atomically
from scoring.findings import make_printable

HELP = "draft the system description on a node of the system"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command reads from its line."""
    parser.add_argument(
        "--system", type=read_path, required=True, metavar="FILE", help="systems/NAME.toml"
    )
    parser.add_argument("--output", type=read_path, metavar="FILE", help="new JSON file (stdout)")


def run(options: argparse.Namespace) -> int:
    """Write the draft; a file that is there may hold a person's work and is not replaced."""
    from scoring.package.description import write_description
    from scoring.package.draft import draft_description
    from scoring.package.machine import read_machine
    from scoring.package.system_file import read_system_file

    output = options.output
    if output is not None and os.path.lexists(output):
        raise InputError(f"--output {output} is there already: remove it or name another file")
    system, _ = read_system_file(options.system)
    draft = draft_description(system, read_machine())
    content = write_description(draft.description)
    if output is None:
        print(content.decode(), end="")
    else:
        with write_atomically(output) as file:
            file.write(content)
        print(f"wrote {make_printable(str(output))}", file=sys.stderr)
    for doubt in draft.doubts:
        print(f"note: {make_printable(doubt)}", file=sys.stderr)
    if draft.unknown:
        print(f"left empty, fill in by hand: {', '.join(draft.unknown)}", file=sys.stderr)
    return VALID
