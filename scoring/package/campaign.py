"""Finds what a campaign left: logs, its record, what launcher and ranks wrote, failed attempts."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scoring.exits import InputError
from scoring.findings import make_printable, quote
from scoring.package.layout import get_log_number, is_failed_name
from scoring.rules import BENCHMARKS

RECORD = "campaign.json"
OUTPUT = "output"
FAILED = "failed"
_OUTPUT_NAME = re.compile(r"(resnet|bert)_\d{1,6}\.txt", re.ASCII)
_UNFINISHED_NAME = re.compile(r"\.unfinished_\d{1,6}\.txt", re.ASCII)


@dataclass(frozen=True)
class CampaignFolder:
    """A campaign's folder.

    logs: file names of each benchmark, by number. outputs and failed: paths from the folder, the
    latter of attempts at runs that failed. unfinished: runs that were begun and have no result.
    faults: why these logs are not a whole campaign.
    """

    folder: Path
    logs: dict[str, tuple[str, ...]]
    outputs: tuple[str, ...]
    failed: tuple[str, ...]
    has_record: bool
    unfinished: tuple[str, ...]
    faults: tuple[str, ...]


def find_campaign(results: Path, system: str) -> CampaignFolder:
    """Find the campaign of a system: `results` itself, or its folder named like the system.

    Raises InputError where there is none, or while it is still running.
    """
    for folder in (results, results / system):
        if any((folder / benchmark).is_dir() for benchmark in BENCHMARKS):
            return _list_campaign(folder)
    if not results.is_dir():
        raise InputError(f"--results {results}: no such folder: name the one of the campaign")
    raise InputError(
        f"--results {results}: holds neither resnet/ nor bert/, nor a folder {system} with them"
    )


def _list_campaign(folder: Path) -> CampaignFolder:
    _refuse_running(folder)
    logs: dict[str, tuple[str, ...]] = {}
    faults: list[str] = []
    unfinished: list[str] = []
    for benchmark in BENCHMARKS:
        names = _list_names(folder / benchmark)
        logs[benchmark] = tuple(sorted(filter(_is_log, names), key=_get_number))
        faults += _find_faults(benchmark, names, logs[benchmark])
        unfinished += [f"{benchmark}/{n}" for n in names if _UNFINISHED_NAME.fullmatch(n)]
    outputs = filter(_OUTPUT_NAME.fullmatch, _list_names(folder / OUTPUT))
    failed = filter(is_failed_name, _list_names(folder / FAILED))
    return CampaignFolder(
        folder=folder,
        logs=logs,
        outputs=tuple(f"{OUTPUT}/{name}" for name in outputs),
        failed=tuple(f"{FAILED}/{name}" for name in failed),
        has_record=os.path.lexists(folder / RECORD),
        unfinished=tuple(unfinished),
        faults=tuple(faults),
    )


def _find_faults(benchmark: str, names: list[str], logs: tuple[str, ...]) -> Iterator[str]:
    """Say what hides a run: a log under another name, or a number that is missing."""
    if not logs:
        yield f"{benchmark}: no logs: both benchmarks belong into a package"
    for name in names:
        if re.fullmatch(r"result_.*\.txt", name, re.S) and not _is_log(name):
            shown = make_printable(f"{benchmark}/{name}")
            yield f"{shown}: must be named result_<n>.txt, n from 0: rename or remove it"
    numbers = set(map(_get_number, logs))
    missing = sorted(set(range(max(numbers, default=-1) + 1)) - numbers)
    if missing:
        yield (
            f"{benchmark}/result_{missing[0]}.txt: missing, while there are later runs "
            f"({len(missing)} missing in all): every run's log belongs into a package"
        )


def _is_log(name: str) -> bool:
    return get_log_number(name) is not None


def _get_number(name: str) -> int:
    number = get_log_number(name)
    assert number is not None
    return number


def _list_names(folder: Path) -> list[str]:
    """List a folder's names, sorted; none where it is not there. Raises InputError for a link."""
    if folder.is_symlink():
        raise InputError(f"{quote(str(folder))} is a link: a campaign's folders are no links")
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _refuse_running(folder: Path) -> None:
    """Raise InputError while a campaign holds the folder's lock."""
    try:
        with open(folder / ".lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return
    except BlockingIOError:
        raise InputError(f"a campaign is running in {folder}: wait for its end") from None
