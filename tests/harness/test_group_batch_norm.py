"""Normalisation over a group of ranks: that of the joined batch, values and gradients."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from harness.ops.batch_norm import batch_norm
from harness.ops.group_batch_norm import group_batch_norm, over_group
from harness.ops.table import resolve
from harness.process_group import join_subgroup
from tests.harness.test_gradients import fork_ranks, launch

WORLD_SIZE, GROUP = 4, 2
MOMENTUM, EPS = 0.1, 1e-5
PAIR = "batch_norm_batch_norm_add_relu"
# How many tensors are added, and how many of them are normalised.
OPERATIONS = {"batch_norm_relu": (1, 1), "batch_norm_add_relu": (2, 1), PAIR: (2, 2)}
POOL = "batch_norm_relu_max_pool"
OPERATIONS |= {POOL: (1, 1)}


def make_inputs(rank: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Images and the gradient that comes back for them; the mean differs from rank to rank."""
    generator = torch.Generator().manual_seed(rank)
    x = torch.randn(3, 5, 4, 2, generator=generator) * (1 + rank) + 10 * rank
    return x.to(dtype), torch.randn(x.shape, generator=generator).to(dtype)


def make_parameters() -> list[Tensor]:
    weight, bias = torch.linspace(0.5, 2, 5), torch.linspace(-1, 1, 5)
    return [weight.requires_grad_(), bias.requires_grad_(), torch.zeros(5), torch.ones(5)]


def run_rank(rank: int) -> dict[str, np.ndarray]:
    group = join_subgroup(rank, WORLD_SIZE, GROUP)
    found = {"size": np.array(group.size())}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        x, gradient = make_inputs(rank, dtype)
        x.requires_grad_()
        weight, bias, mean, var = make_parameters()
        y = group_batch_norm(x, weight, bias, mean, var, MOMENTUM, EPS, group)
        y.backward(gradient)
        tensors = {"y": y, "x": x.grad, "weight": weight.grad, "bias": bias.grad}
        tensors |= {"mean": mean, "var": var}
        found |= {f"{name} {key}": t.detach().float().numpy() for key, t in tensors.items()}
    for name, (inputs, normalised) in OPERATIONS.items():
        operation = over_group(resolve(name, "torch"), group, inputs, normalised, name == POOL)
        leaves, gradient = make_leaves([rank], inputs)
        values = make_vectors(normalised)
        results = operation(*leaves, *values, True, MOMENTUM, EPS)
        (results[1] if inputs == 2 else results).backward(crop(name, gradient))
        moved = [vector for vector in values if not vector.requires_grad]
        found |= {f"{name} {k}": leaf.grad.numpy() for k, leaf in enumerate(leaves)}
        found |= {f"{name} moved {k}": vector.numpy() for k, vector in enumerate(moved)}
        y = operation(*leaves, *values, False, MOMENTUM, EPS)  # in evaluation each by itself
        found[f"{name} alone"] = (y[0] if inputs == 2 else y).detach().numpy()
    dist.barrier()
    return found


def make_leaves(ranks: list[int], inputs: int) -> tuple[list[Tensor], Tensor]:
    """The tensors that are added, of these ranks together, and the gradient of their sum."""
    made = [[make_inputs(rank + 10 * k, torch.float32) for rank in ranks] for k in range(inputs)]
    leaves = [torch.cat([x for x, _ in one]).requires_grad_() for one in made]
    return leaves, torch.cat([gradient for _, gradient in made[0]])


def crop(name: str, gradient: Tensor) -> Tensor:
    """A pooled result has half as many rows and columns."""
    return gradient[:, :, :2, :1] if name == POOL else gradient


def make_vectors(normalised: int) -> list[Tensor]:
    return [vector for _ in range(normalised) for vector in make_parameters()]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, np.ndarray]]:
    return launch("tests.harness.test_group_batch_norm", tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize(("name", "limit"), [("fp32", 2e-5), ("bf16", 2e-2)])
def test_a_group_is_one_batch(seen: list[dict[str, np.ndarray]], name: str, limit: float) -> None:
    assert len(seen) == WORLD_SIZE
    for first in range(0, WORLD_SIZE, GROUP):
        ranks = range(first, first + GROUP)
        inputs = [make_inputs(rank, torch.float32) for rank in ranks]
        x = torch.cat([image for image, _ in inputs]).requires_grad_()
        weight, bias, mean, var = make_parameters()
        y = batch_norm(x, weight, bias, mean, var, True, MOMENTUM, EPS)
        y.backward(torch.cat([gradient for _, gradient in inputs]))

        def check(found: np.ndarray, wanted: Tensor) -> None:
            scale = float(wanted.detach().abs().max())
            assert np.abs(found - wanted.detach().numpy()).max() < limit * scale

        for key, wanted in (("y", y), ("x", x.grad)):
            check(np.concatenate([seen[rank][f"{name} {key}"] for rank in ranks]), wanted)
        for key, wanted in (("weight", weight.grad), ("bias", bias.grad)):
            check(sum(seen[rank][f"{name} {key}"] for rank in ranks), wanted)
        for rank in ranks:
            assert int(seen[rank]["size"]) == GROUP
            check(seen[rank][f"{name} mean"], mean)
            check(seen[rank][f"{name} var"], var)


@pytest.mark.parametrize("name", [*OPERATIONS])
def test_every_operation_of_the_model_is_that_of_the_joined_batch(
    seen: list[dict[str, np.ndarray]], name: str
) -> None:
    inputs, normalised = OPERATIONS[name]
    for first in range(0, WORLD_SIZE, GROUP):
        ranks = list(range(first, first + GROUP))
        leaves, gradient = make_leaves(ranks, inputs)
        values = make_vectors(normalised)
        results = resolve(name, "torch")(*leaves, *values, True, MOMENTUM, EPS)
        (results[0] if inputs == 2 else results).backward(crop(name, gradient))
        for k, leaf in enumerate(leaves):
            joined = np.concatenate([seen[rank][f"{name} {k}"] for rank in ranks])
            assert leaf.grad is not None
            scale = float(leaf.grad.abs().max())
            assert np.abs(joined - leaf.grad.numpy()).max() < 1e-4 * scale
        moved = [vector for vector in values if not vector.requires_grad]
        for rank in ranks:
            for k, vector in enumerate(moved):
                found = seen[rank][f"{name} moved {k}"]
                np.testing.assert_allclose(found, vector.numpy(), rtol=1e-4, atol=1e-5)
            own, _ = make_leaves([rank], inputs)
            y = resolve(name, "torch")(*own, *values, False, MOMENTUM, EPS)
            y = (y[0] if inputs == 2 else y).detach().numpy()
            np.testing.assert_allclose(seen[rank][f"{name} alone"], y, rtol=1e-3, atol=1e-4)


def test_groups_are_apart(seen: list[dict[str, np.ndarray]]) -> None:
    assert np.array_equal(seen[0]["fp32 mean"], seen[1]["fp32 mean"])
    assert not np.allclose(seen[0]["fp32 mean"], seen[2]["fp32 mean"])


def test_a_group_that_does_not_divide_the_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="groups of 3 do not divide 4 ranks"):
        join_subgroup(0, 4, 3)


if __name__ == "__main__":
    fork_ranks(run_rank, WORLD_SIZE, Path(sys.argv[1]))
