"""Peak memory of a command and everything it starts: `python -m perf.memory COMMAND...`.

Reads the proportional set size (shared pages are divided among their users) of the whole process
tree every 0.2 s, so memory that two ranks share is counted once.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from harness.commands import GOOD, NOT_GOOD, Parser, run_command
from harness.processes import list_descendants

INTERVAL_SECONDS = 0.2


def read_proportional_bytes(pid: int) -> int:
    """Proportional set size of a process, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def measure_peak(command: Sequence[str]) -> tuple[int, int, int]:
    """Run a command; returns (peak bytes of the tree, most processes at once, exit status)."""
    peak = most = 0
    with subprocess.Popen(command, stdout=sys.stderr) as process:
        while process.poll() is None:
            tree = [process.pid, *list_descendants(process.pid)]
            peak = max(peak, sum(map(read_proportional_bytes, tree)))
            most = max(most, len(tree))
            time.sleep(INTERVAL_SECONDS)
    return peak, most, process.returncode


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the command's own output goes to stderr."""
    parser = Parser(prog="python -m perf.memory", description=__doc__)
    parser.add_argument("command", nargs="...", help="what to run")
    command = parser.parse_args(arguments).command
    if not command:
        parser.error("name the command to measure")
    peak, most, status = measure_peak(command)
    print(f"peak {peak / 2**30:.2f} GiB in at most {most} processes, exit status {status}")
    return GOOD if status == 0 else NOT_GOOD


if __name__ == "__main__":
    run_command(main)
