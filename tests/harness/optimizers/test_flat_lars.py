"""LARS over flat buffers: the plain optimizer's weights, the reference's, whatever the provider."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.ops.table import TABLE, resolve
from harness.optimizers import LARS
from harness.optimizers.flat_lars import FlatLARS
from harness.parameters import FlatParameters
from harness.schedules import PolynomialWarmup
from tests.harness.optimizers.flat_model import (
    ADAPTED,
    SHAPES,
    ZERO_WEIGHT,
    Bag,
    draw,
    draw_gradients,
    flatten_bag,
    measure_error,
    put_gradients,
    read_masters,
)
from tests.harness.test_optimizers import lars_oracle, read_golden

CPU = torch.device("cpu")
PROVIDERS = sorted(TABLE["lars_update"])
OPTIONS = {"momentum": 0.9, "weight_decay": 5e-5, "trust_coefficient": 0.001, "eps": 0.0}


def make(
    parameters: FlatParameters,
    rates: list[float],
    provider: str,
    gradient_scale: float = 1.0,
    **options: float,
) -> FlatLARS:
    return FlatLARS(
        parameters,
        resolve("lars_update", provider),
        rates,
        gradient_scale=gradient_scale,
        device=CPU,
        **{**OPTIONS, **options},
    )


def make_plain(values: list[torch.Tensor]) -> tuple[list[torch.nn.Parameter], LARS]:
    tensors = [torch.nn.Parameter(value.clone()) for value in values]
    skipped = [number for number in range(len(tensors)) if number not in ADAPTED]
    groups: list[dict[str, Any]] = [
        {"params": [tensors[number] for number in ADAPTED]},
        {"params": [tensors[number] for number in skipped], "adapt": False},
    ]
    return tensors, LARS(groups, lr=0.0, **OPTIONS)


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(
    ("dtype", "scale"), [(torch.float32, 1.0), (torch.bfloat16, 1.0), (torch.float16, 64.0)]
)
def test_the_weights_are_the_plain_optimizers(
    provider: str, dtype: torch.dtype, scale: float
) -> None:
    """Over rising and falling rates, of gradients that both get in the pool's type."""
    values, steps = draw(SHAPES, 5), 12
    schedule = PolynomialWarmup(2.0, 0.0001, warmup_steps=4, total_steps=steps)
    rates = [schedule(step) for step in range(steps)]
    bag = Bag(values)
    parameters = flatten_bag(bag, ADAPTED, dtype)
    flat = make(parameters, rates, provider, scale)
    tensors, plain = make_plain(values)
    for step, rate in enumerate(rates):
        gradients = draw_gradients(step)
        given = [(g * scale).to(dtype).float() / scale if g.dim() > 1 else g for g in gradients]
        put_gradients(
            parameters,
            bag,
            [(g * scale).to(dtype) if g.dim() > 1 else g * scale for g in gradients],
        )
        flat.update()
        for group in plain.param_groups:
            group["lr"] = rate
        for tensor, gradient in zip(tensors, given, strict=True):
            tensor.grad = gradient
        plain.step()
    for ours, theirs in zip(read_masters(parameters, bag), tensors, strict=True):
        assert measure_error(ours, theirs.detach()) < 1e-5
    for pool in parameters.pools:
        assert torch.equal(pool.weights, pool.master.to(pool.dtype))
        covered = torch.zeros(pool.length, dtype=torch.bool)
        for placed in pool.placed:
            covered[placed.start : placed.stop] = True
        assert not covered.all() and not pool.master[~covered].any()  # what fills chunks stays 0


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_equation_in_fp64_over_200_steps(provider: str) -> None:
    """Weights and gradients that are zero throughout or for a while, and a rate for every step."""
    values, steps = draw(SHAPES, 7), 200
    schedule = PolynomialWarmup(2.0, 0.0001, warmup_steps=20, total_steps=steps)
    rates = [schedule(step) for step in range(steps)]
    bag = Bag(values)
    parameters = flatten_bag(bag, ADAPTED)
    optimizer = make(parameters, rates, provider, weight_decay=1e-4)
    weights = [value.double().numpy() for value in values]
    momenta = [np.zeros_like(weight) for weight in weights]
    for step, rate in enumerate(rates):
        gradients = draw_gradients(step)
        if step < 3:
            gradients[ZERO_WEIGHT].zero_()  # its weight stays zero until then
        put_gradients(parameters, bag, gradients)
        optimizer.update()
        for i, gradient in enumerate(gradients):
            weights[i], momenta[i] = lars_oracle(
                weights[i], momenta[i], gradient.double().numpy(), rate, i in ADAPTED
            )
        if step == 2:
            assert not read_masters(parameters, bag)[ZERO_WEIGHT].any()
    for ours, theirs in zip(read_masters(parameters, bag), weights, strict=True):
        assert measure_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("provider", PROVIDERS)
def test_the_reference_over_its_eight_steps(provider: str) -> None:
    golden = read_golden("resnet/lars.npz")
    names = [key.removeprefix("init/") for key in golden if key.startswith("init/")]
    adapted = [
        number
        for number, name in enumerate(names)
        if "batch_normalization" not in name and "bias" not in name
    ]
    bag = Bag([torch.from_numpy(golden[f"init/{name}"]) for name in names])
    parameters = flatten_bag(bag, adapted)
    options = {"momentum": float(golden["momentum"]), "eps": float(golden["epsilon"])}
    options |= {"weight_decay": float(golden["weight_decay"])}
    options |= {"trust_coefficient": float(golden["eeta"])}
    optimizer = make(parameters, [float(rate) for rate in golden["lr"]], provider, **options)
    for step in range(len(golden["lr"])):
        gradients = [torch.from_numpy(golden[f"grad{step}/{name}"]) for name in names]
        put_gradients(parameters, bag, gradients)
        optimizer.update()
        for name, found in zip(names, read_masters(parameters, bag), strict=True):
            assert measure_error(found, golden[f"param{step}/{name}"]) <= 1e-5, (step, name)


def test_rates_are_the_schedules_rounded_to_fp32() -> None:
    schedule = PolynomialWarmup(10.5, 0.0001, warmup_steps=786, total_steps=14541)
    rates = [schedule(step) for step in range(15_327)]
    optimizer = make(flatten_bag(Bag(draw(SHAPES, 1)), ADAPTED), rates, "torch")
    for step in (0, 1, 393, 786, 787, 3930, 13_754, 14_540, 15_326, 99_999):
        optimizer.schedule.number.fill_(step)
        wanted = torch.tensor([rates[min(step, 15_326)]], dtype=torch.float32)
        assert torch.equal(optimizer.schedule.read(), wanted)


def test_a_schedule_of_no_update_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one update"):
        make(flatten_bag(Bag(draw(SHAPES, 1)), ADAPTED), [], "torch")


def test_a_sharded_pool_is_refused() -> None:
    parameters = flatten_bag(Bag(draw(SHAPES, 1)), ADAPTED, torch.bfloat16, shards=2)
    with pytest.raises(ValueError, match="shard no pool"):
        make(parameters, [0.1], "torch")
