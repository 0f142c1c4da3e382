"""Averaging over ranks: the mean gradient of the joined batch, each rank's own statistics.

One program runs on four ranks and writes what it saw, rank by rank; the tests compare that with
one process on all samples.
"""

from __future__ import annotations

import datetime
import multiprocessing
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.gradients import distribute, hold_back, list_gradients, set_learning_rate

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
WORLD_SIZE, SAMPLES, MICRO_BATCHES = 4, 6, 3


def launch(module: str, folder: Path, *arguments: object) -> list[dict[str, np.ndarray]]:
    """Run a test module as a program of several ranks; returns what each of them saved."""
    command = [sys.executable, "-m", module, str(folder), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
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
    import torch._dynamo  # the wrapper imports it: once, before the fork

    torch.set_num_threads(1)
    name = str(folder / "store")

    def run(rank: int) -> None:
        store = dist.FileStore(name, world_size)
        limit = datetime.timedelta(seconds=60)  # for the others, where one rank fails
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


def make_normalised_net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 3))


def make_batch(rank: int, micro_batch: int) -> Tensor:
    """(SAMPLES, 5), another for every rank and micro-batch."""
    generator = torch.Generator().manual_seed(100 * rank + micro_batch)
    return torch.randn(SAMPLES, 5, generator=generator) + rank


def find_loss(outputs: Tensor) -> Tensor:
    return outputs.square().sum(1).mean()


def flatten(tensors: list[Tensor]) -> np.ndarray:
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).numpy().copy()


def parameters_of(model: nn.Module) -> np.ndarray:
    return flatten(list(model.parameters()))


def gradients_of(model: nn.Module) -> np.ndarray:
    return flatten([parameter.grad for parameter in model.parameters()])


def run_rank(rank: int) -> dict[str, np.ndarray]:
    """What every rank does, and what it saw."""
    found = {}
    model = make_net(seed=rank)  # other weights on every rank, until they are distributed
    distributed = distribute(model, CPU, WORLD_SIZE, bucket_megabytes=1)
    found["parameters"] = parameters_of(model)
    find_loss(distributed(make_batch(rank, 0))).backward()
    found["mean"] = gradients_of(model)

    for parameter in model.parameters():
        parameter.grad.zero_()
    for micro_batch in range(MICRO_BATCHES):
        last = micro_batch == MICRO_BATCHES - 1
        with nullcontext() if last else hold_back(distributed):
            loss = find_loss(distributed(make_batch(rank, micro_batch)))
            (loss / MICRO_BATCHES).backward()
        found[f"accumulated {micro_batch}"] = gradients_of(model)

    normalised = make_normalised_net(seed=10 + rank)
    normalised[1].running_mean.fill_(float(rank + 1))
    distributed = distribute(normalised, CPU, WORLD_SIZE, bucket_megabytes=1)
    found["first mean"] = normalised[1].running_mean.numpy().copy()
    for micro_batch in range(2):
        find_loss(distributed(make_batch(rank, micro_batch))).backward()
    found["last mean"] = normalised[1].running_mean.numpy().copy()
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    """What each rank saw."""
    return launch("tests.harness.test_gradients", tmp_path_factory.mktemp("ranks"))


def test_weights_are_rank_0s(seen: list[dict[str, np.ndarray]]) -> None:
    for found in seen:
        assert np.array_equal(found["parameters"], parameters_of(make_net(0)))
    assert not np.array_equal(seen[0]["parameters"], parameters_of(make_net(1)))


def test_the_gradient_is_that_of_the_joined_batch(seen: list[dict[str, np.ndarray]]) -> None:
    model = make_net(0)
    find_loss(model(torch.cat([make_batch(rank, 0) for rank in range(WORLD_SIZE)]))).backward()
    for found in seen:
        np.testing.assert_allclose(found["mean"], gradients_of(model), rtol=1e-5, atol=1e-6)
        assert np.array_equal(found["mean"], seen[0]["mean"])  # the ranks never drift apart


def test_held_back_gradients_add_up_and_stay_on_their_rank(
    seen: list[dict[str, np.ndarray]],
) -> None:
    for rank, found in enumerate(seen):
        model = make_net(0)
        for micro_batch in range(MICRO_BATCHES - 1):
            (find_loss(model(make_batch(rank, micro_batch))) / MICRO_BATCHES).backward()
            np.testing.assert_allclose(
                found[f"accumulated {micro_batch}"], gradients_of(model), rtol=1e-5, atol=1e-6
            )
    assert not np.allclose(seen[0]["accumulated 0"], seen[1]["accumulated 0"])


def test_the_last_micro_batch_averages_all_of_them(seen: list[dict[str, np.ndarray]]) -> None:
    model = make_net(0)
    batches = [make_batch(r, m) for r in range(WORLD_SIZE) for m in range(MICRO_BATCHES)]
    find_loss(model(torch.cat(batches))).backward()
    for found in seen:
        gradient = found[f"accumulated {MICRO_BATCHES - 1}"]
        np.testing.assert_allclose(gradient, gradients_of(model), rtol=1e-5, atol=1e-6)


def test_statistics_start_as_rank_0s_and_stay_each_ranks_own(
    seen: list[dict[str, np.ndarray]],
) -> None:
    weight, bias = make_normalised_net(10)[0].weight, make_normalised_net(10)[0].bias
    for rank, found in enumerate(seen):
        assert np.array_equal(found["first mean"], np.full(7, 1.0, np.float32))
        mean = torch.ones(7)
        for micro_batch in range(2):  # the weights are not updated in between
            batch_mean = (make_batch(rank, micro_batch) @ weight.T + bias).mean(0)
            mean = 0.9 * mean + 0.1 * batch_mean
        np.testing.assert_allclose(found["last mean"], mean.detach().numpy(), rtol=1e-4, atol=1e-5)
    assert not np.allclose(seen[0]["last mean"], seen[1]["last mean"])


def test_a_single_rank_needs_no_wrapper() -> None:
    model = make_net(0)
    assert distribute(model, CPU, 1, bucket_megabytes=1) is model
    for _ in range(2):
        with hold_back(model):
            find_loss(model(make_batch(0, 0))).backward()
    twice = gradients_of(model)
    model.zero_grad()
    find_loss(model(make_batch(0, 0))).backward()
    np.testing.assert_allclose(twice, 2 * gradients_of(model), rtol=1e-6)


def test_gradients_are_listed_in_the_optimizers_order() -> None:
    model = make_net(0)
    first, second = list(model[0].parameters()), list(model[2].parameters())
    optimizer = torch.optim.SGD([{"params": second}, {"params": first}], lr=0.1)
    assert list_gradients(optimizer) == []
    find_loss(model(make_batch(0, 0))).backward()
    first[0].grad = None
    listed = list_gradients(optimizer)
    wanted = [second[0].grad, second[1].grad, first[1].grad]
    assert [id(gradient) for gradient in listed] == [id(gradient) for gradient in wanted]


def test_every_group_gets_the_learning_rate() -> None:
    model = make_net(0)
    groups = [{"params": model[0].parameters(), "lr": 1.0}, {"params": model[2].parameters()}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


if __name__ == "__main__":
    fork_ranks(run_rank, WORLD_SIZE, Path(sys.argv[1]))
