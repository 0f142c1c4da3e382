"""Scoring's command line: `python -m scoring COMMAND ...`, the commands being those of
`scoring/commands`.

Exit statuses: 0 valid; 1 not valid; 2 wrong usage or unreadable input; 130 interrupted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from scoring.exits import (
    INTERRUPTED,
    UNUSABLE,
    VALID,
    InputError,
    describe_os_error,
    prepare_streams,
    settle_output,
)
from scoring.findings import make_printable

COMMANDS = ("score", "report", "describe", "package", "verify", "explain", "watch", "compare")


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a wrong call with one sentence and status 2."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave."""
        sentence = f"{self.prog}: {message} (see {self.prog} --help)"
        print(make_printable(sentence), file=sys.stderr)
        raise SystemExit(UNUSABLE)


def make_parser() -> Parser:
    """Make the parser of the command line."""
    parser = Parser(prog="python -m scoring", description="Score MLPerf Training run logs.")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for name in COMMANDS:
        command = import_module(f"scoring.commands.{name}")
        its = commands.add_parser(name, help=command.HELP, description=command.__doc__)
        command.add_arguments(its)
        its.set_defaults(run=command.run)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command and give its exit status."""
    options = make_parser().parse_args(arguments)
    status = options.run(options)
    assert isinstance(status, int)
    return status


def _end_by_signals_as_by_interrupt() -> None:
    """Let neither a kill nor a closed terminal leave copies of logs or packages behind."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        # What runs under nohup stays deaf to the terminal's end.
        if signal.getsignal(ending) == signal.SIG_DFL:
            signal.signal(ending, signal.default_int_handler)


def run() -> NoReturn:
    """Run with the process's arguments; a mistake of the caller is one sentence and status 2."""
    prepare_streams()
    status = VALID
    try:
        _end_by_signals_as_by_interrupt()
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        print(make_printable(f"error: {error}"), file=sys.stderr)
        status = UNUSABLE
    except BrokenPipeError:
        # The reader of our output has gone: nothing to tell it, and no traceback at exit.
        settle_output()
    except OSError as error:
        print(make_printable(f"error: {describe_os_error(error)}"), file=sys.stderr)
        settle_output()  # it may be stdout that is full
        status = UNUSABLE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    raise SystemExit(status)


if __name__ == "__main__":
    run()
