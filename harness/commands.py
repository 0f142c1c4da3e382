"""The frame of every command: one sentence for a mistake, an exit status that tells the truth.

Exit statuses: 0 good; 1 the thing examined is not good; 2 wrong usage or unreadable input;
130 interrupted.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from harness.progress import end_progress

ROOT = Path(__file__).resolve().parent.parent
GOOD, NOT_GOOD, UNUSABLE, INTERRUPTED = 0, 1, 2, 130


class InputError(Exception):
    """A mistake in what the user gave: one sentence naming file, line or key, and the mend."""


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a wrong call with one sentence and status 2."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(UNUSABLE)


def describe_os_error(error: OSError) -> str:
    """Say in one sentence what the system refused and what to do about it."""
    where = f"cannot use {error.filename}: " if error.filename else ""
    mends = {
        errno.ENOSPC: "no space left on the disk: free some or name another folder",
        errno.EDQUOT: "the disk quota is used up: free some or name another folder",
        errno.EACCES: "permission denied: name another place, or let this user use it",
        errno.EROFS: "the file system is read-only: name a folder on another one",
        errno.ENOENT: "no such file or folder",
        errno.EEXIST: "is there already and is not replaced: name another",
        errno.EISDIR: "is a folder where a file is wanted",
        errno.ENOTDIR: "a part of the path is a file where a folder is wanted",
    }
    return f"{where}{mends.get(error.errno or 0, error.strerror or str(error))}"


def describe_missing_library(error: ModuleNotFoundError) -> str | None:
    """Say in one sentence which library is not installed; None where a module of ours is gone."""
    if error.name is None or (ROOT / error.name.split(".")[0]).is_dir():
        return None
    return (
        f"{sys.executable} has no module {error.name}: use the image, or the environment that "
        "scripts/environment makes, or install that library as container/requirements.lock has it"
    )


def watch_imports() -> None:
    """Let a command of `python -m` say in one sentence which library it lacks, with status 2.

    Each package calls this, which Python imports before the command's module imports any library;
    the process's own name is "-m" until the module has been found.
    """
    if sys.argv[:1] == ["-m"]:
        sys.excepthook = _explain_missing_library


def _explain_missing_library(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    missing = isinstance(error, ModuleNotFoundError) and describe_missing_library(error)
    if not missing:
        sys.__excepthook__(kind, error, trace)
        return
    print(f"error: {missing}", file=sys.stderr)
    raise SystemExit(UNUSABLE)  # here it sets the status, and nothing else


def prepare_streams() -> None:
    """Put the empty device where this process was started without stdin, stdout or stderr.

    Otherwise there is nothing to flush, what is meant for stderr goes to stdout, and the next file
    that is opened gets the free number: a library's message would be written into it. What
    stdout's encoding lacks, or is no text at all in a file's name, is shown by its number, as
    stderr does from the start.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  for as long as we run
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def settle_output() -> None:
    """Write to stdout what still waits; where that cannot be, drop it, so that leaving succeeds."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def run_command(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a command's main with the process's arguments and leave with its exit status.

    InputError, OSError and a library that is not installed become one sentence on stderr and
    status 2; Ctrl-C becomes 130.
    Anything else is a defect of ours and keeps its traceback.
    """
    prepare_streams()
    status = GOOD
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        end_progress()
        print(f"error: {error}", file=sys.stderr)
        status = UNUSABLE
    except ModuleNotFoundError as error:
        if (sentence := describe_missing_library(error)) is None:
            raise
        end_progress()
        print(f"error: {sentence}", file=sys.stderr)
        status = UNUSABLE
    except KeyboardInterrupt:
        end_progress()
        print("interrupted", file=sys.stderr)
        status = INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone: nothing to tell it, and no traceback at exit.
        settle_output()
    except OSError as error:
        end_progress()
        print(f"error: {describe_os_error(error)}", file=sys.stderr)
        settle_output()  # it may be stdout that is full
        status = UNUSABLE
    raise SystemExit(status)
