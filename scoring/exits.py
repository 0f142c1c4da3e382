"""How a command of scoring ends: its status, and the one sentence on input it cannot use."""

from __future__ import annotations

import io
import os
import sys

VALID, NOT_VALID, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


class InputError(Exception):
    """Something the user gave cannot be used: one sentence with the mend."""


def prepare_streams() -> None:
    """Put the empty device where this process was started without stdin, stdout or stderr.

    Otherwise there is nothing to flush, and what is meant for stderr goes to stdout. What stdout's
    encoding lacks is shown by its number, as stderr does from the start.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  for as long as we run
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def describe_os_error(error: OSError) -> str:
    """Say in one sentence which file the system refused; without one it was our output."""
    what = "write the output" if error.filename is None else f"use {error.filename}"
    return f"cannot {what}: {error.strerror}"


def settle_output() -> None:
    """Write to stdout what still waits; where that cannot be, drop it, so that leaving succeeds."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def write_output(text: str) -> None:
    """Write a verdict to stdout; where its reader has gone, the status still gives it."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        settle_output()
