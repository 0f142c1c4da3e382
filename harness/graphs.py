"""Whole steps as CUDA graphs: captured once before the clock starts, replayed without the host.

The one switch is the configuration's [graphs] section. On a CPU there is nothing to capture: the
same function is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from harness.commands import InputError

EAGER_RUNS_BEFORE_CAPTURE = 3


@dataclass(frozen=True)
class Graphs:
    """The [graphs] section: whether the training step and the evaluation are captured."""

    step: bool
    evaluation: bool

    def check_device(self, device: torch.device) -> None:
        """Raise InputError where graphs are asked for on a device that has none."""
        if device.type != "cuda" and (self.step or self.evaluation):
            raise InputError(
                "[graphs] asks for CUDA graphs, but the device is a CPU: set step and evaluation "
                "to false"
            )


class Replayable:
    """A function over fixed tensors, with no arguments: called as it is, or replayed as a graph.

    What it reads and writes must keep its address; nothing in it may wait for the device. Before
    `capture` a call runs the function.
    """

    def __init__(self, function: Callable[[], None], device: torch.device) -> None:
        self._function, self._device = function, device
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._graph is None:
            self._function()
        else:
            self._graph.replay()

    def capture(self, pool: Any = None) -> Any:
        """Run the function a few times, then capture it; returns the memory pool it uses.

        pool: that of another graph, which never runs at the same time, to share its memory.
        """
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(EAGER_RUNS_BEFORE_CAPTURE):
                self._function()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        # Threads of the input and of NCCL's watchdog go on calling CUDA: theirs is not captured.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            self._function()
        self._graph = graph
        return graph.pool()
