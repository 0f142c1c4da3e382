"""Hands logs to mlperf-logging's checkers, guarded.

The stock compliance checker pastes three logged values into the path of a rule file and executes
what it finds there, so those values are compared with exact lists first. It then sees a copy,
written anew from the parsed lines, in a process of its own with limits on time and memory.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.exits import InputError
from scoring.findings import quote
from scoring.log import Event
from scoring.rules import BENCHMARKS
from scoring.run import Run

TIME_LIMIT_SECONDS = 180
_PROCESS = Path(__file__).parent / "stock_process.py"
_ALLOWED = {
    "submission_division": ("closed", "open"),
    "submission_benchmark": BENCHMARKS,
}
_RESNET_OPTIMIZERS = ("sgd", "lars")


@dataclass(frozen=True)
class StockVerdict:
    """What mlperf-logging said: its version and the convergence answer of each benchmark."""

    version: str
    convergence: dict[str, dict[str, Any]]


def find_package() -> Path:
    """Find the folder of mlperf_logging without importing it; raises InputError without it."""
    spec = importlib.util.find_spec("mlperf_logging")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            "mlperf-logging is not installed in this Python: pip install mlperf-logging==4.1.68"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def check_ruleset(ruleset: str, benchmarks: list[str]) -> None:
    """Check that mlperf-logging ships a ruleset for the benchmarks; raises InputError if not."""
    package = find_package()
    known = sorted(
        path.name.removeprefix("training_")
        for path in (package / "rcp_checker").glob("training_*.*.*")
        if all(_has_rules(package, path.name, benchmark) for benchmark in benchmarks)
    )
    if ruleset not in known:
        raise InputError(
            f"--ruleset {ruleset}: mlperf-logging has no such ruleset with "
            f"{' and '.join(benchmarks)}: there are {', '.join(known)}"
        )


def _has_rules(package: Path, round_name: str, benchmark: str) -> bool:
    rules = package / "compliance_checker" / round_name / f"closed_{benchmark}.yaml"
    return (
        rules.exists()
        and (package / "rcp_checker" / round_name).joinpath(f"rcps_{benchmark}.json").exists()
    )


class StockProcess:
    """The process of the stock checkers: started at once, for it imports for a second, asked once.

    A context manager: whatever happens, the process is gone at its end.
    """

    def __init__(self) -> None:
        find_package()
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "LC_ALL": "C.UTF-8",
            "OPENBLAS_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(_PROCESS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd="/",
        )

    def __enter__(self) -> StockProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """Give the job and take the answer; raises InputError where there is none."""
        try:
            output, errors = self._process.communicate(json.dumps(job), TIME_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            raise InputError(
                f"mlperf-logging's checkers did not finish in {TIME_LIMIT_SECONDS} s on these logs"
            ) from None
        status = self._process.returncode
        if status != 0:
            last = re.sub(r"\s+", " ", errors.strip().rsplit("\n", 1)[-1])
            raise InputError(
                f"mlperf-logging's checkers failed with status {status}: {quote(last, 200)}"
            )
        answer: dict[str, Any] = json.loads(output)
        return answer


def check_compliance(
    process: StockProcess, ruleset: str, runs: list[Run], groups: dict[str, list[Run]]
) -> StockVerdict:
    """Fill `compliant` and its messages of every run, and run the convergence check on groups.

    `groups` are the runs that make a result, by benchmark. Raises InputError where the checkers
    cannot be run at all.
    """
    admitted = [run for run in runs if _admit(run)]
    with tempfile.TemporaryDirectory(prefix="scoring-") as place:
        paths = {run.name: _write_copy(Path(place) / "logs", run) for run in admitted}
        folders = {
            benchmark: _link_group(Path(place) / "groups" / benchmark, members, paths)
            for benchmark, members in groups.items()
            if members and all(run.name in paths for run in members)
        }
        answer = process.ask({"ruleset": ruleset, "logs": list(paths.values()), "groups": folders})
    for run in admitted:
        verdict = answer["compliance"][paths[run.name]]
        run.compliant = verdict["passed"] and not run.log.problems_of("parse-error")
        run.compliance_messages = [
            (run.log.events[index].line if index is not None else None, text)
            for index, text in verdict["messages"]
        ]
    return StockVerdict(answer["version"], answer["convergence"])


def _admit(run: Run) -> bool:
    """Say whether a log may be handed over; fills the run's messages where not."""
    allowed = dict(_ALLOWED)
    names = [event.value for event in run.get_events("submission_benchmark")]
    if run.benchmark == "resnet" or "resnet" in names:
        # The rules of BERT never look an optimizer up, those of ResNet do.
        allowed["opt_name"] = _RESNET_OPTIMIZERS
    refusals: list[tuple[int | None, str]] = [
        (event.line, f"{key} is {quote(event.value)}, not one of {', '.join(values)}")
        for key, values in allowed.items()
        for event in run.get_events(key)
        if event.value not in values
    ]
    run.compliant = False
    run.compliance_messages = refusals
    return bool(run.log.events) and not refusals


def _write_copy(folder: Path, run: Run) -> str:
    # Names of our own: the stock tools treat [ and ] of a path as a pattern.
    path = folder / run.benchmark / f"result_{len(list(folder.glob('*/*')))}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(_format_line(event) for event in run.log.events), encoding="ascii")
    return str(path)


def _link_group(folder: Path, runs: list[Run], paths: dict[str, str]) -> str:
    folder.mkdir(parents=True)
    for index, run in enumerate(runs):
        (folder / f"result_{index}.txt").symlink_to(paths[run.name])
    return str(folder)


def _format_line(event: Event) -> str:
    """Write a log line anew, so that the checker reads exactly what was parsed here."""
    line = {
        "time_ms": event.time_ms,
        "key": event.key,
        "value": event.value,
        "metadata": event.metadata,
    }
    return f":::MLLOG {json.dumps(line)}\n"
