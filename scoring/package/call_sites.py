"""The step of the log lines' origin: each names a call in the delivered source that writes it.

Every line of a log carries the file and line of the trainer's call. For a package made with the
kit they must point at a call of the run's clock that writes this very key: a line that was put in
by hand, or a source that is not the one that ran, seldom does.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scoring.findings import Finding, quote
from scoring.log import Event
from scoring.package.configuration import get_logged_keys
from scoring.package.examination import Check, Material, conclude, skip
from scoring.run import Run

TIME_LIMIT_SECONDS = 60
FILES_LIMIT = 20
_PROCESS = Path(__file__).parent / "call_site_process.py"
# The keys that each method of the run's clock writes (harness/runclock.py); `log` writes the key
# that it is given.
CLOCK_KEYS = {
    "log_submission": (
        *("submission_benchmark", "submission_org", "submission_division"),
        *("submission_status", "submission_platform"),
    ),
    "log_cache_clear": ("cache_clear",),
    "start_init": ("init_start",),
    "start_run": ("init_stop", "run_start"),
    "start_block": ("block_start",),
    "stop_block": ("block_stop",),
    "start_epoch": ("epoch_start",),
    "stop_epoch": ("epoch_stop",),
    "start_evaluation": ("eval_start",),
    "stop_evaluation": ("eval_stop", "eval_accuracy"),
    "stop_run": ("run_stop",),
}
_ANY_KEY = "log"

# By file and line, what may be logged there: keys, or None for the keys of a configuration.
Sites = dict[tuple[str, int], set[str | None]]


def check_call_sites(material: Material) -> Check:
    """Compare file and line of every log line with the calls in the delivered source."""
    if not material.all_runs:
        return skip("call sites", "there are no logs to compare with the source")
    files = {name: _list_files(material, name, runs) for name, runs in material.runs.items()}
    calls = _list_calls([str(path) for paths in files.values() for path in paths.values()])
    findings: list[Finding] = []
    for benchmark, runs in material.runs.items():
        sites, problems = _find_sites(material, benchmark, files[benchmark], calls)
        findings.extend(problems)
        for run in runs:
            findings.extend(_check_run(run, sites, get_logged_keys(benchmark)))
    count = sum(len(run.log.events) for run in material.all_runs)
    good = f"each of {count} log lines names a call in the delivered source that writes its key"
    return conclude("call sites", findings, good)


def _list_files(material: Material, benchmark: str, runs: list[Run]) -> dict[str, Path]:
    """Find the delivered files that log lines name, by that name."""
    files = (event.metadata.get("file") for run in runs for event in run.log.events)
    named = {file for file in files if isinstance(file, str)}
    there = [path for path in material.list_source(benchmark) if path.endswith(".py")]
    return {
        path: material.package.folder / material.locate_source_file(benchmark, path)
        for path in [path for path in there if path in named][:FILES_LIMIT]
    }


def _find_sites(
    material: Material, benchmark: str, files: dict[str, Path], answer: dict[str, Any]
) -> tuple[Sites, list[Finding]]:
    """Find the calls of files that may write a log line, and the files that cannot be parsed."""
    sites: Sites = {}
    problems = []
    for file, place in files.items():
        calls = answer.get(str(place), "ended its parser")
        if isinstance(calls, str):
            message = f"the source file {calls}, so its lines cannot be compared"
            path = material.locate_source_file(benchmark, file)
            problems.append(Finding("call-site", message, benchmark, path))
            continue
        for first, last, method, text in calls:
            keys = (text,) if method == _ANY_KEY else CLOCK_KEYS.get(method, ())
            for line in range(first, last + 1):
                sites.setdefault((file, line), set()).update(keys)
    return sites, problems


def _list_calls(paths: list[str]) -> dict[str, Any]:
    """Parse files in a process of their own; one that brings it to its end stands alone."""
    if not paths:
        return {}
    command = [sys.executable, "-I", str(_PROCESS), *paths]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=TIME_LIMIT_SECONDS, check=False, cwd="/", env={}
        )
        if done.returncode == 0:
            answer: dict[str, Any] = json.loads(done.stdout)
            return answer
    except subprocess.TimeoutExpired:
        pass
    if len(paths) == 1:
        return {}
    middle = len(paths) // 2
    return {**_list_calls(paths[:middle]), **_list_calls(paths[middle:])}


def _check_run(run: Run, sites: Sites, logged_keys: frozenset[str]) -> Iterator[Finding]:
    """Report the log lines that no call can have written, those of one place together."""
    wrong: dict[tuple[str, str], list[Event]] = {}
    for event in run.log.events:
        file, line = event.metadata.get("file"), event.lineno
        keys = sites.get((file, line)) if isinstance(file, str) and line is not None else None
        if keys and (event.key in keys or (None in keys and event.key in logged_keys)):
            continue
        place = f"{quote(file, 60)[1:-1]}:{line}" if isinstance(file, str) else "no file"
        wrong.setdefault((event.key, place), []).append(event)
    for (key, place), events in wrong.items():
        more = f" ({len(events) - 1} more lines like it)" if len(events) > 1 else ""
        message = f"{quote(key)} says it was logged at {place}, where no call writes it{more}"
        yield run.remark("call-site", message, events[0])
