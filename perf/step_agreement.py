"""Whole steps on one device: as configured, without graphs, and by the definitions, against fp32.

`python -m perf.step_agreement [--benchmark resnet|bert] [--config FILE] [--samples N]
[--updates N]` takes the same updates from the same weights on the same synthetic batch, without
dropout, and compares the first gradient and what the updates changed. Exact is: by the definitions,
in fp32. The configuration's operations in fp32 may be a hundredth from that, and a graph as much
from the step without one, or three times what that step differs from itself when it is taken again:
these are the sharp ones. In the configuration's format a step may be twice as far from exact as the
definitions are, which says little of ResNet: before it has learnt anything, 16 bit alone turn its
gradient into another one. Status 1: one is further. FP8 has no definition of its own format: its
distances from exact are printed and not judged.
"""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

import bert.config
import bert.step
import resnet.config
import resnet.step
from bert.probe import make_probe_batch
from harness.commands import GOOD, NOT_GOOD, Parser, run_command
from harness.config import load_config
from harness.graphs import release_graphs
from harness.ops.table import FLOAT8_PROVIDERS
from harness.parameters import Pool
from harness.progress import Progress
from harness.throughput import choose_device, describe_device
from perf.comparison import check_positive
from perf.providers import LIMITS
from resnet.model import IMAGE_CHANNELS
from resnet.probe import fill_with_noise, keep

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = {
    "resnet": ROOT / "resnet" / "configs" / "h100_4x8.toml",
    "bert": ROOT / "bert" / "configs" / "h100_4x4.toml",
}
# In fp32 the definitions keep several times what a step keeps: this many fit where a step does.
MOST_SAMPLES = {"resnet": 100, "bert": 32}
GRAPHS, EAGER, AGAIN = "as configured", "no graphs", "no graphs, again"
DEFINITIONS = "definitions"
WIDE, EXACT = "no graphs, fp32", "definitions, fp32"
# These compute in 16 bits or less: in fp32 the definition takes their place.
NARROW = ("flash", "flash_attn", "te", "apex", "scaled_mm", "delayed")
COARSE_SIDE = 7
QUANTITIES = ("gradient", "change")
# How often as far as the definitions, in the same format, a step may be: both round differently.
ALLOWED = 2.0
# In fp32, where both are exact but for the order of sums and the algorithms of convolutions; and of
# a replay, which may add up in another order than the step that was captured.
WIDE_LIMIT = REPLAY_LIMIT = 1e-2
REPLAYS = 3.0

Config = TypeVar("Config", resnet.config.Config, bert.config.Config)
Step = resnet.step.TrainingStep | bert.step.TrainingStep


@dataclass(frozen=True)
class Taken:
    """What some updates did, by tensor name: the first gradient, and the change of all weights.

    Both fp32 on the host, as they lie in the pools; the gradient times the loss scale.
    """

    gradient: dict[str, Tensor]
    change: dict[str, Tensor]


def copy_to_host(step: Step, buffer: Callable[[Pool], Tensor]) -> dict[str, Tensor]:
    """What a buffer of the pools, whole on this rank, holds of each tensor, in fp32."""
    names = {id(parameter): name for name, parameter in step.model.named_parameters()}
    found = {}
    for pool in step.parameters.pools:
        flat = buffer(pool).detach().to("cpu", torch.float32, copy=True)
        for placed in pool.placed:
            found[names[id(placed.parameter)]] = flat[placed.start : placed.stop]
    return found


def take_updates(step: Step, run: Callable[[], None], updates: int) -> Taken:
    """Take the updates and note what they did."""
    before = copy_to_host(step, lambda pool: pool.master)
    run()
    gradient = copy_to_host(step, lambda pool: pool.gradients)
    for _ in range(updates - 1):
        run()
    after = copy_to_host(step, lambda pool: pool.master)
    return Taken(gradient, {name: after[name] - before[name] for name in before})


def fill_with_shapes(config: resnet.config.Config, images: Tensor, labels: Tensor) -> None:
    """Write images that differ from each other as photographs do: noise of a few pixels a side.

    Fine noise is the same everywhere once it is averaged: normalisation would blow up what little
    differs, and rounding with it.
    """
    fill_with_noise(config, images, labels)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(len(images), IMAGE_CHANNELS, COARSE_SIDE, COARSE_SIDE, generator=generator)
    smooth = F.interpolate(coarse, size=images.shape[-2:], mode="bicubic", align_corners=False)
    images[:, :IMAGE_CHANNELS].copy_(smooth)


def run_resnet(config: resnet.config.Config, device: torch.device, updates: int) -> Taken:
    """ResNet's updates on one batch of coarse noise."""
    rates = [config.optimizer.base_learning_rate] * updates
    step = resnet.step.TrainingStep(config, device, 0, 1, rates)
    step.prepare(partial(fill_with_shapes, config))
    fill_with_shapes(config, step.images, step.labels)
    return take_updates(step, lambda: step.run(keep), updates)


def run_bert(config: bert.config.Config, device: torch.device, updates: int) -> Taken:
    """BERT's updates on one batch of Wikipedia's lengths."""
    rates = [config.optimizer.base_learning_rate] * updates
    step = bert.step.TrainingStep(config, device, 0, 1, None, rates)
    batch = make_probe_batch(config, device)
    step.prepare([batch], [])
    return take_updates(step, lambda: step.run(lambda _: batch), updates)


def limit_batch(config: Config, samples: int) -> Config:
    """The configuration with at most so many samples a micro-batch on each rank."""
    batch: Any = config.batch
    local = min(samples, batch.local_batch_size)
    changes = {"local_batch_size": local}
    changes["global_batch_size"] = local * batch.gradient_accumulation_steps
    if isinstance(batch, resnet.config.Batch):
        changes["batch_norm_span"] = local
    return replace(config, batch=replace(batch, **changes))


def vary(config: Config) -> dict[str, Config]:
    """The configuration in all forms, none of which drops anything out."""
    quiet: Any = config
    if isinstance(config, bert.config.Config):
        model = replace(config.model, dropout=0.0, attention_dropout=0.0)
        quiet = replace(config, model=model)
    eager = replace(quiet, graphs=replace(quiet.graphs, step=False, evaluation=False))
    definitions = replace(eager, operations=dict.fromkeys(config.operations, "torch"))
    precision = replace(config.precision, format="fp32", loss_scale=1.0)
    exact = replace(definitions, precision=precision)
    able = {
        name: "torch" if provider in NARROW else provider
        for name, provider in config.operations.items()
    }
    wide = replace(eager, operations=able, precision=precision)
    same = {GRAPHS: quiet, EAGER: eager, AGAIN: eager}
    return {**same, DEFINITIONS: definitions, WIDE: wide, EXACT: exact}


@contextmanager
def in_full_fp32() -> Iterator[None]:
    """No TF32 in convolutions, which torch would take otherwise."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def measure_distance(ours: dict[str, Tensor], theirs: dict[str, Tensor], scale: float) -> float:
    """The norm of ours / scale - theirs in parts of theirs, over all tensors."""
    difference = whole = 0.0
    for name, tensor in theirs.items():
        difference += float((ours[name].double() / scale - tensor).square().sum())
        whole += float(tensor.double().square().sum())
    return math.sqrt(difference / max(whole, 1e-300))


def compare(taken: dict[str, Taken], config: Any) -> list[dict[str, Any]]:
    """A row for each quantity and form: how far from exact, how far it may be, and the verdict.

    A limit of None: nothing to judge by. Not a number is never close enough.
    """
    format_ = config.precision.format
    float8 = any(
        provider in FLOAT8_PROVIDERS.get(name, ()) for name, provider in config.operations.items()
    )
    rows: list[dict[str, Any]] = []

    def add(quantity: str, form: str, distance: float, limit: float | None) -> None:
        good = math.isfinite(distance) and (limit is None or distance <= limit)
        names = {"quantity": quantity, "form": form}
        rows.append({**names, "distance": distance, "limit": limit, "good": good})

    for quantity in QUANTITIES:
        scale = config.precision.loss_scale if quantity == "gradient" else 1.0
        found = {form: getattr(one, quantity) for form, one in taken.items()}
        distances = {
            form: measure_distance(found[form], found[EXACT], 1.0 if form == WIDE else scale)
            for form in (WIDE, DEFINITIONS, EAGER, GRAPHS)
        }
        add(quantity, WIDE, distances[WIDE], WIDE_LIMIT)
        least = LIMITS[torch.float32]
        limit = None if float8 else max(least, ALLOWED * distances[DEFINITIONS])
        add(quantity, f"{DEFINITIONS} in {format_}", distances[DEFINITIONS], None)
        add(quantity, EAGER, distances[EAGER], limit)
        add(quantity, GRAPHS, distances[GRAPHS], limit)
        repeated = measure_distance(found[AGAIN], found[EAGER], 1.0)
        add(quantity, f"{AGAIN}, from the first", repeated, None)
        replayed = measure_distance(found[GRAPHS], found[EAGER], 1.0)
        add(quantity, f"{GRAPHS}, from {EAGER}", replayed, max(REPLAY_LIMIT, REPLAYS * repeated))
    return rows


def measure(config: Any, device: torch.device, updates: int) -> list[dict[str, Any]]:
    """Take the updates in all forms, one after the other, and compare them."""
    forms, taken = vary(config), {}
    run: Any = run_bert if isinstance(config, bert.config.Config) else run_resnet
    progress = Progress("steps", len(forms), "forms")
    for number, (form, one) in enumerate(forms.items()):
        torch.manual_seed(0)
        with in_full_fp32():
            taken[form] = run(one, device, updates)
        # A step and its graphs refer to each other: their memory goes before the next one's comes.
        release_graphs()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        progress.update(number + 1)
    progress.finish(len(forms))
    return compare(taken, config)


def main(arguments: Sequence[str]) -> int:
    """Measure and print; status 1 where a form is further from exact than it may be."""
    parser = Parser(prog="python -m perf.step_agreement", description=__doc__)
    parser.add_argument("--benchmark", choices=sorted(CONFIGS), default="resnet")
    parser.add_argument("--config", type=Path, help="default: 4 nodes of H100")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: the GPU, if any")
    parser.add_argument("--samples", type=int, help="at most (default: 100 images, 32 sequences)")
    parser.add_argument("--updates", type=int, default=2, help="default: 2")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.samples is None:
        options.samples = MOST_SAMPLES[options.benchmark]
    check_positive(options, "samples", "updates")
    path = options.config or CONFIGS[options.benchmark]
    kind: Any = {"resnet": resnet.config.Config, "bert": bert.config.Config}[options.benchmark]
    config = limit_batch(load_config(path, kind), options.samples)
    device, samples = choose_device(options.device), config.batch.local_batch_size
    rows = measure(config, device, options.updates)
    if options.json:
        facts = {"device": describe_device(device), "config": str(path), "samples": samples}
        print(json.dumps({**facts, "updates": options.updates, "forms": rows}, indent=1))
    else:
        print(f"{describe_device(device)}, {path}: {options.updates} updates of {samples} samples")
        for row in rows:
            allowed = "" if row["limit"] is None else f"  of at most {row['limit']:.1e}"
            mark = "" if row["good"] else "  TOO FAR"
            print(f"{row['quantity']:10}{row['form']:34}{row['distance']:10.1e}{allowed}{mark}")
    return GOOD if all(row["good"] for row in rows) else NOT_GOOD


if __name__ == "__main__":
    run_command(main)
