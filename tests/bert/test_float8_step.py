"""A step in FP8 that scales by the step before: the first measures, all others do not."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bert.config import Config
from bert.probe import make_probe_batch
from bert.step import TrainingStep
from harness.config import load_config
from harness.precision import Precision
from perf.operations import count

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from tests.harness.ops.conftest import (  # noqa: F401  fixtures
    rounded_float8,
    rounded_interpretation,
)

pytestmark = [
    pytest.mark.usefixtures("rounded_float8"),
    pytest.mark.filterwarnings("ignore:(divide by zero|overflow|invalid value) encountered"),
]

FILE = Path(__file__).resolve().parents[2] / "bert" / "configs" / "demo.toml"
CPU = torch.device("cpu")
FLOAT8 = ("linear", "query_key_value", "feed_forward")
SEARCHES = ("find_largest", "find_largest_gelu", "find_largest_joined")


def make_config(provider: str) -> Config:
    config: Config = load_config(FILE, Config)
    sizes = {"hidden_size": 256, "intermediate_size": 320}  # whole chunks of the flat buffers
    model = replace(config.model, dropout=0.0, attention_dropout=0.0, **sizes)
    batch = replace(config.batch, local_batch_size=4)
    operations = config.operations | dict.fromkeys(FLOAT8, provider)
    precision = Precision("bf16", 1.0)
    return replace(config, model=model, batch=batch, operations=operations, precision=precision)


def make_step(config: Config) -> TrainingStep:
    torch.manual_seed(3)
    return TrainingStep(config, CPU, 0, 1, None, [0.01] * 4)


def count_searches(step: TrainingStep, config: Config) -> Counter[str]:
    """Searches for a largest number in one step of the run."""
    batch = make_probe_batch(config, CPU)
    operations = count(lambda: step.run(lambda _: batch)).operations
    assert operations["harness::cast_float8"] > 0
    return Counter({name: operations[f"harness::{name}"] for name in SEARCHES})


def test_the_first_step_measures_and_no_other_does() -> None:
    config = make_config("delayed")
    step, batch = make_step(config), make_probe_batch(config, CPU)
    assert step.histories is not None
    before = [tensor.clone() for tensor in step.state()]
    step.prepare([batch], [batch])
    # Warm-up leaves no trace, of scales neither.
    assert all(map(torch.equal, before, step.state())) and not step.histories.numbers.any()
    first = count_searches(step, config)
    layers = config.model.layers
    # Input, weight and gradient of four products; GELU, its gradient's bound, three gradients.
    assert first == {
        "find_largest": layers * (4 * 3 - 3 + 1),
        "find_largest_gelu": layers,
        "find_largest_joined": layers,
    }
    known, seen = step.histories.numbers.clone()
    assert not seen.any()
    # Query's weight stands for all three, whose other two have a history that nobody uses.
    assert ((known > 0).sum(1) == torch.tensor([3, 0, 0, 3, 3, 3] * layers)).all()
    assert not count_searches(step, config).total()
    changed = step.histories.numbers[0]
    assert ((changed > 0) == (known > 0)).all() and not torch.equal(changed, known)


def test_evaluation_follows_and_changes_nothing() -> None:
    config = make_config("delayed")
    step, batch = make_step(config), make_probe_batch(config, CPU)
    step.run(lambda _: batch)
    assert step.histories is not None
    known = step.histories.numbers.clone()
    step.model.eval()
    assert not count(lambda: step.evaluate(batch)).operations["harness::find_largest"]
    assert torch.equal(step.histories.numbers, known)


def test_two_steps_are_close_to_those_of_current_scaling() -> None:
    weights = {}
    for provider in ("torch", "scaled_mm", "delayed"):
        config = make_config(provider)
        step, batch = make_step(config), make_probe_batch(config, CPU)
        start = [pool.master.clone() for pool in step.parameters.pools]
        for _ in range(2):
            step.run(lambda _, batch=batch: batch)  # type: ignore[misc]
        pools = zip(step.parameters.pools, start, strict=True)
        weights[provider] = torch.cat([pool.master - before for pool, before in pools])
    moved = weights["torch"].norm()
    apart = {
        name: float((found - weights["torch"]).norm() / moved) for name, found in weights.items()
    }
    # LAMB divides by a gradient's own size, so that small ones count as much as large ones.
    assert apart["scaled_mm"] < 0.3 and apart["delayed"] < 1.2 * apart["scaled_mm"]
