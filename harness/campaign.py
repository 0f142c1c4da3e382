"""The whole campaign: the runs of each benchmark, their logs, the score, the report.

`./run_and_time.sh` is this command in the right environment. Every run is one launch of the
trainer on all ranks; a run counts only if its log ends with run_stop, whatever the launcher's
exit status says (Open MPI's mpirun returns 0 when a node dies).
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from harness.attempts import find_reason
from harness.commands import (
    GOOD,
    NOT_GOOD,
    InputError,
    Parser,
    describe_os_error,
    run_command,
)
from harness.config_command import check_configurations, list_undeliverable
from harness.containers import check_folders, find_image_fault
from harness.files import write_atomically
from harness.launch import BENCHMARKS, ROOT, SYSTEMS, compose_command, compose_tool
from harness.processes import adopt_orphans, run_tree
from harness.results import Results, has_stopped, hash_file, read_run_end
from harness.systems import System, find_system_file, load_system

# A rank's progress lines begin so; they are shown in place on a terminal and not kept in files.
PROGRESS_MARK = "~ "
ERASE = "\r\x1b[K"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of run_and_time.sh."""
    parser = Parser(prog="run_and_time.sh", description=__doc__)
    parser.add_argument(
        "--system", default="demo", help="a name in systems/, or a file (default: demo)"
    )
    parser.add_argument("--benchmark", default="all", choices=(*BENCHMARKS, "all"))
    parser.add_argument("--runs", type=int, help="runs of each benchmark (default: the system's)")
    parser.add_argument("--results", type=Path, default=Path("results"), metavar="DIR")
    parser.add_argument("--resume", action="store_true", help="keep finished runs and go on")
    parser.add_argument("--dry-run", action="store_true", help="print the launch commands only")
    parser.add_argument(
        "--print-runtime", action="store_true", help="print the system's container runtime only"
    )
    options = parser.parse_args(arguments)
    if options.runs is not None and options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


def main(arguments: Sequence[str]) -> int:
    """Run the campaign. Status 0 if all that was asked for is valid, 1 if not."""
    options = parse_arguments(arguments)
    file = find_system_file(options.system, SYSTEMS)
    system = load_system(file)
    if options.print_runtime:
        print(system.container.runtime)
        return GOOD
    benchmarks = list(BENCHMARKS) if options.benchmark == "all" else [options.benchmark]
    check_configurations(file, benchmarks)
    for config in list_undeliverable(system, benchmarks):
        print(
            f"note: {file}: {config} is none of the kit's sources: no package can be made of this "
            "campaign; copy it to resnet/configs or bert/configs and name it there",
            file=sys.stderr,
        )
    results = Results(options.results.absolute() / system.name)
    if options.dry_run:
        return print_commands(system, file, benchmarks, results, options.runs)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    adopt_orphans()
    prepare(system, file, results)
    with results.lock():
        results.open(describe_settings(system, file), benchmarks, options.resume)
        file = copy_system_file(system, file, results)
        make_data(system, results)
        for benchmark in benchmarks:
            if not run_benchmark(system, file, benchmark, results, options.runs):
                return NOT_GOOD
    more = options.runs is not None and any(
        options.runs > system.benchmarks.named(benchmark).runs for benchmark in benchmarks
    )
    return judge(system, results, more)


def describe_settings(system: System, file: Path) -> dict[str, str]:
    """Hash what must not change within a campaign."""
    configs = [system.benchmarks.named(benchmark).config for benchmark in BENCHMARKS]
    for config in configs:
        if not (ROOT / config).is_file():
            raise InputError(f"{file} names {config}, which is not there")
    hashes = {name: hash_file(ROOT / name) for name in configs}
    return {file.name: hash_file(file), **hashes}


def print_commands(
    system: System, file: Path, benchmarks: list[str], results: Results, runs: int | None
) -> int:
    """Print what would be started, a line a run, and start nothing."""
    describe_settings(system, file)
    if system.container.runtime != "none":
        check_folders([results.folder])
    copy = results.folder / f"{system.name}.toml"
    for benchmark in benchmarks:
        for run in range(runs or system.benchmarks.named(benchmark).runs):
            log = results.unfinished_log(benchmark, run)
            print(shlex.join(compose_command(system, copy, benchmark, log)))
    if fault := find_image_fault(system, file):
        print(f"note: this could not start as it stands: {fault}", file=sys.stderr)
    return GOOD


def prepare(system: System, file: Path, results: Results) -> None:
    """Look at the image before anything is started. Raises InputError for a wrong one."""
    if system.container.runtime == "none":
        return
    check_folders([results.folder])
    if fault := find_image_fault(system, file):
        raise InputError(fault)
    if system.container.runtime == "singularity" and not system.container.image_sha256:
        print(f"note: {file}: 'image_sha256' is empty: the image is not checked", file=sys.stderr)


def copy_system_file(system: System, file: Path, results: Results) -> Path:
    """Copy the system file to the results: a record, and what every rank reads."""
    copy = results.folder / f"{system.name}.toml"
    if file != copy:
        with write_atomically(copy, "wb") as written:
            written.write(file.read_bytes())
    return copy


def make_data(system: System, results: Results) -> None:
    """Run the makers of the system's data; each returns at once where its data is there."""
    for maker in system.campaign.make_data:
        command = compose_tool(system, shlex.split(maker), [results.folder])
        end = run_tree(command, Relay(sys.stderr), 3600.0, ROOT)
        if end.status != GOOD:
            raise InputError(f"'python -m {maker}' made no data (it {end.how}): see above")


def run_benchmark(
    system: System, file: Path, benchmark: str, results: Results, runs: int | None
) -> bool:
    """Make the missing runs of a benchmark, in order. False at the first that does not finish."""
    asked = runs or system.benchmarks.named(benchmark).runs
    finished = results.finished_runs(benchmark)
    for run in range(asked):
        if run in finished:
            print(f"{benchmark} run {run + 1} of {asked}: kept", file=sys.stderr)
        elif not run_once(system, file, benchmark, results, run, asked):
            return False
    return True


def run_once(
    system: System, file: Path, benchmark: str, results: Results, run: int, asked: int
) -> bool:
    """Make one run. True if it finished, reaching its target or not; else it is put on record."""
    log, output = results.unfinished_log(benchmark, run), results.output(benchmark, run)
    title = f"{benchmark} run {run + 1} of {asked}"
    command = compose_command(system, file, benchmark, log)
    limit_seconds = 60.0 * system.launch.run_limit_minutes
    try:
        with open(output, "w", encoding="utf-8") as kept:
            relay = Relay(sys.stderr, f"{title}: ", kept)
            launcher = run_tree(command, relay, limit_seconds, ROOT, lambda: has_stopped(log))
    except FileNotFoundError:
        raise InputError(f"launcher '{command[0]}' is not on this machine's PATH") from None
    except OSError as error:
        sentence = f"{describe_os_error(error)} ({output})"
        record_failure(results, benchmark, run, f"was ended: {sentence}", None)
        raise InputError(f"{title} was ended: {sentence}") from None
    except KeyboardInterrupt:
        if read_run_end(log) is None:
            record_failure(results, benchmark, run, "was interrupted (Ctrl-C or SIGTERM)", None)
        raise
    end = read_run_end(log)
    if end is None:
        words = find_reason(output)
        reason = f"it {launcher.how} and logged no run_stop{f'; {words}' if words else ''}"
        print(f"{title} failed: {reason}", file=sys.stderr)
        record_failure(results, benchmark, run, reason, launcher.status)
        print("  mend the cause, then go on with --resume", file=sys.stderr)
        return False
    if launcher.status != (GOOD if end.status == "success" else NOT_GOOD):
        print(f"{title}: note: the launcher {launcher.how}", file=sys.stderr)
    results.keep(benchmark, run)
    accuracy = "no evaluation" if end.accuracy is None else f"accuracy {end.accuracy:.4f}"
    at = "" if end.reached_at is None else f" at {end.reached_at:g}"
    print(f"{title}: {end.status}, {accuracy}{at}, {end.minutes:.3f} min", file=sys.stderr)
    return True


def record_failure(
    results: Results, benchmark: str, run: int, reason: str, status: int | None
) -> None:
    """Put a failed run on record and say where; a full disk leaves that to the next start."""
    try:
        attempt = results.record_failure(benchmark, run, reason, status)
    except OSError as error:
        print(
            f"  not put on record: {describe_os_error(error)}; the next start does it",
            file=sys.stderr,
        )
        return
    print(f"  on record as {results.failed / attempt.name}.*", file=sys.stderr)


def print_failed_attempts(results: Results) -> None:
    """Say which runs failed before others took their place: a result is judged with them."""
    attempts = results.failed_attempts()
    if attempts:
        print(f"failed attempts on record in {results.failed}: {len(attempts)}")
    for attempt in attempts:
        when = "" if attempt.clock_started else " (before run_start)"
        print(f"  {attempt.benchmark} run {attempt.run + 1}{when}: {attempt.reason}")


def judge(system: System, results: Results, more_runs: bool) -> int:
    """Score the logs, write score.json and report.html, print R, B and the score last.

    more_runs: more were made than needed, so the rules' window of consecutive runs is chosen.
    """
    score_file, report = results.folder / "score.json", results.folder / "report.html"
    profile = ["--rfp", system.campaign.profile, *(["--window"] if more_runs else [])]
    scored = run_scoring(system, results, ["score", str(results.folder), *profile, "--json"])
    with write_atomically(score_file) as file:
        file.write(scored.stdout)
    run_scoring(system, results, ["report", str(results.folder), *profile, "--output", str(report)])
    print_failed_attempts(results)
    print_summary(json.loads(scored.stdout), score_file, report)
    return scored.returncode


def run_scoring(
    system: System, results: Results, arguments: list[str]
) -> subprocess.CompletedProcess[str]:
    """Run the scoring tool as its user would. Raises InputError where it cannot do its work."""
    command = compose_tool(system, ["scoring", *arguments], [results.folder])
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode not in (GOOD, NOT_GOOD):
        raise InputError(f"scoring {arguments[0]} failed: {done.stderr.strip()}")
    return done


def print_summary(score: dict[str, object], score_file: Path, report: Path) -> None:
    """Print the findings that count, where the files are, and R, B and the score last."""
    findings = score["findings"]
    assert isinstance(findings, list)
    for finding in findings:
        if finding["severity"] != "note":
            where = ":".join(str(finding[key]) for key in ("file", "line") if finding[key])
            where = f" {where}" if where else ""
            print(f"{finding['severity']}:{where} {finding['message']}", file=sys.stderr)
    print(f"report: {report}\nscore file: {score_file}")
    if score["profile"] == "demo":
        print("DEMONSTRATION: tiny models and made data; no figure below says anything of MLPerf")
    benchmarks = score["benchmarks"]
    assert isinstance(benchmarks, dict)
    for letter, benchmark in (("R", "resnet"), ("B", "bert")):
        if benchmark in benchmarks:
            minutes = benchmarks[benchmark]["latency_minutes"]
            text = "none" if minutes is None else f"{minutes:.4f} min"
            valid = "valid" if benchmarks[benchmark]["valid"] else "NOT VALID"
            print(f"{letter} = {text} ({benchmark}, {valid})")
    value = score["score"]
    text = "none" if value is None else f"{value:.4f}"
    print(f"score = 7.19/R + 9.05/B = {text}")


class Relay:
    """Passes on what a run writes: progress drawn in place, everything else line by line."""

    def __init__(self, screen: TextIO, title: str = "", file: TextIO | None = None) -> None:
        self.screen, self.title, self.file = screen, title, file
        self.terminal = screen.isatty()
        self.drawn = False

    def __call__(self, line: str) -> None:
        """Take one line of a rank."""
        if line.startswith(PROGRESS_MARK):
            text = f"{self.title}{line.removeprefix(PROGRESS_MARK)}"
            self.screen.write(f"{ERASE}{text}" if self.terminal else f"{text}\n")
            self.drawn = self.terminal
        else:
            if self.file is not None:
                self.file.write(f"{line}\n")
                self.file.flush()
            self.screen.write(f"{ERASE if self.drawn else ''}{line}\n")
            self.drawn = False
        self.screen.flush()


if __name__ == "__main__":
    run_command(main)
