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
from harness.ops.group_batch_norm import group_batch_norm
from harness.process_group import join_subgroup
from tests.harness.test_gradients import fork_ranks, launch

WORLD_SIZE, GROUP = 4, 2
MOMENTUM, EPS = 0.1, 1e-5


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
    dist.barrier()
    return found


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


def test_groups_are_apart(seen: list[dict[str, np.ndarray]]) -> None:
    assert np.array_equal(seen[0]["fp32 mean"], seen[1]["fp32 mean"])
    assert not np.allclose(seen[0]["fp32 mean"], seen[2]["fp32 mean"])


def test_a_group_that_does_not_divide_the_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="groups of 3 do not divide 4 ranks"):
        join_subgroup(0, 4, 3)


if __name__ == "__main__":
    fork_ranks(run_rank, WORLD_SIZE, Path(sys.argv[1]))
