"""Reads the examined folder: `resnet/` and `bert/` with result_*.txt, and system.json."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scoring.exits import InputError
from scoring.log import LineError, parse_json, read_bounded, read_log, stays_inside
from scoring.profile import Profile
from scoring.rules import BENCHMARKS
from scoring.run import Run

SYSTEM_FILE = "system.json"
SYSTEM_LIMIT_BYTES = 1 << 20
RUN_FILE_LIMIT = 200
VALUE_LIMIT = 5_000_000
_NUMBER = re.compile(r"result_(\d{1,9})\.txt")
_PACKED = re.compile(r"result_.*\.txt\.(gz|xz|bz2|zst|zip)", re.DOTALL)


@dataclass(frozen=True)
class Result:
    """All runs of one benchmark, with what they are judged by.

    system_problem: why there is no system description although there is a file for it.
    other_runs: those of the other benchmark. packed: names of compressed logs, which are not read.
    """

    benchmark: str
    runs: list[Run]
    profile: Profile
    system: dict[str, Any] | None
    folder_name: str
    has_scaling_file: bool
    system_problem: str | None = None
    other_runs: list[Run] = field(default_factory=list)
    packed: tuple[str, ...] = ()

    @property
    def runs_needed(self) -> int:
        """Give the number of runs that make a result."""
        return self.profile.get_runs(self.benchmark)

    @property
    def node_count(self) -> int | None:
        """Give the nodes the system description states."""
        return read_count(self.system, "number_of_nodes")

    @property
    def accelerator_count(self) -> int | None:
        """Give nodes times accelerators per node of the system description."""
        per_node = read_count(self.system, "accelerators_per_node")
        return self.node_count * per_node if self.node_count and per_node else None


@dataclass(frozen=True)
class Submission:
    """The examined folder: its results by benchmark and the system description, if any."""

    folder: Path
    results: dict[str, Result]
    system: dict[str, Any] | None


def read_count(system: dict[str, Any] | None, key: str) -> int | None:
    """Read a positive whole number that a system description gives as text or number."""
    return parse_count(system.get(key)) if system else None


def parse_count(value: Any) -> int | None:
    """Take a positive whole number, given as text or number; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    match = re.fullmatch(r"\s*(\d{1,6})\s*", text, re.ASCII)
    return int(match.group(1)) or None if match else None


def get_run_number(name: str) -> int | None:
    """Give n of result_<n>.txt, None for another name."""
    match = _NUMBER.fullmatch(os.path.basename(name))
    return int(match.group(1)) if match else None


def read_submission(folder: Path, profile: Profile) -> Submission:
    """Read all run logs of a folder.

    Raises InputError where the folder or its benchmarks cannot be read; a system.json that cannot
    be is a finding, and the runs are judged all the same.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder: name one that holds resnet/ or bert/")
    system, system_problem = _read_system(folder)
    results = {}
    for benchmark in BENCHMARKS:
        place = folder / benchmark
        if not place.exists():
            continue
        if not place.is_dir() or not stays_inside(place, folder):
            raise InputError(f"{place}: must be a folder, not a file or a link out of {folder}")
        results[benchmark] = Result(
            benchmark=benchmark,
            runs=_read_runs(folder, place, benchmark),
            profile=profile,
            system=system,
            folder_name=folder.resolve().name,
            has_scaling_file=os.path.lexists(place / "scaling.json"),
            system_problem=system_problem,
            packed=tuple(sorted(p.name for p in place.iterdir() if _PACKED.fullmatch(p.name))),
        )
    for one in results.values():
        for other in results.values():
            one.other_runs.extend(other.runs if other is not one else [])
    if not results:
        raise InputError(f"{folder}: holds neither resnet/ nor bert/ with result_*.txt")
    return Submission(folder, results, system)


def _read_runs(root: Path, place: Path, benchmark: str) -> list[Run]:
    paths = sorted(
        (path for path in place.iterdir() if re.fullmatch(r"result_.*\.txt", path.name, re.S)),
        key=lambda path: (_sort_key(path.name), path.name),
    )
    if len(paths) > RUN_FILE_LIMIT:
        raise InputError(f"{place}: holds {len(paths)} result_*.txt, more than {RUN_FILE_LIMIT}")
    runs: list[Run] = []
    for path in paths:
        runs.append(Run(benchmark, read_log(path, root)))
        if sum(run.log.value_count for run in runs) > VALUE_LIMIT:
            raise InputError(f"{place}: the logs hold more than {VALUE_LIMIT} values in all")
    return runs


def _sort_key(name: str) -> int:
    number = get_run_number(name)
    return number if number is not None else 10**9


def _read_system(folder: Path) -> tuple[dict[str, Any] | None, str | None]:
    """Read the system description: (description, None), (None, why not), or nothing at all."""
    path = folder / SYSTEM_FILE
    if not os.path.lexists(path):
        return None, None
    try:
        system = parse_json(read_bounded(path, folder, SYSTEM_LIMIT_BYTES), allow_repeated=True)
    except LineError as error:
        return None, f"cannot be used: {error}"
    if not isinstance(system, dict):
        return None, "holds no JSON object"
    return system, None
