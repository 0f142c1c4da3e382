"""Graphs: asked for by configuration, refused without a GPU, otherwise a plain call."""

from __future__ import annotations

import pytest
import torch

from harness.commands import InputError
from harness.graphs import Graphs, Replayable

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
