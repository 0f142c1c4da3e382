"""The rate of ResNet's training step on synthetic images."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.commands import GOOD, InputError
from harness.config import load_config
from harness.rank_probe import describe_ranks, probe_ranks
from harness.step_profile import describe_profile, make_profile_folder, profile_steps
from harness.throughput import choose_device, measure_steps
from resnet.config import Config
from resnet.model import IMAGE_CHANNELS
from resnet.step import TrainingStep


def fill_with_noise(config: Config, images: Tensor, labels: Tensor) -> None:
    """Write a synthetic batch: normalised noise, channels past the third 0, and random labels.

    images: (B, C, H, W) channels last, of any type; labels: (B,) int64. Always the same batch;
    torch's own generator is not used.
    """
    generator = torch.Generator().manual_seed(0)
    images_NHWC = torch.randn(images.permute(0, 2, 3, 1).shape, generator=generator)
    images_NHWC[..., IMAGE_CHANNELS:] = 0.0
    images.copy_(images_NHWC.permute(0, 3, 1, 2))
    labels.copy_(torch.randint(config.model.classes, labels.shape, generator=generator))


def keep(images: Tensor, labels: Tensor) -> None:
    """Leave the batch as it is: the step alone is measured."""


def make_step(
    config: Config, device: torch.device, rank: int, world_size: int
) -> tuple[Callable[[], None], Callable[[], None], dict[str, Any]]:
    """Make a prepared step on synthetic images.

    Returns the step, the same without graphs, and facts of its batch: none need telling.
    """
    step = TrainingStep(config, device, rank, world_size, [config.optimizer.base_learning_rate])
    fill = partial(fill_with_noise, config)
    step.prepare(fill)
    fill(step.images, step.labels)
    return partial(step.run, keep), step.run_eagerly, {}


def probe(options: argparse.Namespace) -> int:
    """Measure `options.steps` steps, of one rank or of all ranks of a system, and print them."""
    if options.steps < 1:
        raise InputError(f"--steps must be at least 1, is {options.steps}")
    if options.system is not None:
        document = probe_ranks("resnet", options, Config, make_step)
        if document is not None:
            text = json.dumps(document, indent=1)
            print(text if options.json else describe_ranks(document, "images"))
        return GOOD
    config = load_config(options.config, Config)
    if options.profile is not None:
        make_profile_folder(options.profile)
    device = choose_device(options.device)
    if config.batch.batch_norm_ranks > 1:
        raise InputError(
            f"{options.config}: batch.batch_norm_span is that of {config.batch.batch_norm_ranks} "
            "ranks: probe all ranks, with --system"
        )
    torch.manual_seed(0)
    step, eagerly, _ = make_step(config, device, 0, 1)
    samples = config.batch.local_batch_size * config.batch.gradient_accumulation_steps
    measured = measure_steps(step, options.steps, samples, device)
    if options.profile is not None:
        found = profile_steps(step, eagerly, device, options.profile)
        print(describe_profile(found), file=sys.stderr)
    measured = {"benchmark": "resnet", "config": str(options.config), **measured}
    if options.json:
        print(json.dumps(measured, indent=1))
    else:
        rate, median = measured["samples_per_second"], measured["step_seconds"]["median"]
        print(f"{rate:,.1f} images/s on one rank ({1000 * median:.2f} ms a step, median)")
    return GOOD
