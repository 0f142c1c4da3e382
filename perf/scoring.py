"""Scoring, measured: `python -m scoring` against the stock tools that a reviewer would run.

The stock route is a process for each step, as their documentation has it: compliance_checker for
each log, rcp_checker for each benchmark, and, where there is a system description, package_checker
and result_summarizer for the whole. Both routes get the same logs; the stock tools get copies, for
they write beside them. They also execute what a log names: measure with logs that you trust.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.commands import GOOD, InputError, Parser, run_command
from perf.comparison import Turns, add_common_options, check_positive

ROOT = Path(__file__).parents[1]
BENCHMARKS = ("resnet", "bert")
STOCK = "mlperf_logging"
NAME = "system"


@dataclass(frozen=True)
class Spent:
    """What commands took together: processor seconds of all processes, and wall seconds."""

    processor_seconds: float
    wall_seconds: float


def list_stock_commands(package: Path, ruleset: str) -> list[list[str]]:
    """List the stock tools' commands for a package: modules and their arguments."""
    results = package / "results" / NAME
    folders = [results / name for name in BENCHMARKS if (results / name).is_dir()]
    logs = [log for folder in folders for log in sorted(folder.glob("result_*.txt"))]
    commands = [["compliance_checker", "--ruleset", ruleset, str(log)] for log in logs]
    commands += [["rcp_checker", str(folder), "--rcp_version", ruleset] for folder in folders]
    if (package / "systems" / f"{NAME}.json").exists():
        table = str(package.parent / "summary.csv")
        commands.append(["package_checker", str(package), "training", ruleset])
        commands.append(
            ["result_summarizer", str(package), "training", ruleset, "--csv", table],
        )
    return [[f"{STOCK}.{module}", *arguments] for module, *arguments in commands]


def list_logs(commands: Sequence[Sequence[str]]) -> list[str]:
    """List the logs that commands of the stock compliance checker name."""
    return [command[-1] for command in commands if command[0] == f"{STOCK}.compliance_checker"]


def copy_package(folder: Path, place: Path) -> Path:
    """Copy logs into the layout that the stock tools read, below `place`; raises InputError."""
    package = place / "submitter"
    found = [name for name in BENCHMARKS if (folder / name).is_dir()]
    for name in found:
        target = package / "results" / NAME / name
        target.mkdir(parents=True)
        for log in sorted((folder / name).glob("result_*.txt")):
            shutil.copyfile(log, target / log.name)
    if not list(package.rglob("result_*.txt")):
        raise InputError(f"{folder}: holds no resnet/ or bert/ with result_*.txt")
    if (folder / "system.json").is_file():
        (package / "systems").mkdir()
        shutil.copyfile(folder / "system.json", package / "systems" / f"{NAME}.json")
    return package


def run_processes(commands: Sequence[Sequence[str]], folder: Path) -> Spent:
    """Run Python modules one after the other in `folder`, and say what they took.

    Raises InputError where one crashes, or ends with another status than 0 or 1: its time would be
    that of another thing.
    """
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, 1) or "Traceback" in done.stderr:
            last = (done.stderr.strip().split("\n") or [""])[-1]
            raise InputError(f"{command[0]} failed on these logs: {last[:200]}")
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(spent, wall)


def measure(options: argparse.Namespace) -> int:
    """Measure both routes in turns and print the ratio."""
    check_positive(options, "rounds")
    folder: Path = options.logs.resolve()
    ours_arguments = ["scoring", options.command, str(folder), "--ruleset", options.ruleset]
    ours_arguments += ["--rfp", options.rfp]
    ours: list[Spent] = []
    stock: list[Spent] = []
    with tempfile.TemporaryDirectory(prefix="perf-scoring-") as place:
        if options.command == "report":
            ours_arguments += ["--output", str(Path(place) / "report.html")]
        package = copy_package(folder, Path(place))
        commands = list_stock_commands(package, options.ruleset)
        for _ in range(options.rounds):
            ours.append(run_processes([ours_arguments], ROOT))
            stock.append(run_processes(commands, Path(place)))
            # Made by the stock tools, and read by them the next time.
            for made in package.rglob("scaling.json"):
                made.unlink()
    turns = Turns(*(tuple(s.processor_seconds for s in side) for side in (ours, stock)))
    walls = [min(spent.wall_seconds for spent in side) for side in (ours, stock)]
    steps = f"{len(commands)} processes of mlperf-logging"
    how = (
        f"{len(list_logs(commands))} logs of {options.logs}, ruleset {options.ruleset}, "
        f"{options.rounds} turns; processor seconds of all processes, their start included; "
        f"shortest wall time {walls[0]:.2f} s against {walls[1]:.2f} s"
    )
    what = f"python -m scoring {options.command}"
    turns.compare(what, steps, "result", 1, how).show(options.json)
    return GOOD


def main(arguments: Sequence[str]) -> int:
    """Read the command line and measure."""
    parser = Parser(prog="python -m perf.scoring", description=__doc__)
    parser.add_argument("--logs", type=Path, default=ROOT / "results" / "demo", metavar="DIR")
    parser.add_argument("--command", choices=("score", "report"), default="score")
    parser.add_argument("--rfp", default="demo", metavar="NAME", help="profile (demo)")
    parser.add_argument("--ruleset", default="4.0.0")
    add_common_options(parser, rounds=3)
    return measure(parser.parse_args(arguments))


if __name__ == "__main__":
    run_command(main)
