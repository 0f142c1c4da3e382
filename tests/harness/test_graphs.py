"""Graphs: asked for by configuration, refused without a GPU, otherwise a plain call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from harness import graphs as module
from harness.batch import Graphs
from harness.commands import InputError
from harness.graphs import EAGER_RUNS_BEFORE_CAPTURE, Replayable, release_graphs

CPU = torch.device("cpu")


@pytest.mark.parametrize(("step", "evaluation"), [(True, True), (True, False), (False, True)])
def test_a_cpu_has_no_graphs(step: bool, evaluation: bool) -> None:
    graphs = Graphs(step, evaluation)
    with pytest.raises(InputError, match="set step and evaluation to false"):
        graphs.check_device(CPU)
    graphs.check_device(torch.device("cuda", 0))


def test_without_graphs_a_cpu_will_do() -> None:
    Graphs(step=False, evaluation=False).check_device(CPU)


def test_before_it_is_captured_a_function_is_called() -> None:
    total = torch.zeros(1)
    replayable = Replayable(lambda: total.add_(1), CPU)  # type: ignore[arg-type,return-value]
    for _ in range(3):
        replayable()
    assert total.item() == 3


GPU = torch.device("cuda", 0)


class Stream:
    """A stream, which notes what it waits for."""

    def __init__(self, device: object, calls: list[Any]) -> None:
        self.calls = calls

    def wait_stream(self, other: object) -> None:
        self.calls.append(("wait", self, other))


class Graph:
    """What of torch.cuda.CUDAGraph is used."""

    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    def replay(self) -> None:
        self.calls.append("replay")

    def reset(self) -> None:
        self.calls.append("reset")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What is asked of CUDA, in order, where there is none."""
    made: list[Any] = []
    main = Stream(GPU, made)

    @contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        made.append(("on", chosen))
        yield
        made.append("off")

    @contextmanager
    def graph(graph: Graph, pool: Any, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        made.append(("begin", pool, stream))
        yield
        made.append("end")

    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(device, made))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(made))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: made.append("empty"))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: made.append("synchronize"))
    monkeypatch.setattr(module.gc, "collect", lambda: made.append("collect"))
    module._find_stream.cache_clear()
    yield made
    module._find_stream.cache_clear()
    module._captured.clear()


def test_a_capture_is_warmed_up_on_its_own_stream(calls: list[Any]) -> None:
    """All graphs on one stream, with one pool; nothing is left to be collected meanwhile."""
    step = Replayable(lambda: calls.append("run"), GPU)
    pool = step.capture()
    (_, stream, main), *_ = [call for call in calls if isinstance(call, tuple)]
    warm_up = [("on", stream), *["run"] * EAGER_RUNS_BEFORE_CAPTURE, "off"]
    waits = [("wait", stream, main)], [("wait", main, stream), "synchronize"]
    capture = [("begin", None, stream), "run", "end"]
    assert calls == ["collect", "synchronize", "empty", *waits[0], *warm_up, *waits[1], *capture]
    other = Replayable(lambda: calls.append("other"), GPU)
    other.capture(pool)
    assert ("begin", pool, stream) in calls and stream is not main
    del calls[:]
    step()
    assert calls == ["replay"]


def test_graphs_are_destroyed_before_the_group_is(calls: list[Any]) -> None:
    """Those that are alive, once, when the device has done with them."""
    steps = [Replayable(lambda: None, GPU) for _ in range(2)]
    for step in steps:
        step.capture()
    del calls[:]
    release_graphs()
    assert calls == ["synchronize", "reset", "reset"]
    release_graphs()
    assert len(calls) == 3
