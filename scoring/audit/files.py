"""Checks of the files themselves: can they be read, are they complete, how are they named."""

from __future__ import annotations

from collections.abc import Iterator

from scoring.findings import Finding
from scoring.submission import Result, get_run_number


def check_problems(result: Result) -> Iterator[Finding]:
    """Report what the reader met: broken lines, NUL bytes, no log lines, foreign bytes."""
    for run in result.runs:
        for problem in (*run.log.problems, *run.find_value_problems()):
            yield run.remark(problem.rule, problem.message, problem.line)


def check_markers_there(result: Result) -> Iterator[Finding]:
    """Report a run without run_start or run_stop, or with a stop that is not after the start."""
    for run in result.runs:
        if not run.log.events:
            continue
        for key in ("init_start", "init_stop", "run_start", "run_stop"):
            if not run.get_events(key):
                yield run.remark("marker-missing", f"no {key}", run.log.events[-1])
        if run.start and run.stop and run.minutes is None:
            message = "run_stop is not stamped after run_start: the run has no length"
            yield run.remark("marker-missing", message, run.stop)


def check_names(result: Result) -> Iterator[Finding]:
    """Note files not called result_<n>.txt, and numbers that are not in the order of launch."""
    numbered = []
    for run in result.runs:
        number = get_run_number(run.name)
        if number is None:
            yield run.remark("file-names", "the file is not called result_<number>.txt")
        elif run.initialisation or run.start:
            numbered.append((number, run))
    by_number = [run for _, run in sorted(numbered, key=lambda pair: pair[0])]
    by_time = sorted(by_number, key=lambda run: run.launch_ms)
    if by_number != by_time:
        names = ", ".join(run.name.rsplit("/", 1)[-1] for run in by_time)
        yield Finding("file-order", f"by launch time the order is {names}", result.benchmark)


def check_scaling_file(result: Result) -> Iterator[Finding]:
    """Report a delivered scaling.json: the factor is computed here and never read."""
    if result.has_scaling_file:
        yield Finding(
            "planted-scaling",
            "a scaling.json was delivered; it is not read, but the stock tools would apply it",
            result.benchmark,
            f"{result.benchmark}/scaling.json",
        )
