"""The step of each shipped configuration as a GPU would be given it, on tensors without memory.

All sizes but the number of layers are those of a run. What a GPU has to show stays open: here is
what operators, libraries and graphs ask of their arguments, and what would break a graph in two.
"""

from __future__ import annotations

import gc
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from bert.budget import Budgets, plan_budgets, plan_one_budget
from bert.config import Config
from bert.examples import ExampleSettings
from bert.model import BertForPretraining
from bert.static_batch import StaticBatch, count_bytes, view_batch
from bert.step import FIRST, LAST, TrainingStep
from harness.batch import Graphs
from harness.commands import InputError
from harness.config import load_config
from harness.ops.kernels import record_launches
from tests.harness.device_demands import DeviceDemands, NcclDemands
from tests.harness.host_waits import DeviceWork

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from tests.harness.ops.kernel_variants import make_variant

FOLDER = Path(__file__).resolve().parents[2] / "bert" / "configs"
META = torch.device("meta")
LAYERS = 2
MEAN_TOKENS = 254.4  # of a sequence of MLPerf's set
SHIPPED = sorted(path.stem for path in FOLDER.glob("*.toml") if path.stem != "demo")


@pytest.fixture(autouse=True)
def without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters are made without memory, and so drawn from nothing."""
    make = BertForPretraining.__init__

    def make_on_meta(self: BertForPretraining, *arguments: Any) -> None:
        with META:
            make(self, *arguments)

    monkeypatch.setattr(BertForPretraining, "__init__", make_on_meta)


def load(name: str, **operations: str) -> Config:
    config: Config = load_config(FOLDER / f"{name}.toml", Config)
    return replace(
        config,
        graphs=Graphs(step=False, evaluation=False),
        model=replace(config.model, layers=LAYERS),
        operations=config.operations | operations,
    )


def plan(config: Config) -> tuple[Budgets, Budgets]:
    """The shapes of a run: of training, and of evaluation."""
    settings = ExampleSettings(
        max_seq_length=config.input.max_sequence_length,
        max_predictions_per_seq=config.input.max_predictions_per_sequence,
    )
    batch = config.batch
    ranks = batch.global_batch_size // (batch.local_batch_size * batch.gradient_accumulation_steps)
    training = plan_budgets(batch.local_batch_size, ranks, MEAN_TOKENS, settings)
    each = config.evaluation.local_batch_size
    shares = -(-10_000 // (ranks * each)) * ranks
    tokens = int(10_000 * MEAN_TOKENS)
    return training, plan_one_budget(-(-10_000 // shares), shares, tokens, settings)


def make_batches(budgets: Budgets) -> list[StaticBatch]:
    """A batch of each listed shape, in one stretch as the run has it."""
    return [
        view_batch(torch.empty(count_bytes(budget), dtype=torch.uint8, device=META), n, budget)
        for n, budget in enumerate(budgets.listed)
    ]


def make_step(config: Config, rank: int = 0, world_size: int = 1) -> TrainingStep:
    return TrainingStep(config, META, rank, world_size, None, [0.1] * 3)


def take(step: TrainingStep) -> None:
    """The smallest and the largest shape of a step, and an evaluation."""
    training, evaluation = map(make_batches, plan(step.config))
    for batch in (training[0], training[-1]):
        step.run(lambda _, batch=batch: batch)  # type: ignore[misc]
    step.model.eval()
    step.evaluate(evaluation[0])
    step.model.train()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_step_is_one_piece_of_device_work(name: str) -> None:
    """Forward, backward, update and evaluation read nothing on the host and copy nothing to or
    from it, so that nothing would break the graph into two."""
    step = make_step(load(name))
    with DeviceWork() as work:
        take(step)
    assert work.mixed == [] and work.operations > 500


@pytest.mark.parametrize("name", SHIPPED)
def test_kernels_get_what_they_ask_for(name: str) -> None:
    step = make_step(load(name))
    with DeviceDemands() as demands:
        take(step)
    assert demands.broken == []
    passes = 2 * step.micro_batches  # and an evaluation, which has no backward
    assert demands.held["_flash_attention_forward"] == (passes + 1) * LAYERS
    assert demands.held["_flash_attention_backward"] == passes * LAYERS
    assert demands.held["embedding_dense_backward"] == 3 * passes
    # Projections together, output, and two of the feed-forward, each with two products backward.
    float8 = 4 * LAYERS * (3 * passes + 1) if name.endswith("fp8") else 0
    assert demands.held.get("_scaled_mm", 0) == float8


@pytest.mark.parametrize(
    ("name", "operations", "fault"),
    [
        ("h200_4x8", {"vocabulary_logits": "torch"}, r"rows of .*30522.* unaligned"),
        ("h200_4x8_fp8", {"masked_cross_entropy": "torch"}, r"unaligned"),
    ],
)
def test_what_a_kernel_would_dislike_is_seen(
    name: str, operations: dict[str, str], fault: str
) -> None:
    step = make_step(load(name, **operations))
    with DeviceDemands() as demands:
        take(step)
    assert demands.broken and any(re.search(fault, one) for one in demands.broken)


def test_no_node_of_autograd_outlives_its_step() -> None:
    """One that adds up a gradient belongs to the stream on which it was made: left over from the
    runs before a capture it would break the capture (PyTorch, torch/csrc/autograd/input_buffer.h).
    """
    step = make_step(load("h200_4x8"))
    (batch, *_) = make_batches(plan(step.config)[0])
    parameters = list(step.model.parameters())
    forward, marked = step.model.forward, []

    def mark(batch: StaticBatch) -> Any:
        output = forward(batch)
        for parameter in parameters:
            node = get_gradient_edge(parameter).node
            marked.append("old" in node.metadata)
            node.metadata["old"] = True
        return output

    step.model.forward = mark  # type: ignore[method-assign]
    gc.disable()
    try:
        for _ in range(2):
            step.run(lambda _: batch)
    finally:
        gc.enable()
    assert len(marked) == 2 * len(parameters) and not any(marked)


def test_a_copy_of_what_lies_otherwise_is_seen() -> None:
    x = torch.empty(2048, 1024, dtype=torch.bfloat16, device=META)
    with DeviceDemands() as demands:
        x.t().contiguous()
    assert demands.broken == ["clone: a copy of (1024, 2048)"]


@pytest.mark.parametrize("rank", [0, 31])
def test_a_sharded_step_sends_what_nccl_takes(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    nccl = NcclDemands(32, monkeypatch)
    step = make_step(load("h200_4x8"), rank, 32)
    nccl.sent.clear()
    with DeviceWork() as work:
        take(step)
    assert work.mixed == [] and nccl.broken == [] and nccl.left == []
    sharded, whole = step.parameters.pools
    assert sharded.sharded and not whole.sharded
    names = [name for name, _ in nccl.sent]
    assert names.count("reduce_scatter") == names.count("all_gather") == 2 * len(sharded.buckets)
    # Updated weights come back while the next step's forward pass runs.
    first = names.index("reduce_scatter")
    assert names[:first] == ["all_gather"] * len(sharded.buckets)
    # The normalisations' gradients, the squared norm of the gradient, and those of the tensors.
    assert names.count("all_reduce") == 2 * (len(whole.buckets) + 2)


class Graph:
    """Stands in for harness.graphs.Replayable: notes captures and replays."""

    made: list[Graph]

    def __init__(self, function: Any, device: torch.device) -> None:
        self.function, self.pool, self.replays = function, "none", 0
        self.made.append(self)

    def capture(self, pool: Any = None) -> Any:
        self.function()
        self.pool = pool
        return pool or "the pool"

    def __call__(self) -> None:
        self.replays += 1


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_each_shape_has_its_graphs_and_all_share_memory(
    micro_batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Graph.made = []
    monkeypatch.setattr("bert.step.Replayable", Graph)
    monkeypatch.setattr(Graphs, "check_device", lambda self, device: None)
    config = load("a100_4x4")
    config = replace(
        config,
        graphs=Graphs(step=True, evaluation=True),
        batch=replace(config.batch, gradient_accumulation_steps=micro_batches),
    )
    step = make_step(config)
    training, evaluation = map(make_batches, plan(load("a100_4x4")))
    step.prepare(training, evaluation)
    kinds = min(micro_batches, 3)
    first, *others = Graph.made
    assert first.function.args == (evaluation[0],) and len(others) == kinds * len(training)
    # The largest comes first, so that the others fit into its memory.
    sizes = [graph.function.args[0].shape.tokens for graph in others]
    assert sizes == sorted(sizes, reverse=True)
    assert first.pool is None and {graph.pool for graph in others} == {"the pool"}
    assert step.static_batches == training
    before = [graph.replays for graph in others]
    with DeviceDemands() as demands:  # a shape with graphs runs nothing by itself
        step.run(lambda batches: batches[1])
    assert sum(graph.replays for graph in others) - sum(before) == micro_batches
    assert demands.held == {}
    (stranger,) = make_batches(replace(plan(config)[0], listed=(training[0].shape,)))
    with DeviceDemands() as demands:
        step.run(lambda batches: stranger)
    assert demands.held["_flash_attention_backward"] == micro_batches * LAYERS
    step.evaluate(make_batches(plan(load("a100_4x4"))[1])[0])
    assert first.replays == 1


def test_fp8_that_measures_first_has_run_beside_the_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, at the largest shape and after all captures: the clock then waits for no memory."""
    Graph.made = []
    monkeypatch.setattr("bert.step.Replayable", Graph)
    monkeypatch.setattr(Graphs, "check_device", lambda self, device: None)
    config = load("h200_4x8_fp8")
    batch = replace(config.batch, gradient_accumulation_steps=2)
    step = make_step(replace(config, graphs=Graphs(step=True, evaluation=True), batch=batch))
    training, evaluation = map(make_batches, plan(config))
    take, taken = step._take, []

    def note(batch: StaticBatch, kind: int) -> None:
        taken.append((id(batch), kind, step._has_history, len(Graph.made)))
        take(batch, kind)

    monkeypatch.setattr(step, "_take", note)
    step.prepare(training[-2:], evaluation)
    largest, graphs = id(training[-1]), 1 + 2 * 2
    assert taken[-2:] == [(largest, kind, False, graphs) for kind in (FIRST, LAST)]
    # Until a step has measured no graph is replayed, of evaluation neither.
    again = make_batches(plan(config)[1])[0]
    replays = [graph.replays for graph in Graph.made]
    step.evaluate(again)
    step.run(lambda batches: batches[0])
    assert replays == [graph.replays for graph in Graph.made] and len(taken) == 1 + 4 + 2 + 2
    step.evaluate(again)
    assert Graph.made[0].replays == 1


def test_every_budget_has_the_kernels_of_the_largest_in_fp8() -> None:
    """What measures is warmed up at the largest alone: another would be compiled by the clock."""
    config = load("h200_4x8_fp8")
    batch = replace(config.batch, local_batch_size=48, global_batch_size=1536)
    step = make_step(replace(config, batch=batch))
    variants = []
    for batch in make_batches(plan(step.config)[0]):
        step._has_history = False
        with record_launches() as records:
            step.run(lambda _, batch=batch: batch)  # type: ignore[misc]
        names = {make_variant(record).name for record in records}
        variants.append({name for name in names if name.startswith("float8")})
    assert len(variants) > 10 and len(variants[-1]) == 8
    assert all(some == variants[-1] for some in variants)


@pytest.mark.parametrize("graph", ["step", "evaluation"])
def test_plain_attention_and_graphs_exclude_each_other(
    graph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Graphs, "check_device", lambda self, device: None)
    config = load("h200_4x8", varlen_attention="torch")
    make_step(config)
    with pytest.raises(InputError, match=r"'torch' reads the sequences' lengths on the host"):
        make_step(replace(config, graphs=replace(config.graphs, **{graph: True})))


def test_what_a_capture_changes_is_put_back_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph keeps addresses: after preparation every tensor of the state is where it was."""
    Graph.made = []
    monkeypatch.setattr("bert.step.Replayable", Graph)
    monkeypatch.setattr(Graphs, "check_device", lambda self, device: None)
    step = make_step(replace(load("h200_1x1"), graphs=Graphs(step=True, evaluation=True)))
    before: list[Tensor] = step.state()
    parameters = [parameter.data for parameter in step.model.parameters()]
    training, evaluation = map(make_batches, plan(step.config))
    step.prepare(training[:2], evaluation)
    assert all(one is other for one, other in zip(step.state(), before, strict=True))
    for parameter, data in zip(step.model.parameters(), parameters, strict=True):
        assert parameter.untyped_storage()._cdata == data.untyped_storage()._cdata
        assert parameter.grad is None
