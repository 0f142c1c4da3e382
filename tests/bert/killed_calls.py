"""Calls killed with SIGKILL at random moments and made again: `python -m tests.bert.killed_calls`.

A process of its own, because only one without threads may fork safely. Prints how many calls were
killed; fails where a folder ends with other bytes than that of a call that nobody killed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bert.manifest import read_manifest
from bert.prepare_data_parts import create_data
from bert.prepare_data_shuffle import shuffle_data
from tests.bert.small_data import SMALL, hash_files, write_texts, write_vocabulary

MOST_CALLS = 200  # a call may end before it is killed, and does not count then

Call = Callable[[Path], object]


def start(call: Call, folder: Path) -> int:
    """Start a call in a process of its own, in silence; returns the process's number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        call(folder)
        status = 0
    finally:
        os._exit(status)


def measure_seconds(call: Call, folder: Path) -> float:
    """Return how long a call takes that nobody kills."""
    began = time.monotonic()
    _, status = os.waitpid(start(call, folder), 0)
    assert status == 0
    return time.monotonic() - began


def kill_calls(call: Call, place: Path, kills: int, moments: random.Random) -> int:
    """Kill calls until so many were; compare the bytes whenever one gets to its end."""
    call(place / "whole")
    seconds = measure_seconds(call, place / "whole 2")
    wanted = hash_files(place / "whole")
    killed = 0
    for _ in range(MOST_CALLS):
        child = start(call, place / "killed")
        if killed < kills:
            time.sleep(moments.uniform(0, seconds))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
            continue
        assert status == 0
        assert hash_files(place / "killed") == wanted
        if killed == kills:
            return killed
        shutil.rmtree(place / "killed")
    raise AssertionError(f"only {killed} of {MOST_CALLS} calls could be killed")


def main() -> None:
    """Kill so many calls of create and as many of shuffle, in a folder that is empty."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("place", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    place, moments = options.place, random.Random(options.seed)
    vocab, texts = write_vocabulary(place), write_texts(place, 4, 200)
    for name in ("create", "shuffle"):
        (place / name).mkdir()
    killed = kill_calls(
        lambda folder: create_data(texts, vocab, folder, SMALL, 1),
        place / "create",
        options.kills,
        moments,
    )
    print(f"create: {killed} calls killed")
    source = read_manifest(place / "create" / "whole")
    killed = kill_calls(
        lambda folder: shuffle_data(source, folder, 24, 6, 2),
        place / "shuffle",
        options.kills,
        moments,
    )
    print(f"shuffle: {killed} calls killed")


if __name__ == "__main__":
    sys.exit(main())
