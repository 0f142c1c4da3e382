"""ResNet's step: the mean gradient of the global batch, each rank normalising by its own images."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.batch import Graphs
from harness.commands import InputError
from harness.config import load_config
from harness.optimizers import LARS
from harness.parameters import flatten_dense
from harness.precision import Precision
from resnet.config import LARS_TRUST_COEFFICIENT, Config
from resnet.model import ResNet, batch_norm_buffers
from resnet.probe import fill_with_noise
from resnet.step import TrainingStep, normalise_over
from tests.harness.host_waits import Collectives, DeviceWork, HostWaits
from tests.harness.test_gradients import flatten, fork_ranks, gradients_in, launch

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
WORLD_SIZE, IMAGES, CLASSES = 2, 6, 12


RATE = 0.5


def make_config(
    accumulation: int = 1, precision: Precision | None = None, span_ranks: int = 1
) -> Config:
    config: Config = load_config(ROOT / "resnet" / "configs" / "demo.toml", Config)
    return replace(
        config,
        batch=replace(
            config.batch,
            local_batch_size=IMAGES,
            batch_norm_span=IMAGES * span_ranks,
            gradient_accumulation_steps=accumulation,
        ),
        input=replace(config.input, crop_size=32),
        model=replace(config.model, classes=CLASSES),
        precision=precision or config.precision,
    )


def make_batch(number: int) -> tuple[Tensor, Tensor]:
    """Images (IMAGES, 4, 32, 32) and labels, others for every number."""
    generator = torch.Generator().manual_seed(number)
    images = torch.randn(IMAGES, 4, 32, 32, generator=generator) + 0.3 * number
    images[:, 3] = 0.0
    return images, torch.randint(CLASSES, (IMAGES,), generator=generator)


def give(numbers: list[int]) -> Callable[[Tensor, Tensor], None]:
    """An input of the batches of these numbers, one after the other."""
    left: Iterator[int] = iter(numbers)

    def fill(images: Tensor, labels: Tensor) -> None:
        made, made_labels = make_batch(next(left))
        images.copy_(made)
        labels.copy_(made_labels)

    return fill


def make_step(
    config: Config, rank: int = 0, world_size: int = 1, seed: int = 3, rate: float = RATE
) -> TrainingStep:
    torch.manual_seed(seed)
    return TrainingStep(config, CPU, rank, world_size, [rate])


def find_gradient(step: TrainingStep) -> np.ndarray:
    """The gradient of the mean that the last step was made of."""
    scale = step.config.precision.loss_scale
    return gradients_in(step.parameters, step.model).astype(np.float32) / scale


def take_steps(step: TrainingStep, rank: int, found: dict[str, np.ndarray]) -> None:
    """Two steps of two micro-batches."""
    for number in range(2):
        step.run(give([4 * number + rank, 4 * number + 2 + rank]))
        found[f"gradient {number}"] = find_gradient(step)
        found[f"weights {number}"] = flatten(list(step.model.parameters()))
        found[f"statistics {number}"] = flatten(batch_norm_buffers(step.model))


def run_rank(rank: int) -> dict[str, np.ndarray]:
    """Steps without and with a warm-up before, from the same start."""
    config = make_config(accumulation=2)
    found: dict[str, np.ndarray] = {}
    take_steps(make_step(config, rank, WORLD_SIZE, seed=3 + rank), rank, found)
    warm = make_step(config, rank, WORLD_SIZE, seed=3 + rank)
    warm.prepare(partial(fill_with_noise, config))
    again: dict[str, np.ndarray] = {}
    take_steps(warm, rank, again)
    with Collectives() as sent:
        warm.run(give([rank, rank + 2]))
    found["sent bytes"] = np.array(sent.bytes)
    found["sent names"] = np.array(sent.names)
    joined = make_step(make_config(span_ranks=WORLD_SIZE), rank, WORLD_SIZE)
    joined.run(give([rank]))
    found["joined gradient"] = find_gradient(joined)
    found["joined statistics"] = flatten(batch_norm_buffers(joined.model))
    return {**found, **{f"warm {name}": array for name, array in again.items()}}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    found = launch("tests.resnet.test_step", tmp_path_factory.mktemp("ranks"))
    assert len(found) == WORLD_SIZE
    return found


def test_ranks_and_micro_batches_are_one_mean(seen: list[dict[str, np.ndarray]]) -> None:
    """Two ranks with two micro-batches are one process with the same four."""
    step = make_step(make_config(accumulation=4))
    for number in range(2):
        step.run(give([4 * number + micro_batch for micro_batch in range(4)]))
        gradient, weights = find_gradient(step), flatten(list(step.model.parameters()))
        for found in seen:
            error = np.linalg.norm(found[f"gradient {number}"] - gradient)
            assert error < 1e-3 * np.linalg.norm(gradient)
            error = np.linalg.norm(found[f"weights {number}"] - weights)
            assert error < 1e-4 * np.linalg.norm(weights)


def test_ranks_keep_the_same_weights_and_their_own_statistics(
    seen: list[dict[str, np.ndarray]],
) -> None:
    first, second = seen
    for number in range(2):
        assert np.array_equal(first[f"weights {number}"], second[f"weights {number}"])
        assert not np.allclose(first[f"statistics {number}"], second[f"statistics {number}"])
    # A rank's statistics of the first step are those of a process that saw its images alone.
    for rank, found in enumerate(seen):
        alone = make_step(make_config(accumulation=2))
        alone.run(give([rank, 2 + rank]))
        statistics = flatten(batch_norm_buffers(alone.model))
        np.testing.assert_allclose(found["statistics 0"], statistics, rtol=1e-4, atol=1e-5)


def test_the_warm_up_leaves_no_trace_on_several_ranks(seen: list[dict[str, np.ndarray]]) -> None:
    for found in seen:
        names = [name for name in found if f"warm {name}" in found]
        assert len(names) == 6
        for name in names:
            assert np.array_equal(found[name], found[f"warm {name}"]), name


def test_a_step_sends_each_gradient_once_and_nothing_else(
    seen: list[dict[str, np.ndarray]],
) -> None:
    """All-reduces of whole buckets, after the last micro-batch: no statistics, no weights."""
    pools = make_step(make_config()).parameters.pools
    buckets = [bucket.stop - bucket.start for pool in pools for bucket in pool.buckets]
    for found in seen:
        assert set(found["sent names"]) == {"c10d::allreduce_"}
        assert sorted(found["sent bytes"]) == sorted(4 * size for size in buckets)


def test_a_step_in_16_bit_sends_51_megabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNet-50's 25.5 million gradients in bf16, gammas and betas in fp32, in few buckets."""
    pools = make_device_step("h200_4x8", monkeypatch).parameters.pools
    assert {pool.dtype for pool in pools} == {torch.bfloat16, torch.float32}
    sizes = [
        pool.dtype.itemsize * (bucket.stop - bucket.start)
        for pool in pools
        for bucket in pool.buckets
    ]
    assert 51.1e6 < sum(sizes) < 51.5e6 and len(sizes) <= 7


def test_ranks_normalise_as_one_batch_where_asked_to(seen: list[dict[str, np.ndarray]]) -> None:
    """Gradients and statistics of the joined batch, the same on every rank."""
    config = make_config()
    batch = replace(
        config.batch, local_batch_size=WORLD_SIZE * IMAGES, batch_norm_span=WORLD_SIZE * IMAGES
    )
    whole = make_step(replace(config, batch=batch))

    def fill(images: Tensor, labels: Tensor) -> None:
        batches = [make_batch(rank) for rank in range(WORLD_SIZE)]
        images.copy_(torch.cat([made for made, _ in batches]))
        labels.copy_(torch.cat([made for _, made in batches]))

    whole.run(fill)
    wanted = find_gradient(whole)
    for found in seen:
        error = np.linalg.norm(found["joined gradient"] - wanted)
        assert error < 1e-3 * np.linalg.norm(wanted)
        statistics = flatten(batch_norm_buffers(whole.model))
        np.testing.assert_allclose(found["joined statistics"], statistics, rtol=1e-3, atol=1e-4)


def test_a_group_is_normalised_by_the_definition_alone() -> None:
    config = make_config(span_ranks=2)
    config = replace(config, operations={**config.operations, "batch_norm_relu": "triton"})
    group = SimpleNamespace(size=lambda: 2)
    with pytest.raises(InputError, match="batch_norm_relu by 'triton' cannot do: name 'torch'"):
        normalise_over(group, make_step(make_config()).operations, config.operations)  # type: ignore[arg-type]


def reference_loss(model: ResNet, images: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with 1 - smoothing on the label and smoothing spread over all classes."""
    log_shares = model(images).double().log_softmax(1)
    targets = torch.full_like(log_shares, smoothing / CLASSES)
    targets[torch.arange(len(labels)), labels] += 1 - smoothing
    return -(targets * log_shares).sum(1).mean()


def test_accumulation_is_the_mean_of_micro_gradients() -> None:
    config = make_config(accumulation=3)
    assert config.optimizer.label_smoothing == 0.1
    model, wanted = make_step(config).model, 0.0
    for number in range(3):
        model.zero_grad()
        gradients = torch.autograd.grad(
            reference_loss(model, *make_batch(number), 0.1), list(model.parameters())
        )
        wanted = wanted + np.concatenate([dense(gradient) for gradient in gradients]) / 3
    step = make_step(config)
    step.run(give([0, 1, 2]))
    assert np.linalg.norm(find_gradient(step) - wanted) < 1e-4 * np.linalg.norm(wanted)


def dense(tensor: Tensor) -> np.ndarray:
    """The elements in the order of the pools."""
    return flatten_dense(tensor.detach()).numpy()


def test_a_step_forgets_the_gradients_of_the_one_before() -> None:
    config = make_config(accumulation=2)
    step, again = make_step(config, rate=0.0), make_step(config, rate=0.0)
    for _ in range(2):
        step.run(give([0, 1]))
        assert all(parameter.grad is None for parameter in step.model.parameters())
    step.run(give([0, 1]))
    again.run(give([0, 1]))
    # Rate 0 has changed no weight, so the third step's gradient is the first's.
    assert np.array_equal(find_gradient(step), find_gradient(again))


@pytest.mark.parametrize("precision", [Precision("fp32", 1.0), Precision("bf16", 1.0)])
def test_the_update_is_that_of_lars(precision: Precision) -> None:
    """harness.optimizers.LARS on the masters with the same gradients, the groups of the model."""
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
    optimizer = LARS(
        groups,
        lr=RATE,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        trust_coefficient=0.001,
        eps=config.optimizer.epsilon,
    )
    assert LARS_TRUST_COEFFICIENT == 0.001 and len(groups[0]["params"]) == len(adapted)
    for number in range(3):
        step.run(give([number]))
        for master, (pool, p) in zip(masters, placed, strict=True):
            master.grad = pool.gradients[p.start : p.stop].float()
        optimizer.step()
        for master, (pool, p) in zip(masters, placed, strict=True):
            found = pool.master[p.start : p.stop]
            assert (found - master).norm() <= 1e-6 * master.norm().clamp(min=1e-3)
            assert torch.equal(pool.weights[p.start : p.stop], found.to(pool.dtype))


@pytest.mark.parametrize(
    ("precision", "rounding"), [(Precision("bf16", 1.0), 2**-8), (Precision("fp16", 128.0), 2**-11)]
)
def test_sixteen_bit_steps_differ_by_rounding_alone(precision: Precision, rounding: float) -> None:
    """The gradient is off by what rounded images and weights would bring about.

    Few small images make normalisation sensitive, so the measure is the gradient's own, and the
    network has no block more than it must.
    """

    def find(chosen: Precision, noise: float = 0.0) -> np.ndarray:
        config = make_config(precision=chosen)
        step = make_step(replace(config, model=replace(config.model, depths=(1, 1, 1, 1))))
        generator = torch.Generator().manual_seed(9)

        def shake(images: Tensor, labels: Tensor) -> None:
            made, made_labels = make_batch(1)
            images.copy_(made * (1 + noise * torch.randn(made.shape, generator=generator)))
            labels.copy_(made_labels)

        if noise:
            for parameter in step.model.parameters():
                shaken = 1 + noise * torch.randn(parameter.shape, generator=generator)
                parameter.data.mul_(shaken)
        step.run(shake)
        statistics = batch_norm_buffers(step.model)
        kept = [*step.model.normalisation_parameters(), *statistics]
        assert all(tensor.dtype == torch.float32 for tensor in kept)
        assert step.model.conv0.weight.dtype == step.images.dtype == chosen.dtype
        return find_gradient(step)

    exact = find(Precision("fp32", 1.0))
    shaken, near = find(Precision("fp32", 1.0), noise=rounding), find(precision)
    error = np.linalg.norm(near - exact) / np.linalg.norm(exact)
    assert 0 < error < 2.5 * np.linalg.norm(shaken - exact) / np.linalg.norm(exact) < 1


def test_the_host_never_waits_in_a_step() -> None:
    step = make_step(make_config(accumulation=2))
    with HostWaits() as waits:
        step.run(give([0, 1]))
    assert waits.found == []
    with HostWaits() as waits:
        float(step.images.sum())
    assert waits.found  # the count sees a wait where there is one


def test_a_step_that_nobody_holds_can_be_collected() -> None:
    """Its memory, and its graphs, are free for another: hooks and graphs refer back to it."""
    step = make_step(make_config())
    step.run(give([0]))
    gone = weakref.ref(step), weakref.ref(step.model.conv0.weight)
    del step
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_no_node_of_a_backward_pass_outlives_it() -> None:
    """A kept one would add gradients up on the stream that it was made on, in a capture too.

    A parameter's node is marked in the forward pass; another is there after the step.
    """
    step = make_step(make_config(accumulation=2))
    forward, held = step.model.forward, []
    find_node = torch.autograd.graph.get_gradient_edge

    def mark(images: Tensor) -> Tensor:
        logits = forward(images)
        for parameter in step.model.parameters():
            find_node(parameter).node.metadata["mark"] = True
        if keeping:
            held.append(logits)
        return logits

    step.model.forward = mark  # type: ignore[method-assign]
    for keeping in (False, True):
        step.run(give([0, 1]))
        nodes = [find_node(parameter).node for parameter in step.model.parameters()]
        assert ["mark" in node.metadata for node in nodes] == [keeping] * len(nodes)
        del nodes


SHIPPED = sorted(
    path.stem for path in (ROOT / "resnet" / "configs").glob("*.toml") if path.stem != "demo"
)


def make_device_step(name: str, monkeypatch: pytest.MonkeyPatch) -> TrainingStep:
    """A shipped configuration's step on a device without values, as it runs without graphs."""
    pytest.importorskip("triton")
    monkeypatch.setattr("torch.nn.init.trunc_normal_", lambda tensor, *_: tensor)
    file = ROOT / "resnet" / "configs" / f"{name}.toml"
    config = replace(load_config(file, Config), graphs=Graphs(step=False, evaluation=False))
    return TrainingStep(config, torch.device("meta"), 0, 1, [RATE] * 3)


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_step_is_one_piece_of_device_work(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, backward, gradients, update and evaluation read nothing on the host and copy
    nothing to it or from it, so that nothing would break the graph into two."""
    step = make_device_step(name, monkeypatch)
    with DeviceWork() as work:
        step.run(lambda images, labels: None)
        step.model.eval()
        step.evaluate()
    assert work.mixed == [] and work.operations > 800


def test_what_would_break_the_graph_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    step = make_device_step("h200_4x8", monkeypatch)
    model = step.model

    def run(change: Callable[[Tensor], Tensor]) -> DeviceWork:
        step.model = lambda images: change(model(images))  # type: ignore[assignment]
        with DeviceWork() as work:
            step.run(lambda images, labels: None)
        return work

    assert run(lambda logits: logits).mixed == []
    for read in (Tensor.item, Tensor.tolist, Tensor.cpu, torch.nonzero):
        with pytest.raises(RuntimeError):
            run(lambda logits, read=read: logits * read(logits.sum()))  # type: ignore[misc]
    assert run(lambda logits: logits * torch.ones(())).mixed != []  # a copy from the host


def test_graphs_need_a_gpu() -> None:
    config = make_config()
    for graphs in (Graphs(step=True, evaluation=False), Graphs(step=False, evaluation=True)):
        with pytest.raises(InputError, match="where torch finds a GPU"):
            make_step(replace(config, graphs=graphs))


if __name__ == "__main__":
    fork_ranks(run_rank, WORLD_SIZE, Path(sys.argv[1]))
