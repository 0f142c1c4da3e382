"""`python -m scoring watch DIR`: the verdict so far, while a campaign runs."""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator

from scoring.commands.arguments import add_rule_arguments, get_profile, read_path
from scoring.exits import NOT_VALID, VALID, InputError
from scoring.findings import Finding, make_printable
from scoring.outlook import compute_convergence_so_far, compute_latency_so_far
from scoring.profile import DEFAULT
from scoring.prose import DEMONSTRATION, LETTERS, NAMES, format_minutes, locate, write_prose
from scoring.run import Run
from scoring.underway import RunUnderWay
from scoring.verdict import Verdict
from scoring.watcher import Look, Watcher

HELP = "show the verdict so far while a campaign runs"
INTERVAL_SECONDS = 10.0
SHORTEST_SECONDS, LONGEST_SECONDS = 0.1, 3600.0
SILENCE_SHOWN_SECONDS = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command reads from its line."""
    parser.add_argument("folder", metavar="DIR", type=read_path, help="holds resnet/ and/or bert/")
    add_rule_arguments(parser, DEFAULT, window=False)
    parser.add_argument(
        "--interval", type=read_interval, default=INTERVAL_SECONDS, metavar="SECONDS"
    )
    parser.add_argument("--once", action="store_true", help="look once and leave")


def read_interval(text: str) -> float:
    """Read seconds between two looks. Raises ArgumentTypeError for what is none."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise argparse.ArgumentTypeError(
            f"must be seconds from {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g}, is {text!r}"
        )
    return seconds


def run(options: argparse.Namespace) -> int:
    """Watch a campaign until it is complete; the status is then that of its score."""
    watcher = Watcher(options.folder, options.ruleset, get_profile(options))
    screen = Screen()
    if watcher.profile.demonstration:
        screen.say([DEMONSTRATION])
    while True:
        look = watcher.look(time.time())
        if options.once and look.score is None:
            raise InputError(f"{options.folder}: holds neither resnet/ nor bert/ with runs")
        screen.say(write_news(look))
        if look.complete and look.score:
            screen.show([])
            print(f"\ncomplete:\n\n{write_prose(look.score)}", end="")
            return VALID if look.score.valid else NOT_VALID
        screen.show(list(write_state(look)))
        if options.once:
            return NOT_VALID
        time.sleep(options.interval)


class Screen:
    """Prints news for good, and the state below it: anew in its place on a terminal.

    Elsewhere a line of the state is printed when it changes in more than its times.
    """

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._shown: list[str] = []

    def say(self, lines: list[str]) -> None:
        """Print lines that stay."""
        if lines:
            self._wipe()
            self._print(lines)

    def show(self, state: list[tuple[str, str]]) -> None:
        """Show the state: lines, each in two parts, of which the second one only holds times."""
        lines = [f"{text}{times}" for text, times in state]
        if self._terminal:
            width = shutil.get_terminal_size().columns
            # Wrapped here, so that the lines to go up are the lines of the screen.
            rows = [
                row
                for line in map(make_printable, lines)
                for row in textwrap.wrap(line, max(width - 1, 20), subsequent_indent="    ")
            ]
            self._wipe()
            self._print(rows)
            self._shown = rows
            return
        texts = [text for text, _ in state]
        pairs = zip(texts, lines, strict=True)
        self._print([line for text, line in pairs if text not in self._shown])
        self._shown = texts

    def _wipe(self) -> None:
        if self._terminal and self._shown:
            # Up to the first line shown, and clear from there to the end of the screen.
            print(f"\x1b[{len(self._shown)}F\x1b[J", end="")
            self._shown = []

    @staticmethod
    def _print(lines: list[str]) -> None:
        for line in lines:
            print(make_printable(line))
        sys.stdout.flush()


def write_news(look: Look) -> list[str]:
    """Write a line for each run that finished and each finding that is new."""
    lines = [_write_run(finished) for finished in look.new_runs]
    return lines + [_write_finding(finding) for finding in look.new_findings]


def _write_run(finished: Run) -> str:
    parts = [format_minutes(finished.minutes)]
    point = finished.convergence_point
    if point is not None:
        parts.append(f"{_format_point(finished.benchmark, point)} to converge")
    evaluations = finished.evaluations_by_time
    if evaluations:
        parts.append(f"accuracy {evaluations[-1].accuracy:.4f}")
    if finished.unusable:
        parts.append(f"UNUSABLE: {finished.unusable[0][1]}")
    return f"{finished.name}: {', '.join(parts)}"


def _write_finding(finding: Finding) -> str:
    return f"  {finding.severity} {finding.rule}: {locate(finding)}: {finding.message}"


def _format_point(benchmark: str, point: float) -> str:
    return f"{point:.4g} epochs" if benchmark == "resnet" else f"{point:,.0f} samples"


def write_state(look: Look) -> Iterator[tuple[str, str]]:
    """Write the state so far: (text, times) for each line."""
    if look.score is None:
        yield "no run yet: waiting for resnet/ or bert/", ""
        return
    for verdict in look.score.verdicts.values():
        yield from _write_verdict(verdict)
    for under_way in look.under_way:
        yield _write_under_way(under_way)


def _write_verdict(verdict: Verdict) -> Iterator[tuple[str, str]]:
    name, result = verdict.result.benchmark, verdict.result
    there, needed = len(result.runs), result.runs_needed
    head = f"{NAMES[name]}: {there} of {needed} runs"
    if not there:
        yield head, ""
        return
    missing = needed - there
    if missing <= 0:
        state = "valid" if verdict.valid else "NOT VALID"
        yield f"{head}, {LETTERS[name]} = {format_minutes(verdict.latency_minutes)}, {state}", ""
    else:
        soon = compute_latency_so_far(result.runs)
        what = f"mean of {soon.kept} of {there}" if soon.minutes is not None else "too many failed"
        yield (
            f"{head}, {LETTERS[name]} so far = {format_minutes(soon.minutes)} "
            f"(provisional: {what}, {missing} missing)",
            "",
        )
    yield from _write_convergence(verdict)


def _write_convergence(verdict: Verdict) -> Iterator[tuple[str, str]]:
    name = verdict.result.benchmark
    soon = compute_convergence_so_far(verdict)
    if soon is None:
        if verdict.result.profile.rcp_test:
            yield f"  convergence so far: no verdict ({verdict.convergence.message})", ""
        return
    mean, minimum = _format_point(name, soon.mean), _format_point(name, soon.minimum)
    figures = f"(mean {mean}, smallest allowed {minimum})"
    if soon.chance is None:
        yield f"  convergence: {'passes' if soon.would_pass else 'FAILS, too fast'} {figures}", ""
        return
    outcome = "would pass" if soon.would_pass else "WOULD FAIL, too fast,"
    chance = f"{_write_chance(soon.chance)} likely to pass with {verdict.result.runs_needed}"
    yield f"  convergence so far: {outcome} with these runs alone {figures}; {chance}", ""


def _write_chance(chance: float) -> str:
    percent = round(100 * chance)
    if percent < 1:
        return "less than 1 %"
    return "more than 99 %" if percent > 99 else f"about {percent} %"


def _write_under_way(under_way: RunUnderWay) -> tuple[str, str]:
    run = under_way.run
    text = f"  {run.name}: "
    silent = ""
    if under_way.silent_seconds > SILENCE_SHOWN_SECONDS:
        silent = f", silent for {_format_time(under_way.silent_seconds)}"
    if not under_way.started:
        return f"{text}initialising", f", {_format_time(under_way.elapsed_seconds)}{silent}"
    if under_way.accuracy is not None and under_way.point is not None:
        point = _format_point(run.benchmark, under_way.point)
        text += f"accuracy {under_way.accuracy:.4f} at {point}"
    else:
        text += "not evaluated yet"
    if under_way.ended:
        return f"{text}, ended and waiting for its name", ""
    times = f", {_format_time(under_way.elapsed_seconds)} on the clock"
    if under_way.remaining_seconds is not None:
        times += f", about {_format_time(under_way.remaining_seconds)} left"
    return text, times + silent


def _format_time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
