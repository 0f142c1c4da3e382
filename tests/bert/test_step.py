"""BERT's step: each rank's own means, averaged with equal weight over ranks and micro-batches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from bert.config import Config
from bert.model import Batch, BertForPretraining
from bert.probe import make_synthetic_batch
from bert.step import TrainingStep
from harness.config import load_config
from harness.graphs import Replayable
from harness.optimizers import LAMB
from harness.parameters import CHUNK, FlatParameters, flatten_dense
from harness.precision import Precision
from harness.warmup import preserve_state
from harness.weight_gathering import WeightGathering
from tests.harness.host_waits import HostWaits, let_device_hang
from tests.harness.test_gradients import flatten, fork_ranks, gradients_in, launch
from tests.harness.test_weight_gathering import SlowGathers

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
WORLD_SIZE = 2
RATE = 0.02


def make_config(
    accumulation: int = 1,
    precision: Precision | None = None,
    sharded: bool = False,
    clip: Literal["before_reduce", "after_reduce"] = "after_reduce",
) -> Config:
    """The demonstration's small model without dropout, so that gradients can be compared."""
    config: Config = load_config(ROOT / "bert" / "configs" / "demo.toml", Config)
    model = replace(config.model, dropout=0.0, attention_dropout=0.0)
    batch = replace(config.batch, gradient_accumulation_steps=accumulation)
    return replace(
        config,
        model=model,
        batch=batch,
        precision=precision or config.precision,
        communication=replace(config.communication, sharded_optimizer=sharded),
        optimizer=replace(config.optimizer, gradient_clip=clip),
    )


def make_batch(config: Config, number: int) -> Batch:
    """Micro-batches of different sizes, words and counts of masked tokens."""
    batch = make_synthetic_batch(config, 3 + 2 * number, CPU)
    ids = (batch.input_ids + 17 * number) % config.model.vocabulary_size
    return replace(batch, input_ids=ids, masked_ids=(batch.masked_ids + number) % 100)


def make_step(config: Config, rank: int = 0, world_size: int = 1, seed: int = 3) -> TrainingStep:
    torch.manual_seed(seed)
    return TrainingStep(config, CPU, rank, world_size, None, [RATE] * 4)


def give(config: Config, numbers: Sequence[int]) -> Callable[[object], Batch]:
    """An input of the batches of these numbers, one after the other."""
    left: Iterator[int] = iter(numbers)
    return lambda _: make_batch(config, next(left))


def find_gradient(step: TrainingStep) -> np.ndarray:
    """The gradient of the mean that the last step was made of; unsharded pools alone."""
    scale = step.config.precision.loss_scale
    return gradients_in(step.parameters, step.model).astype(np.float32) / scale


def run_rank(rank: int) -> dict[str, np.ndarray]:
    """Two micro-batches a step on every rank, two steps: plain, sharded, clipped before."""
    found = {}
    for name, config in {
        "plain": make_config(2),
        "sharded": make_config(2, sharded=True),
        "clipped": make_config(2, clip="before_reduce"),
    }.items():
        # Rank 0's weights are taken.
        step = make_step(config, rank, WORLD_SIZE, seed=3 + rank)
        for number in range(2):
            step.run(give(config, [4 * number + 2 * part + rank for part in range(2)]))
            if name != "sharded":
                found[f"{name} gradient {number}"] = find_gradient(step)
            step.gather_weights()
            found[f"{name} weights {number}"] = flatten(list(step.model.parameters()))
    short = make_config(2, precision=Precision("bf16", 1.0), sharded=True)
    for name in ("fresh", "warmed"):
        step = make_step(short, rank, WORLD_SIZE)
        if name == "warmed":
            with preserve_state(step.state(), CPU):
                step.run(give(short, [4, 5]))
        for numbers in ([rank, 2 + rank], [2 + rank, rank]):
            step.run(give(short, numbers))
        step.gather_weights()
        found[name] = flatten([parameter.float() for parameter in step.model.parameters()])
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    return launch("tests.bert.test_step", tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", ["plain", "sharded"])
def test_ranks_and_micro_batches_count_alike(seen: list[dict[str, np.ndarray]], name: str) -> None:
    """Two ranks with two micro-batches are one process with the same four."""
    config = make_config(accumulation=4)
    step = make_step(config)
    for number in range(2):
        step.run(give(config, [4 * number + micro_batch for micro_batch in range(4)]))
        gradient, weights = find_gradient(step), flatten(list(step.model.parameters()))
        assert len(seen) == WORLD_SIZE
        for found in seen:
            if name == "plain":
                error = np.linalg.norm(found[f"plain gradient {number}"] - gradient)
                assert error < 1e-4 * np.linalg.norm(gradient)
            ours = found[f"{name} weights {number}"]
            assert np.abs(ours - weights).max() < 1e-3
            assert np.array_equal(ours, seen[0][f"{name} weights {number}"])


def test_warm_up_leaves_no_trace_in_shared_out_weights(seen: list[dict[str, np.ndarray]]) -> None:
    """A step begins by sending each rank's share of the weights, which warm-up has changed, too."""
    start = flatten([p.float() for p in make_step(make_config()).model.parameters()])
    for found in seen:
        assert np.array_equal(found["fresh"], found["warmed"])
        assert np.array_equal(found["fresh"], seen[0]["fresh"])
        assert np.abs(found["fresh"] - start).max() > RATE


@pytest.mark.parametrize("bucket_megabytes", [0.01, 0.1])
def test_every_layer_waits_for_its_own_weights(
    bucket_megabytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of later layers are under way meanwhile; the last matrix is the first table."""
    model = make_step(make_config()).model
    batch = make_batch(make_config(), 1)
    wanted = model(batch)
    norms, adapted = model.normalisation_parameters(), model.adapted_parameters()
    runs = model.parameter_runs()
    parameters = FlatParameters(model, runs, norms, adapted, torch.float32, bucket_megabytes, 0, 2)
    gathering = WeightGathering(parameters, model.stages())
    slow = SlowGathers(parameters, monkeypatch)
    under_way: list[int] = []
    for stage in model.stages():
        stage.register_forward_pre_hook(lambda *_: under_way.append(len(slow.left)))
    gathering.begin()
    found = model(batch)
    assert all(map(torch.equal, found, wanted))
    assert len(under_way) == len(model.stages()) and under_way[-1] == 0
    assert under_way == sorted(under_way, reverse=True) and under_way[0] >= len(slow.begun) - 2
    assert len(set(under_way)) > 3


def test_clipping_before_the_reduce_clips_each_ranks_own_gradient(
    seen: list[dict[str, np.ndarray]],
) -> None:
    config = make_config(accumulation=2)
    wanted = 0.0
    for rank in range(WORLD_SIZE):
        step = make_step(config)
        step.run(give(config, [rank, 2 + rank]))
        own = find_gradient(step)
        assert np.linalg.norm(own) > 1.5  # or nothing would be clipped
        wanted = wanted + own / np.linalg.norm(own) / WORLD_SIZE
    for found in seen:
        gradient = found["clipped gradient 0"]
        assert np.linalg.norm(gradient - wanted) < 1e-4 * np.linalg.norm(wanted)
        assert np.array_equal(gradient, seen[0]["clipped gradient 0"])
        assert not np.allclose(found["clipped weights 0"], found["plain weights 0"], atol=1e-4)


def test_a_gradient_clipped_in_16_bit_has_the_limit_as_its_norm() -> None:
    """Normalisations' gradients, in fp32, are clipped by the same factor as all others."""
    config = make_config(precision=Precision("bf16", 1.0), clip="before_reduce")
    step = make_step(config)
    step.run(give(config, [1]))
    assert np.linalg.norm(find_gradient(step)) == pytest.approx(1.0, rel=3e-4)
    matrices, norms = step.parameters.pools
    plain = make_step(replace(config, optimizer=make_config().optimizer))
    plain.run(give(config, [1]))
    own, own_norms = plain.parameters.pools
    factor = float((norms.gradients / own_norms.gradients).nanmedian())
    assert factor < 0.7  # or nothing would be clipped
    assert torch.equal(matrices.gradients, (own.gradients.float() * factor).bfloat16())


@pytest.mark.parametrize("clip", ["before_reduce", "after_reduce"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_that_overflows_is_skipped_and_the_next_is_not(
    clip: Literal["before_reduce", "after_reduce"], bad: float
) -> None:
    config = make_config(accumulation=2, clip=clip)
    step = make_step(config)
    step.run(give(config, [0, 1]))
    before = [tensor.clone() for tensor in step.parameters.weights()]
    hook = step.model.pooler.weight.register_hook(lambda gradient: gradient * bad)
    step.run(give(config, [2, 3]))
    hook.remove()
    assert int(step.optimizer.overflows) == 1
    assert all(map(torch.equal, before, step.parameters.weights()))
    step.run(give(config, [4, 5]))
    assert int(step.optimizer.overflows) == 1
    assert not any(map(torch.equal, before, step.parameters.weights()))


def reference_loss(model: BertForPretraining, batch: Batch) -> torch.Tensor:
    """The mean over the batch's masked tokens plus the mean over its sequences."""
    output = model(batch)
    log_words = output.masked_lm_logits.double().log_softmax(1)
    masked = -log_words[torch.arange(len(batch.masked_ids)), batch.masked_ids].sum()
    log_next = output.next_sentence_logits.double().log_softmax(1)
    labels = batch.next_sentence_labels
    following = -log_next[torch.arange(len(labels)), labels].mean()
    return masked / (len(batch.masked_ids) + 1e-5) + following


def test_accumulation_is_the_mean_of_micro_gradients() -> None:
    """Each micro-batch takes its own means; none counts more for having more masked tokens."""
    config = make_config(accumulation=3)
    model, wanted = make_step(config).model, 0.0
    for number in range(3):
        loss = reference_loss(model, make_batch(config, number))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        wanted = wanted + np.concatenate([flatten_dense(g).numpy() for g in gradients]) / 3
    step = make_step(config)
    step.run(give(config, [0, 1, 2]))
    assert np.linalg.norm(find_gradient(step) - wanted) < 1e-5 * np.linalg.norm(wanted)


@pytest.mark.parametrize("precision", [Precision("fp32", 1.0), Precision("bf16", 1.0)])
def test_the_update_is_that_of_lamb(precision: Precision) -> None:
    """harness.optimizers.LAMB on the masters with the same gradients, the groups of the model."""
    config = make_config(precision=precision)
    step = make_step(config)
    adapted = {id(p) for p in step.model.adapted_parameters()}
    placed = [(pool, one) for pool in step.parameters.pools for one in pool.placed]
    masters = [torch.nn.Parameter(pool.master[p.start : p.stop].clone()) for pool, p in placed]
    groups = [
        {
            "params": [
                master
                for master, (_, p) in zip(masters, placed, strict=True)
                if (id(p.parameter) in adapted) == adapt
            ],
            "adapt": adapt,
        }
        for adapt in (True, False)
    ]
    values = config.optimizer
    optimizer = LAMB(
        groups,
        RATE,
        (values.beta_1, values.beta_2),
        values.epsilon,
        values.weight_decay,
        values.max_gradient_norm,
    )
    assert len(groups[0]["params"]) == len(adapted)
    for number in range(3):
        step.run(give(config, [number]))
        for master, (pool, p) in zip(masters, placed, strict=True):
            master.grad = pool.gradients[p.start : p.stop].float()
        optimizer.step()
        for master, (pool, p) in zip(masters, placed, strict=True):
            found = pool.master[p.start : p.stop]
            assert (found - master).norm() <= 1e-5 * master.norm().clamp(min=1e-3)
            assert torch.equal(pool.weights[p.start : p.stop], found.to(pool.dtype))


def test_a_step_forgets_the_gradients_of_the_one_before() -> None:
    config = make_config(accumulation=2)
    torch.manual_seed(3)
    step = TrainingStep(config, CPU, 0, 1, None, [0.0])
    step.run(give(config, [0, 1]))
    first = find_gradient(step)
    step.run(give(config, [2, 3]))
    assert not np.allclose(find_gradient(step), first)
    step.run(give(config, [0, 1]))
    # Rate 0 has changed no weight.
    assert np.array_equal(find_gradient(step), first)
    assert all(parameter.grad is None for parameter in step.model.parameters())


def test_an_initial_state_is_taken_whole_or_refused() -> None:
    config = make_config()
    state = {
        name: p.detach().clone() for name, p in make_step(config, seed=8).model.state_dict().items()
    }
    step = TrainingStep(config, CPU, 0, 1, state, [RATE])
    for name, parameter in step.model.named_parameters():
        assert torch.equal(parameter, state[name])
    state.pop("pooler.bias")
    with pytest.raises(RuntimeError, match=r"pooler\.bias"):
        TrainingStep(config, CPU, 0, 1, state, [RATE])


def test_masters_keep_what_16_bit_weights_lose() -> None:
    config = make_config(precision=Precision("bf16", 1.0))
    state = {
        name: p.detach().clone() for name, p in make_step(make_config()).model.state_dict().items()
    }
    step = TrainingStep(config, CPU, 0, 1, state, [RATE])
    (matrices, _) = step.parameters.pools
    names = {id(p): name for name, p in step.model.named_parameters()}
    lost = 0
    for placed in matrices.placed:
        wanted = flatten_dense(state[names[id(placed.parameter)]])
        assert torch.equal(matrices.master[placed.start : placed.stop], wanted)
        lost += int((matrices.weights[placed.start : placed.stop] != wanted).sum())
    assert lost > 1000


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(Precision("bf16", 1.0), 0.05), (Precision("fp16", 256.0), 0.01)]
)
def test_sixteen_bit_steps_are_near_those_of_fp32(precision: Precision, tolerance: float) -> None:
    gradients = []
    for chosen in (Precision("fp32", 1.0), precision):
        config = make_config(precision=chosen)
        step = make_step(config)
        step.run(give(config, [1]))
        gradients.append(find_gradient(step))
        kept = step.model.normalisation_parameters()
        assert kept and all(parameter.dtype == torch.float32 for parameter in kept)
        assert step.model.pooler.weight.dtype == chosen.dtype
    exact, near = gradients
    assert not np.array_equal(exact, near)
    assert np.linalg.norm(near - exact) < tolerance * np.linalg.norm(exact)


def test_the_host_waits_in_a_step_for_nothing_but_the_plain_attentions_lengths() -> None:
    """harness.ops.varlen_attention cuts sequences on the host; fused providers do not."""
    config = make_config(accumulation=2)
    step = make_step(config)
    batches = [make_batch(config, number) for number in range(2)]
    left = iter(batches)
    with HostWaits() as waits:
        step.run(lambda _: next(left))
    assert waits.found == ["tolist"] * (2 * config.model.layers)  # cu_seqlens.tolist()


def test_updates_are_counted_with_a_limit_to_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the count waits for steps in which another rank may hang."""
    config = make_config()
    step = make_step(config)
    step.run(give(config, [0]))
    assert step.count_updates() == 1
    let_device_hang(monkeypatch)
    step.device = torch.device("cuda", 0)
    with pytest.raises(RuntimeError, match="Timed out waiting 20ms for the device"):
        step.count_updates()


def test_a_batch_without_a_graph_waits_for_the_replays_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """NCCL may be told to expect no call while a graph with collectives is under way."""
    config = make_config()
    step = make_step(config)
    let_device_hang(monkeypatch)
    step.device = torch.device("cuda", 0)
    step.run(give(config, [0]))  # no graphs at all: no wait
    step._graphs[0, 0] = Replayable(lambda: None, step.device)
    monkeypatch.setattr(step, "_take", lambda *_: pytest.fail("called too early"))
    with pytest.raises(RuntimeError, match="Timed out waiting 20ms for the device"):
        step.run(give(config, [1]))


def test_queries_keys_and_values_lie_together() -> None:
    """In memory, in this order, where their sizes fill whole chunks; so one product reads all."""
    step = make_step(make_config())
    (pool,) = step.parameters.pools
    starts = {id(placed.parameter): placed.start for placed in pool.placed}
    for layer in step.model.encoder:
        weights = [getattr(layer.attention, name).weight for name in ("query", "key", "value")]
        found = [starts[id(weight)] for weight in weights]
        size = weights[0].numel()
        assert size % CHUNK == 0 and found == [found[0], found[0] + size, found[0] + 2 * size]


if __name__ == "__main__":
    fork_ranks(run_rank, WORLD_SIZE, Path(sys.argv[1]))
