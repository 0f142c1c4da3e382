"""Gradients over ranks: the mean gradient of the joined batch, in few collectives that overlap.

One program runs on four ranks and writes what it saw, rank by rank; the tests compare that with
one process on all samples.
"""

from __future__ import annotations

import datetime
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.collectives import REDUCE_SCATTER
from harness.gradients import GradientReduction, broadcast_model
from harness.parameters import FlatParameters
from harness.weight_gathering import WeightGathering

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
WORLD_SIZE, SAMPLES, MICRO_BATCHES = 4, 6, 3


def launch(module: str, folder: Path, *arguments: object) -> list[dict[str, np.ndarray]]:
    """Run a test module as a program of several ranks; returns what each of them saved."""
    command = [sys.executable, "-m", module, str(folder), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    files = sorted(folder.glob("rank_*.npz"))
    return [dict(np.load(file, allow_pickle=False)) for file in files]


def fork_ranks(
    run_rank: Callable[[int], dict[str, np.ndarray]], world_size: int, folder: Path
) -> None:
    """Fork this program into ranks with a gloo group and save what each returns.

    The trainers' ranks find each other over MPI; here the modules are imported once for all.
    """
    torch.set_num_threads(1)
    name = str(folder / "store")

    def run(rank: int) -> None:
        store = dist.FileStore(name, world_size)
        limit = datetime.timedelta(seconds=300)  # for the others, where one rank fails
        dist.init_process_group("gloo", None, limit, world_size, rank, store)
        np.savez(folder / f"rank_{rank}.npz", **run_rank(rank))
        dist.destroy_process_group()

    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=run, args=(rank,)) for rank in range(world_size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    sys.exit(max(abs(rank.exitcode or 0) for rank in ranks))


def make_net(seed: int) -> nn.Module:
    """No coupling of samples: the gradient of a joined batch is the mean of its parts'."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def make_batch(rank: int, micro_batch: int) -> Tensor:
    """(SAMPLES, 5), another for every rank and micro-batch."""
    generator = torch.Generator().manual_seed(100 * rank + micro_batch)
    return torch.randn(SAMPLES, 5, generator=generator) + rank


def find_loss(outputs: Tensor) -> Tensor:
    return outputs.square().sum(1).mean()


def flatten(tensors: list[Tensor]) -> np.ndarray:
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).numpy().copy()


def flat_parameters(
    model: nn.Module, dtype: torch.dtype = torch.float32, rank: int = 0, shards: int = 1
) -> FlatParameters:
    """Each of the four tensors in a bucket of its own."""
    runs = [[parameter] for parameter in model.parameters()]
    return FlatParameters(model, runs, [], [], dtype, 1e-6, rank, shards)


def parameters_of(model: nn.Module) -> np.ndarray:
    return flatten(list(model.parameters()))


def gradients_in(parameters: FlatParameters, model: nn.Module) -> np.ndarray:
    """What the pools hold, in the order of the model's parameters."""
    places = {
        id(placed.parameter): pool.gradients[placed.start : placed.stop]
        for pool in parameters.pools
        for placed in pool.placed
    }
    return flatten([places[id(parameter)] for parameter in model.parameters()])


def gradients_of(model: nn.Module) -> np.ndarray:
    return flatten([parameter.grad for parameter in model.parameters()])


class Collectives:
    """Notes each collective as it begins, beside the backward hooks of the layers."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.all_reduce, self.reduce_scatter = dist.all_reduce, getattr(dist, REDUCE_SCATTER)

    def __enter__(self) -> Collectives:
        def all_reduce(tensor: Tensor, *arguments: object, **options: object) -> object:
            self.events.append(f"all-reduce {tensor.numel() * tensor.element_size()}")
            return self.all_reduce(tensor, *arguments, **options)

        def scatter(mine: Tensor, whole: Tensor, *arguments: object, **options: object) -> object:
            self.events.append(f"reduce-scatter {whole.numel() * whole.element_size()}")
            return self.reduce_scatter(mine, whole, *arguments, **options)

        dist.all_reduce = all_reduce
        setattr(dist, REDUCE_SCATTER, scatter)
        return self

    def __exit__(self, *_: object) -> None:
        dist.all_reduce = self.all_reduce
        setattr(dist, REDUCE_SCATTER, self.reduce_scatter)


def run_rank(rank: int) -> dict[str, np.ndarray]:
    """What every rank does, and what it saw."""
    found = {}
    model = make_net(seed=rank)  # other weights on every rank, until they are broadcast
    broadcast_model(model, WORLD_SIZE)
    parameters = flat_parameters(model)
    reduction = GradientReduction(parameters, WORLD_SIZE)
    found["parameters"] = parameters_of(model)
    reduction.begin(first=True, last=True)
    (find_loss(model(make_batch(rank, 0))) / WORLD_SIZE).backward()
    reduction.finish()
    found["mean"] = gradients_in(parameters, model)

    with Collectives() as collectives:
        for micro_batch in range(MICRO_BATCHES):
            last = micro_batch == MICRO_BATCHES - 1
            reduction.begin(first=micro_batch == 0, last=last)
            hidden = model[1](model[0](make_batch(rank, micro_batch)))
            hidden.register_hook(lambda _: collectives.events.append("hidden gradient"))
            loss = find_loss(model[2](hidden))
            (loss / (MICRO_BATCHES * WORLD_SIZE)).backward()
            if not last:
                found[f"accumulated {micro_batch}"] = gradients_in(parameters, model)
        reduction.finish()
    found["accumulated"] = gradients_in(parameters, model)
    found["events"] = np.array(collectives.events)

    late_model = make_net(0)
    late_parameters = flat_parameters(late_model)
    late = GradientReduction(late_parameters, WORLD_SIZE, overlap=False)
    with Collectives() as collectives:
        late.begin(first=True, last=True)
        (find_loss(late_model(make_batch(rank, 0))) / WORLD_SIZE).backward()
        late.finish(lambda: collectives.events.append("before sending"))
    found["late"] = gradients_in(late_parameters, late_model)
    found["late events"] = np.array(collectives.events)
    return {**found, **run_sharded(rank)}


def run_sharded(rank: int) -> dict[str, np.ndarray]:
    """The same backward pass with a 16-bit pool of which every rank owns a part."""
    model = make_net(0)
    parameters = flat_parameters(model, torch.bfloat16, rank, WORLD_SIZE)
    (pool,) = parameters.pools
    reduction = GradientReduction(parameters, WORLD_SIZE)
    with Collectives() as collectives:
        reduction.begin(first=True, last=True)
        loss = find_loss(model(make_batch(rank, 0).bfloat16()).float())
        (loss / WORLD_SIZE).backward()
        reduction.finish()
    pool.owned_weights.copy_(pool.owned_gradients)
    WeightGathering(parameters, [model]).gather()
    places = {id(placed.parameter): placed for placed in pool.placed}
    gathered = [places[id(parameter)] for parameter in model.parameters()]
    return {
        "sharded": flatten([pool.weights[p.start : p.stop].float() for p in gathered]),
        "sharded events": np.array(collectives.events),
    }


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """What each rank saw."""
    return launch("tests.harness.test_gradients", tmp_path_factory.mktemp("ranks"))


def find_joined_gradient(micro_batches: int) -> np.ndarray:
    """The gradient of one process on the batches of all ranks."""
    model = make_net(0)
    batches = [make_batch(r, m) for r in range(WORLD_SIZE) for m in range(micro_batches)]
    find_loss(model(torch.cat(batches))).backward()
    return gradients_of(model)


def test_weights_are_rank_0s(seen: list[dict[str, np.ndarray]]) -> None:
    assert len(seen) == WORLD_SIZE
    for found in seen:
        assert np.array_equal(found["parameters"], parameters_of(make_net(0)))
    assert not np.array_equal(seen[0]["parameters"], parameters_of(make_net(1)))


@pytest.mark.parametrize("name", ["mean", "late"])
def test_the_gradient_is_that_of_the_joined_batch(
    seen: list[dict[str, np.ndarray]], name: str
) -> None:
    for found in seen:
        np.testing.assert_allclose(found[name], find_joined_gradient(1), rtol=1e-5, atol=1e-6)
        assert np.array_equal(found[name], seen[0][name])  # the ranks never drift apart


def test_gradients_of_earlier_micro_batches_add_up_and_stay_on_their_rank(
    seen: list[dict[str, np.ndarray]],
) -> None:
    for rank, found in enumerate(seen):
        model = make_net(0)
        for micro_batch in range(MICRO_BATCHES - 1):
            loss = find_loss(model(make_batch(rank, micro_batch)))
            (loss / (MICRO_BATCHES * WORLD_SIZE)).backward()
            np.testing.assert_allclose(
                found[f"accumulated {micro_batch}"], gradients_of(model), rtol=1e-5, atol=1e-6
            )
    assert not np.allclose(seen[0]["accumulated 0"], seen[1]["accumulated 0"])


def test_the_last_micro_batch_averages_all_of_them(seen: list[dict[str, np.ndarray]]) -> None:
    for found in seen:
        wanted = find_joined_gradient(MICRO_BATCHES)
        np.testing.assert_allclose(found["accumulated"], wanted, rtol=1e-5, atol=1e-6)


def test_a_bucket_is_sent_while_backward_goes_on(seen: list[dict[str, np.ndarray]]) -> None:
    """Only in the last micro-batch; the second layer's before the gradient of what feeds it.

    Four tensors of one chunk of 256 elements each, 4 bytes an element.
    """
    for found in seen:
        events = found["events"].tolist()
        assert events[: MICRO_BATCHES - 1] == ["hidden gradient"] * (MICRO_BATCHES - 1)
        last = events[MICRO_BATCHES - 1 :]
        assert sorted(last) == ["all-reduce 1024"] * 4 + ["hidden gradient"]
        assert last[-1] == "all-reduce 1024" and last.index("hidden gradient") > 0


def test_without_overlap_nothing_is_sent_before_all_is_there(
    seen: list[dict[str, np.ndarray]],
) -> None:
    for found in seen:
        assert found["late events"].tolist() == ["before sending"] + ["all-reduce 1024"] * 4


def test_a_sharded_pool_is_scattered_and_gathered_in_16_bit(
    seen: list[dict[str, np.ndarray]],
) -> None:
    """Buckets are filled up to a chunk for each rank: 1,024 elements of 2 bytes."""
    wanted = find_joined_gradient(1)
    for found in seen:
        assert found["sharded events"].tolist() == ["reduce-scatter 2048"] * 4
        assert np.array_equal(found["sharded"], seen[0]["sharded"])
        assert np.linalg.norm(found["sharded"] - wanted) < 0.02 * np.linalg.norm(wanted)


def test_a_single_rank_sends_nothing() -> None:
    model = make_net(0)
    broadcast_model(model, 1)
    parameters = flat_parameters(model)
    reduction = GradientReduction(parameters, 1)
    reduction.begin(first=True, last=True)
    find_loss(model(make_batch(0, 0))).backward()
    reduction.finish()
    assert all(parameter.grad is None for parameter in model.parameters())
    again = make_net(0)
    find_loss(again(make_batch(0, 0))).backward()
    assert np.array_equal(gradients_in(parameters, model), gradients_of(again))


def test_a_parameter_without_gradient_is_missed() -> None:
    model = make_net(0)
    reduction = GradientReduction(flat_parameters(model), 1)
    reduction.begin(first=True, last=True)
    model[0](make_batch(0, 0)).sum().backward()
    with pytest.raises(RuntimeError, match="2 parameters had no gradient"):
        reduction.finish()


if __name__ == "__main__":
    fork_ranks(run_rank, WORLD_SIZE, Path(sys.argv[1]))
