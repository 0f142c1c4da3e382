"""The rate of ResNet's training step on synthetic images."""

from __future__ import annotations

import argparse
import json

import torch
from torch import Tensor

from harness.commands import GOOD, InputError
from harness.config import load_config
from harness.throughput import choose_device, measure_steps
from resnet.config import Config
from resnet.step import TrainingStep


def make_synthetic_batch(
    config: Config, local_batch: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Make normalised noise (N, C, H, W), channels_last fp32, and labels (N,) int64."""
    size = config.input.crop_size
    generator = torch.Generator().manual_seed(0)
    shape = (local_batch, config.model.input_channels, size, size)
    images = torch.randn(shape, generator=generator).to(memory_format=torch.channels_last)
    images[:, 3:] = 0.0
    labels = torch.randint(config.model.classes, (local_batch,), generator=generator)
    return images.to(device), labels.to(device)


def probe(options: argparse.Namespace) -> int:
    """Measure `options.steps` steps of one rank and print them."""
    if options.steps < 1:
        raise InputError(f"--steps must be at least 1, is {options.steps}")
    config = load_config(options.config, Config)
    device = choose_device(options.device)
    torch.manual_seed(0)
    step = TrainingStep(config, device, world_size=1)
    batch = make_synthetic_batch(config, config.batch.local_batch_size, device)

    def run_step() -> None:
        for _ in range(config.batch.gradient_accumulation_steps):
            step.accumulate(*batch)
        step.update(config.optimizer.base_learning_rate)

    samples = config.batch.local_batch_size * config.batch.gradient_accumulation_steps
    measured = measure_steps(run_step, options.steps, samples, device)
    measured = {"benchmark": "resnet", "config": str(options.config), **measured}
    if options.json:
        print(json.dumps(measured, indent=1))
    else:
        rate, median = measured["samples_per_second"], measured["step_seconds"]["median"]
        print(f"{rate:,.1f} images/s on one rank ({1000 * median:.2f} ms a step, median)")
    return GOOD
