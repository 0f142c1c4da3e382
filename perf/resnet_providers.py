"""Every provider of ResNet's operations on one device: how far from the definition, and how fast.

`python -m perf.resnet_providers [--config FILE] [--images N] [--device cpu|cuda]` calls each
operation forward and backward at every size that the network has, in the configuration's format, as
perf.providers says. Their times, as often as a step has each, add up to what the operations cost an
image. Status 1: one failed, or is further from the definition than its format explains.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.commands import GOOD, NOT_GOOD, run_command
from harness.config import load_config
from harness.ops.table import Operation
from harness.throughput import choose_device, describe_device
from perf.comparison import check_positive
from perf.device_times import make_parser
from perf.providers import Case, is_wrong, make_draw, measure, show
from resnet.config import Config
from resnet.model import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, EXPANSION

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "resnet" / "configs" / "h200_1x1.toml"
# An update over a chunk of 256 elements at a time has no gradient and no size but the model's: the
# step's own probe and profile tell it.
NORMALISED = {"batch_norm_batch_norm_add_relu": 2}
INPUTS = {"batch_norm_add_relu": 2, "batch_norm_batch_norm_add_relu": 2}


def list_normalisations(config: Config) -> Counter[tuple[str, int, int]]:
    """Operation, channels and side of every normalisation of the network, and how often."""
    sizes = config.model
    side = config.input.crop_size // 2
    found: Counter[tuple[str, int, int]] = Counter()
    found["batch_norm_relu_max_pool", sizes.stem_width, side] += 1
    side //= 2
    for stage, (width, depth) in enumerate(zip(sizes.widths, sizes.depths, strict=True)):
        found["batch_norm_relu", width, side] += 1  # before the stride of the first block
        side = side // 2 if stage else side
        found["batch_norm_relu", width, side] += 2 * depth - 1
        found["batch_norm_batch_norm_add_relu", EXPANSION * width, side] += 1
        if depth > 1:
            found["batch_norm_add_relu", EXPANSION * width, side] += depth - 1
    return found


def make_normalisation(
    operation: str, channels: int, side: int, images: int, dtype: torch.dtype, device: torch.device
) -> Case:
    """A normalisation in training on random numbers."""
    draw = make_draw(channels + side, device)
    activations = []
    for _ in range(INPUTS.get(operation, 1)):
        x = (1 + 2 * draw(images, channels, side, side)).to(dtype)
        activations.append(x.to(memory_format=torch.channels_last))
    count = NORMALISED.get(operation, 1)
    vectors = [
        vector for _ in range(count) for vector in (1 + 0.1 * draw(channels), draw(channels))
    ]

    def call(function: Operation, tensors: Sequence[Tensor], _: float) -> Any:
        given, trained = tensors[: len(activations)], tensors[len(activations) :]
        parameters: list[Tensor] = []
        for number in range(count):
            weight, bias = trained[2 * number : 2 * number + 2]
            running = torch.zeros_like(weight.detach()), torch.ones_like(weight.detach())
            parameters += [weight, bias, *running]
        return function(*given, *parameters, True, BATCH_NORM_MOMENTUM, BATCH_NORM_EPS)

    return Case(operation, (*activations, *vectors), call, f"{channels} x {side}x{side}")


def make_loss(config: Config, images: int, device: torch.device) -> Case:
    """The loss of random logits, which are fp32."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(images, config.model.classes, generator=generator).to(device)
    labels = torch.randint(config.model.classes, (images,), generator=generator).to(device)
    smoothing = config.optimizer.label_smoothing
    return Case(
        "label_smoothed_cross_entropy",
        (logits,),
        lambda f, t, _: f(t[0], labels, smoothing),
        f"{images} x {config.model.classes}",
    )


def add_up(rows: Sequence[dict[str, Any]], times: Counter[str], images: int) -> dict[str, float]:
    """Microseconds an image of all normalisations by each provider that did every one of them."""
    spent: defaultdict[str, float] = defaultdict(float)
    done: Counter[str] = Counter()
    for row in rows:
        key = f"{row['operation']} {row['size']}"
        if key in times and "seconds" in row:
            spent[row["provider"]] += 1e6 * times[key] * row["seconds"] / images
            done[row["provider"]] += 1
    return {provider: spent[provider] for provider in spent if done[provider] == len(times)}


def main(arguments: Sequence[str]) -> int:
    """Measure and print; status 1 where a provider is too far from its definition."""
    parser = make_parser("resnet_providers", __doc__, CONFIG, turns=20)
    parser.add_argument("--images", type=int, help="default: the configuration's local batch")
    options = parser.parse_args(arguments)
    config = load_config(options.config, Config)
    if options.images is None:
        options.images = config.batch.local_batch_size
    check_positive(options, "images", "turns")
    device, images, dtype = choose_device(options.device), options.images, config.precision.dtype
    found, times = list_normalisations(config), Counter[str]()
    rows = measure([make_loss(config, images, device)], dtype, options.turns, device)
    for (operation, channels, side), number in found.items():
        # One at a time: the largest take gigabytes.
        case = make_normalisation(operation, channels, side, images, dtype, device)
        times[f"{operation} {case.size}"] = number
        rows += measure([case], dtype, options.turns, device)
    sums = add_up(rows, times, images)
    if options.json:
        facts = {"device": describe_device(device), "format": config.precision.format}
        document = {**facts, "images": images, "providers": rows, "microseconds_per_image": sums}
        print(json.dumps(document, indent=1))
    else:
        print(f"{describe_device(device)}, {config.precision.format}, {images} images")
        show(rows, device)
        for provider, spent in sums.items():
            print(f"all normalisations by {provider}: {spent:,.1f} us an image")
    return NOT_GOOD if any(is_wrong(row) for row in rows) else GOOD


if __name__ == "__main__":
    run_command(main)
