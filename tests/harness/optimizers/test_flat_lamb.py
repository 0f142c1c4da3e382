"""LAMB over flat buffers, sharded or not: the plain optimizer's weights and the reference's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.ops.table import TABLE, resolve
from harness.optimizers import LAMB
from harness.optimizers.flat_lamb import FlatLAMB
from harness.parameters import FlatParameters
from harness.weight_gathering import WeightGathering
from tests.harness.optimizers.flat_model import (
    ADAPTED,
    SHAPES,
    Bag,
    draw,
    draw_gradients,
    flatten_bag,
    measure_error,
    put_gradients,
    read_masters,
)
from tests.harness.test_gradients import flatten, fork_ranks, launch
from tests.harness.test_optimizers import read_golden

CPU = torch.device("cpu")
PROVIDERS = sorted(TABLE["lamb"].keys() - {"apex"})  # tests/harness/ops/test_lamb_apex.py
BETAS, EPS, DECAY = (0.6, 0.85), 1e-6, 0.1
RATES = [0.02, 0.05, 0.04, 0.03, 0.02, 0.0]


def make(
    parameters: FlatParameters,
    rates: list[float],
    provider: str = "torch",
    betas: tuple[float, float] = BETAS,
    eps: float = EPS,
    weight_decay: float = DECAY,
    limit: float | None = 1.0,
    gradient_scale: float = 1.0,
) -> FlatLAMB:
    optimizer: FlatLAMB = resolve("lamb", provider)(
        parameters, rates, betas, eps, weight_decay, limit, gradient_scale, CPU
    )
    return optimizer


def run_plain(values: list[torch.Tensor], size: float, limit: float | None) -> list[torch.Tensor]:
    tensors = [torch.nn.Parameter(value.clone()) for value in values]
    skipped = [number for number in range(len(tensors)) if number not in ADAPTED]
    groups: list[dict[str, Any]] = [
        {"params": [tensors[number] for number in ADAPTED]},
        {"params": [tensors[number] for number in skipped], "adapt": False},
    ]
    plain = LAMB(groups, 0.0, BETAS, EPS, DECAY, limit)
    for step, rate in enumerate(RATES):
        for group in plain.param_groups:
            group["lr"] = rate
        for tensor, gradient in zip(tensors, draw_gradients(step, size), strict=True):
            tensor.grad = gradient
        plain.step()
    return [tensor.detach() for tensor in tensors]


def run_flat(
    values: list[torch.Tensor], size: float, **options: Any
) -> tuple[list[torch.Tensor], FlatLAMB]:
    bag = Bag(values)
    parameters = flatten_bag(bag, ADAPTED)
    optimizer = make(parameters, RATES, **options)
    for step in range(len(RATES)):
        scale = optimizer.gradient_scale
        put_gradients(parameters, bag, [scale * g for g in draw_gradients(step, size)])
        optimizer.update()
    return read_masters(parameters, bag), optimizer


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("size", "limit"), [(1e-3, 1.0), (0.5, 1.0), (0.5, None)])
def test_the_weights_are_the_plain_optimizers(
    provider: str, size: float, limit: float | None
) -> None:
    """Clipped, not clipped because small, and with clipping turned off."""
    values = draw(SHAPES, 5)
    found, optimizer = run_flat(values, size, provider=provider, limit=limit)
    for ours, theirs in zip(found, run_plain(values, size, limit), strict=True):
        assert measure_error(ours, theirs) < 1e-5
    assert int(optimizer.overflows) == 0 and int(optimizer.schedule.number) == len(RATES)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_scaled_gradient_gives_the_same_weights(provider: str) -> None:
    values = draw(SHAPES, 6)
    plain, _ = run_flat(values, 0.5, provider=provider)
    scaled, _ = run_flat(values, 0.5, provider=provider, gradient_scale=1024.0)
    for ours, theirs in zip(scaled, plain, strict=True):
        assert measure_error(ours, theirs) < 1e-6


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_reference_over_its_six_steps(provider: str) -> None:
    golden = read_golden("bert/lamb.npz")
    names = [key.removeprefix("init/") for key in golden if key.startswith("init/")]
    adapted = [n for n, name in enumerate(names) if "LayerNorm" not in name and "bias" not in name]
    bag = Bag([torch.from_numpy(golden[f"init/{name}"]) for name in names])
    parameters = flatten_bag(bag, adapted)
    optimizer = make(
        parameters,
        [float(rate) for rate in golden["lr"]],
        provider,
        (float(golden["beta1"]), float(golden["beta2"])),
        float(golden["epsilon"]),
        float(golden["weight_decay"]),
    )
    for step in range(len(golden["lr"])):
        gradients = [torch.from_numpy(golden[f"grad{step}/{name}"]) for name in names]
        put_gradients(parameters, bag, gradients)
        optimizer.update()
        for name, found in zip(names, read_masters(parameters, bag), strict=True):
            assert measure_error(found, golden[f"param{step}/{name}"]) <= 1e-5, (step, name)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(
    provider: str, bad: float
) -> None:
    bag = Bag(draw(SHAPES, 7))
    parameters = flatten_bag(bag, ADAPTED, torch.float16)
    optimizer = make(parameters, RATES, provider)
    put_gradients(parameters, bag, draw_gradients(0))
    optimizer.update()
    before = [tensor.clone() for tensor in [*parameters.weights(), *optimizer.means]]
    squares = [tensor.clone() for tensor in optimizer.squares]
    gradients = draw_gradients(1)
    gradients[2][3, 4] = bad
    put_gradients(parameters, bag, gradients)
    optimizer.update()
    after = [*parameters.weights(), *optimizer.means, *optimizer.squares]
    for one, other in zip([*before, *squares], after, strict=True):
        assert torch.equal(one, other)
    assert int(optimizer.overflows) == 1 and int(optimizer.schedule.number) == 1
    put_gradients(parameters, bag, draw_gradients(2))
    optimizer.update()
    assert int(optimizer.overflows) == 1
    assert not torch.equal(before[0], parameters.weights()[0])


# --- sharded over ranks


def run_rank(rank: int) -> dict[str, np.ndarray]:
    """Every rank updates its part of the 16-bit pool; gradients are the same on all."""
    world_size = int(sys.argv[2])
    bag = Bag(draw(SHAPES, 5))
    parameters = flatten_bag(bag, ADAPTED, torch.bfloat16, rank=rank, shards=world_size)
    optimizer = make(parameters, RATES)
    sharded, gathering = parameters.pools[0], WeightGathering(parameters, [bag])
    for step in range(len(RATES)):
        put_gradients(parameters, bag, draw_gradients(step, 0.5))
        optimizer.update()
    gathering.gather()
    weights = flatten([value.float() for value in bag.values])
    if rank == world_size - 1:  # only this rank's part of the last bucket is not finite
        sharded.owned_gradients[-1] = torch.inf
    optimizer.schedule.number.zero_()
    optimizer.update()
    gathering.gather()
    return {
        "weights": weights,
        "after overflow": flatten([value.float() for value in bag.values]),
        "overflows": optimizer.overflows.numpy(),
        "owned": np.array(sharded.master.numel()),
        "length": np.array(sharded.length),
    }


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_sharding_changes_no_weight(tmp_path: Path, world_size: int) -> None:
    found = launch("tests.harness.optimizers.test_flat_lamb", tmp_path, world_size)
    assert len(found) == world_size
    bag = Bag(draw(SHAPES, 5))
    parameters = flatten_bag(bag, ADAPTED, torch.bfloat16)
    optimizer = make(parameters, RATES)
    for step in range(len(RATES)):
        put_gradients(parameters, bag, draw_gradients(step, 0.5))
        optimizer.update()
    wanted = flatten([value.float() for value in bag.values])
    for ranks in found:
        assert np.array_equal(ranks["weights"], found[0]["weights"])
        assert int(ranks["owned"]) * world_size == int(ranks["length"])
        assert ranks["overflows"].tolist() == [1]  # one rank's overflow is every rank's
        assert np.array_equal(ranks["after overflow"], ranks["weights"])
        # Norms are added up in another order: rarely a weight rounds to the next bf16 number.
        near = np.isclose(ranks["weights"], wanted, rtol=1e-5, atol=1e-7)
        assert near.mean() > 0.999
        np.testing.assert_allclose(ranks["weights"], wanted, rtol=2**-7, atol=1e-6)


if __name__ == "__main__":
    fork_ranks(run_rank, int(sys.argv[2]), Path(sys.argv[1]))
