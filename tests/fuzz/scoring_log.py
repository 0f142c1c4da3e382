"""Fuzzes the log reader with the scoring behind it: `python -m tests.fuzz.scoring_log`.

Each execution damages a log, reads it, and looks at what came out; every WHOLE_EVERY-th judges it
among sound runs too, writes the verdict in words and as JSON. Nothing may raise, whatever the log.
"""

from __future__ import annotations

import json
import lzma
import sys
from pathlib import Path
from random import Random

from scoring.log import PROBLEMS_SHOWN, RunLog, parse_log
from scoring.prose import write_prose
from tests.fuzz.damage import PIECES, damage_bytes, damage_lines
from tests.fuzz.loop import Damaged, Execute, run_fuzzer
from tests.scoring.conftest import encode_line, make_lines
from tests.scoring.judging import judge_runs, read_run

WHOLE_EVERY = 50
RUNS = {"resnet": 5, "bert": 10}
SEED_LINES = 60
PUBLISHED = Path(__file__).parents[3] / "shared" / "logs"


def make_logs(benchmark: str) -> list[list[bytes]]:
    """Make sound logs of a benchmark, as lines."""
    return [
        [encode_line(line) for line in make_lines(benchmark, index)]
        for index in range(RUNS[benchmark])
    ]


def read_published_pieces(limit: int = 6) -> list[list[bytes]]:
    """Give stretches of published logs, where these stand beside the checkout."""
    paths = sorted(PUBLISHED.glob("v*/*/*/*/result_1.txt.xz"))[:limit]
    logs = [lzma.decompress(path.read_bytes()).splitlines(keepends=True) for path in paths]
    return [log[-SEED_LINES:] for log in logs]


def damage_log(random: Random, seeds: list[list[bytes]]) -> bytes:
    """Choose a stretch of a log and damage it a few times, by lines or by bytes."""
    lines = random.choice(seeds)
    if len(lines) > SEED_LINES and random.random() < 0.9:
        start = random.randrange(len(lines) - 9)
        lines = lines[start : start + random.randrange(1, 10)]
    for _ in range(random.randrange(1, 5)):
        lines = damage_lines(random, lines)
    content = b"".join(lines)
    for _ in range(random.randrange(3)):
        content = damage_bytes(random, content)
    return content if random.random() < 0.95 else content + random.choice(PIECES)


def check_log(log: RunLog, content: bytes) -> None:
    """Check what the reader gave: line numbers that are there, sentences of one line, bounds."""
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
    assert all(1 <= event.line <= lines for event in log.events)
    assert len(log.problems) <= PROBLEMS_SHOWN + 4
    for problem in log.problems:
        assert problem.line is None or 1 <= problem.line <= lines
        assert problem.message.isprintable()
        assert len(problem.message) < 200
    assert log.events or log.problems


def make_fuzzer() -> Execute:
    """Make the function that runs one execution."""
    sound = {benchmark: make_logs(benchmark) for benchmark in RUNS}
    seeds = [log for logs in sound.values() for log in logs[:2]] + read_published_pieces()
    runs = {
        benchmark: [read_run(benchmark, f"result_{i}.txt", b"".join(log)) for i, log in rest]
        for benchmark, logs in sound.items()
        for rest in [list(enumerate(logs))[1:]]
    }

    def execute(random: Random, number: int) -> None:
        whole = number % WHOLE_EVERY == 0
        benchmark = random.choice(tuple(RUNS))
        content = damage_log(random, [sound[benchmark][0]] if whole else seeds)
        if whole and random.random() < 0.5:
            lines = sound[benchmark][0]
            for _ in range(random.randrange(1, 4)):
                lines = damage_lines(random, lines)
            content = b"".join(lines)
        try:
            check_log(parse_log("resnet/result_0.txt", content), content)
            if whole:
                damaged = read_run(benchmark, "result_0.txt", content)
                score = judge_runs(benchmark, [damaged, *runs[benchmark]])
                assert write_prose(score)
                json.dumps(score.describe(), allow_nan=False)
                assert all(finding.message.isprintable() for finding in score.findings)
        except Exception as error:
            raise Damaged(content) from error

    return execute


if __name__ == "__main__":
    sys.exit(run_fuzzer("Fuzz the log reader and the scoring behind it.", make_fuzzer, 100_000))
