"""What can be known before the clock: `python -m harness.preflight --system NAME`.

Starts one process on every rank exactly as a run would be started (launcher, container,
environment), looks at every node, measures network and input, and prints one table with one
verdict. Status 0: all good; 1: something failed, each with its mend; 2: unusable input. No log
is written and nothing of a campaign is touched.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import shutil
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from harness.attempts import choose_reason
from harness.commands import GOOD, NOT_GOOD, InputError, Parser, run_command
from harness.config_command import find_configuration_fault
from harness.containers import find_image_fault
from harness.launch import BENCHMARKS, ROOT, SYSTEMS, compose_ranks
from harness.preflight_checks import END, MARK, Check, describe, judge, read_check, write_table
from harness.processes import adopt_orphans, run_tree
from harness.systems import System, find_system_file, load_system

RESULTS_BYTES = 1 << 30
KEPT_LINES = 1000
STARTED = "ranks started"


class Listener:
    """Takes what the ranks write: checks are kept, the last other lines too, for a fault."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.ended = False
        self.said: deque[str] = deque(maxlen=KEPT_LINES)

    def __call__(self, line: str) -> None:
        """Take one line of a rank."""
        if line.startswith(MARK):
            try:
                self.checks.append(read_check(line))
            except ValueError:
                raise InputError(f"rank 0 wrote what is no check: {line[:100]!a}") from None
        elif line.strip() == END:
            self.ended = True
        elif line.strip():
            print(line, file=sys.stderr)
            self.said.append(line.strip())

    def explain(self) -> str:
        """The most telling line that a rank or the launcher wrote."""
        return choose_reason(list(self.said)) or "nothing was said"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of `python -m harness.preflight`."""
    parser = Parser(prog="python -m harness.preflight", description=__doc__)
    parser.add_argument("--system", required=True, help="a name in systems/, or a file")
    parser.add_argument("--resnet-probe", type=Path, metavar="FILE",
                        help="--json document of `python -m resnet.train probe` on this system, "
                        "which the input alone must be as fast as")  # fmt: skip
    parser.add_argument("--input-seconds", type=_read_seconds, default=5.0, metavar="S",
                        help="how long the input is measured; 0: not at all")  # fmt: skip
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="results folder")
    parser.add_argument("--dry-run", action="store_true", help="print the command line only")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(arguments)


def _read_seconds(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and 0 <= value <= 3600):
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600")
    return value


_read_seconds.__name__ = "duration"


def main(arguments: Sequence[str]) -> int:
    """Start the ranks, gather their checks, print the table and the verdict."""
    options = parse_arguments(arguments)
    file = find_system_file(options.system, SYSTEMS)
    system = load_system(file)
    command = compose_ranks(system, compose_module(file, options), [file.parent])
    if options.dry_run:
        print(shlex.join(command))
        return GOOD
    checks = [*check_host(system, file, options.results.absolute()), *ask_ranks(system, command)]
    if options.json:
        print(json.dumps(describe(system.name, checks), indent=1))
    else:
        print("\n".join(write_table(system.name, checks)))
    return NOT_GOOD if any(check.verdict == "failed" for check in checks) else GOOD


def compose_module(file: Path, options: argparse.Namespace) -> list[str]:
    """What each rank runs, after `python -m`. Raises InputError for a file that is no probe."""
    module = ["harness.preflight", "ranks", "--system", str(file)]
    module += ["--input-seconds", str(options.input_seconds)]
    if options.resnet_probe is not None:
        from harness.prediction_step import read_probe

        probe = read_probe(options.resnet_probe, "resnet", alone=True)
        module += ["--images-per-second", str(probe.batch / probe.seconds)]
    return module


def check_configuration(system: System, file: Path, benchmark: str) -> Check:
    """Whether the ranks can use the configuration that the system file names."""
    fault = find_configuration_fault(file, benchmark)
    found = fault or f"{system.benchmarks.named(benchmark).config} fits the ranks"
    mend = "mend the file, or name another in the system file"
    return judge(f"{benchmark} configuration", fault is None, found, "", mend)


def check_host(system: System, file: Path, results: Path) -> list[Check]:
    """What can be seen where the campaign is started: configurations, image, room for results."""
    checks = [check_configuration(system, file, benchmark) for benchmark in BENCHMARKS]
    if system.container.runtime != "none":
        fault = find_image_fault(system, file)
        stated = system.container.image_sha256
        found = (
            fault or f"{system.container.image}, SHA-256 {'as stated' if stated else 'not stated'}"
        )
        checks.append(judge("image", fault is None, found, "", "build or name the right image"))
    folder = next(place for place in (results, *results.parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    found = f"{free / (1 << 30):,.1f} GiB free in {folder}"
    checks.append(judge("results folder", free >= RESULTS_BYTES, found, ">= 1 GiB",
                        "free space, or name another with --results"))  # fmt: skip
    return checks


def ask_ranks(system: System, command: list[str]) -> list[Check]:
    """Start the ranks and take their checks; a start that fails is a check that failed."""
    adopt_orphans()
    listener = Listener()
    limit_seconds = 60.0 * system.launch.run_limit_minutes
    try:
        end = run_tree(command, listener, limit_seconds, ROOT, lambda: listener.ended)
    except FileNotFoundError:
        raise InputError(f"launcher '{command[0]}' is not on this machine's PATH") from None
    if listener.ended:
        return listener.checks
    known = [check.name for check in listener.checks]
    name = f"after '{known[-1]}'" if known else STARTED
    mend = "mend what the sentence says; start the printed command by hand (--dry-run) to see more"
    found = f"the launcher {end.how}: {listener.explain()}"
    return [*listener.checks, Check(name, "failed", found, "all checks made on all ranks", mend)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["ranks"]:
        from harness import preflight_ranks
        from harness.trainer import run_trainer

        run_trainer(lambda arguments: preflight_ranks.main(arguments[1:]))
    run_command(main)
