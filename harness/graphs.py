"""Whole steps as CUDA graphs: captured once before the clock starts, replayed without the host.

The one switch is the configuration's [graphs] section. On a CPU there is nothing to capture: the
same function is called.
"""

from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable
from typing import Any

import torch

EAGER_RUNS_BEFORE_CAPTURE = 3


class Replayable:
    """A function over fixed tensors, with no arguments: called as it is, or replayed as a graph.

    What it reads and writes must keep its address; nothing in it may wait for the device. Before
    `capture` a call runs the function; after `release_graphs` a captured one raises RuntimeError.
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
        device, stream = self._device, _find_stream(self._device)
        # What Python would collect during the capture, an older graph say, would spoil it: torch
        # itself no longer collects before (torch.compiler.config.force_cudagraph_gc).
        gc.collect()
        torch.cuda.synchronize(device)
        # What earlier work left cached belongs to other streams, and NCCL, cuDNN and modules of
        # kernels take memory beside torch's.
        torch.cuda.empty_cache()
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(EAGER_RUNS_BEFORE_CAPTURE):
                self._function()
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        # Threads of the input and of NCCL's watchdog go on calling CUDA: theirs is not captured.
        mode = "thread_local"
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode=mode):
            self._function()
        self._graph = graph
        _captured.add(graph)
        return graph.pool()


_captured: weakref.WeakSet[torch.cuda.CUDAGraph] = weakref.WeakSet()


@functools.lru_cache
def _find_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream of a device on which all is warmed up and captured.

    On one stream for all, cuBLAS takes one workspace instead of one for each (32 MiB on Hopper, and
    never given back), graphs can share memory (torch.cuda.graph, note on `pool`), and a gradient
    is accumulated on the stream that made it (torch 2.11 warns where that is not so).
    """
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def release_graphs() -> None:
    """Destroy every captured graph, before the process group is left.

    A communicator waits, without end, until all graphs are gone that hold one of its collectives
    (NVIDIA/nccl src/init.cc, commDestroySync: localPersistentRefs). A step and its graphs refer to
    each other, so that they do not go with the function that made them. Waits for the device.
    """
    graphs = list(_captured)
    _captured.clear()
    if graphs:
        torch.cuda.synchronize()
    for graph in graphs:
        graph.reset()
