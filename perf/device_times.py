"""Seconds of a call on a device that computes while the host goes on, and the options of commands
that take some."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from harness.commands import Parser
from harness.graphs import Replayable, release_graphs

WARMUPS = 2
CALLS_A_GRAPH = 10


def time_calls(call: Callable[[], object], turns: int, device: torch.device) -> float:
    """Median seconds of a call, waited for on its device."""
    seconds = []
    for number in range(WARMUPS + turns):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARMUPS:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def time_device(call: Callable[[], object], turns: int, device: torch.device) -> float:
    """Median seconds of a call on its device alone: without what the host needs to launch it.

    On a GPU, of some calls in one graph, one after the other; so the call may not wait for the
    device or read its numbers. On a CPU as `time_calls`.
    """
    if device.type != "cuda":
        return time_calls(call, turns, device)

    def repeat() -> None:
        for _ in range(CALLS_A_GRAPH):
            call()

    replayable = Replayable(repeat, device)
    try:
        replayable.capture()
        return time_calls(replayable, turns, device) / CALLS_A_GRAPH
    finally:
        release_graphs()  # and the memory that it holds


def make_parser(name: str, description: str | None, config: Path, turns: int) -> Parser:
    """The options that all of these commands have: --config, --device, --turns and --json."""
    parser = Parser(prog=f"python -m perf.{name}", description=description)
    default = "/".join(config.parts[-3:])
    parser.add_argument("--config", type=Path, default=config, help=f"default: {default}")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU, if any")
    parser.add_argument("--turns", type=int, default=turns, help=f"default: {turns}")
    parser.add_argument("--json", action="store_true")
    return parser
