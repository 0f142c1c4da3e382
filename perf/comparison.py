"""One figure, its peer's, and their ratio: processor seconds on a machine that others use too.

Wall time on a shared machine says more about the neighbours than about the code. Processor seconds
of the whole process (user and system, all its threads) repeat within a few percent, and taking
ours and the peer's in turns lets slow stretches hit both.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

from harness.commands import InputError, Parser


@dataclass(frozen=True)
class Comparison:
    """What was measured; ratio = peer / ours, above 1 where ours costs less.

    Where it was measured in turns, ratio is the median of the turns' own ratios, and ratios
    their smallest and largest.
    """

    what: str
    unit: str
    ours: float
    peer_name: str
    peer: float
    ratio: float
    ratios: tuple[float, float] | None
    how: str

    def show(self, as_json: bool) -> None:
        """Print it, as one JSON document or as three lines."""
        if as_json:
            print(json.dumps(asdict(self), indent=1))
            return
        width = max(len(self.what), len(self.peer_name))
        print(f"{self.what:{width}}  {self.ours:12.6g} {self.unit}")
        print(f"{self.peer_name:{width}}  {self.peer:12.6g} {self.unit}")
        spread = "" if self.ratios is None else " ({:.3f} to {:.3f})".format(*self.ratios)
        print(f"{'ratio':{width}}  {self.ratio:12.3f}{spread}")
        print(self.how)


def read_cpu_seconds() -> float:
    """Processor seconds of this process so far, user and system, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True)
class Turns:
    """Processor seconds of ours and of the peer's, turn by turn."""

    ours: tuple[float, ...]
    peer: tuple[float, ...]

    def compare(self, what: str, peer_name: str, per: str, count: int, how: str) -> Comparison:
        """State medians for one of `count` things a turn, and the ratio of neighbours in time."""
        ratios = [peer / ours for ours, peer in zip(self.ours, self.peer, strict=True)]
        return Comparison(
            what=what,
            unit=f"CPU-seconds/{per}",
            ours=statistics.median(self.ours) / count,
            peer_name=peer_name,
            peer=statistics.median(self.peer) / count,
            ratio=statistics.median(ratios),
            ratios=(min(ratios), max(ratios)),
            how=how,
        )


def measure_in_turns(
    ours: Callable[[], None], peer: Callable[[], None], rounds: int, repetitions: int = 1
) -> Turns:
    """Measure `rounds` turns of both, after one unmeasured turn.

    repetitions: calls of ours a turn, whose mean is taken: a turn of ours that is much shorter than
    the peer's would meet other neighbours.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for place, (call, calls) in enumerate(((ours, repetitions), (peer, 1))):
            start = read_cpu_seconds()
            for _ in range(calls):
                call()
            if turn:
                seconds[place].append((read_cpu_seconds() - start) / calls)
    return Turns(tuple(seconds[0]), tuple(seconds[1]))


def add_common_options(parser: Parser, rounds: int) -> None:
    """Add what every measurement takes."""
    parser.add_argument("--rounds", type=int, default=rounds, help="turns of ours and the peer's")
    parser.add_argument("--json", action="store_true")


def check_positive(options: argparse.Namespace, *names: str) -> None:
    """Refuse counts below 1. Raises InputError."""
    for name in names:
        if getattr(options, name) < 1:
            raise InputError(f"--{name} must be at least 1, is {getattr(options, name)}")
