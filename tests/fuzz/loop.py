"""What the fuzzers share: the loop, the limits on memory and time, and the input that broke it.

Every execution has a random generator of its own, made from seed and number, so that one can be
repeated alone: `--seed S --first N --executions 1`.
"""

from __future__ import annotations

import argparse
import faulthandler
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

MEMORY_LIMIT_BYTES = 2 << 30
HANG_SECONDS = 120
REARM_SECONDS = 5
REPORT_SECONDS = 30

Execute = Callable[[Random, int], None]


class Damaged(Exception):
    """An execution failed; holds the input that did it."""

    def __init__(self, content: bytes) -> None:
        super().__init__("the reader failed on this input")
        self.content = content


def limit_memory(more_bytes: int) -> None:
    """Let this process take so much more address space than it has now.

    What libraries reserve on import is not the readers': torch with CUDA's takes 3 GiB.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more_bytes, hard))


def run_executions(execute: Execute, seed: int, first: int, executions: int) -> float:
    """Run executions first, first + 1, ...; gives the seconds it took. Raises what one raises."""
    started = reported = now = time.monotonic()
    armed = started - REARM_SECONDS
    try:
        for number in range(first, first + executions):
            if now - armed >= REARM_SECONDS:
                # An execution that hangs ends the process with a traceback; arming takes long.
                faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
                armed = now
            execute(Random(seed << 40 | number), number)
            now = time.monotonic()
            if now - reported > REPORT_SECONDS:
                reported = now
                rate = (number + 1 - first) / (now - started)
                print(f"{number + 1 - first} executions, {rate:.0f}/s", file=sys.stderr)
    finally:
        faulthandler.cancel_dump_traceback_later()
    return time.monotonic() - started


def run_fuzzer(description: str, make: Callable[[], Execute], default: int) -> int:
    """Run a fuzzer's command line; 0 where nothing failed, 1 where an input was found."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--executions", type=int, default=default, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first one")
    parser.add_argument("--save", type=Path, metavar="FILE", help="where to write what broke it")
    options = parser.parse_args()
    limit_memory(MEMORY_LIMIT_BYTES)
    execute = make()
    reached = options.first

    def count(random: Random, number: int) -> None:
        nonlocal reached
        reached = number
        execute(random, number)

    try:
        seconds = run_executions(count, options.seed, options.first, options.executions)
    except Damaged as damaged:
        traceback.print_exc()
        if options.save:
            options.save.write_bytes(damaged.content)
        print(f"failed: --seed {options.seed} --first {reached} --executions 1")
        return 1
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    print(
        f"{options.executions} executions from seed {options.seed}, number {options.first}: "
        f"nothing failed, {seconds:.0f} s, peak memory {peak_bytes >> 20} MiB"
    )
    return 0
