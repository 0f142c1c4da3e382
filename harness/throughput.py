"""Measuring a training step alone: seconds a step and samples a second, never a run log."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from harness.commands import InputError
from harness.process_group import wait_for_device
from harness.progress import Progress

WARMUP_STEPS = 3


def measure_steps(
    step: Callable[[], None],
    steps: int,
    samples_per_step: int,
    device: torch.device,
    shown: bool = True,
) -> dict[str, Any]:
    """Time `steps` steps one by one after a few untimed ones.

    Returns {"device", "steps", "samples_per_step", "samples_per_second" (from the median),
    "step_seconds": {"median", "p10", "p90", "min", "max"}, "peak_memory_bytes"}. Each step is
    waited for on its device, so a GPU's figure includes the launch of the work. The peak is what
    torch has taken from the GPU's memory so far, preparation included; None on a CPU. shown:
    whether this process shows progress. Raises RuntimeError as `wait_for_device` where another
    rank hangs in a step.
    """
    seconds: list[float] = []
    on_gpu = device.type == "cuda"
    progress = Progress("probe", steps, "steps")
    for number in range(WARMUP_STEPS + steps):
        start = time.perf_counter()
        step()
        if on_gpu:
            # Graphs run on the current stream; on the others torch watches the collectives.
            wait_for_device(device, timed=True)
            torch.cuda.synchronize(device)
        if number >= WARMUP_STEPS:
            seconds.append(time.perf_counter() - start)
            if shown:
                progress.update(len(seconds))
    if shown:
        progress.finish(len(seconds))
    seconds.sort()
    median = statistics.median(seconds)
    return {
        "device": describe_device(device),
        "steps": steps,
        "samples_per_step": samples_per_step,
        "samples_per_second": samples_per_step / median,
        "step_seconds": {
            "median": median,
            "p10": seconds[int(0.1 * (steps - 1))],
            "p90": seconds[round(0.9 * (steps - 1))],
            "min": seconds[0],
            "max": seconds[-1],
        },
        "peak_memory_bytes": torch.cuda.max_memory_reserved(device) if on_gpu else None,
    }


def describe_device(device: torch.device) -> str:
    """The device's name, for the record of a measurement."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu, {torch.get_num_threads()} thread(s)"


def choose_device(name: str | None) -> torch.device:
    """The device a probe asks for, or the GPU where there is one. Raises InputError without it."""
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here (singularity --nv?)")
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = name == "cuda"  # as in a run: harness/process_group.py
    return torch.device(name, 0) if name == "cuda" else torch.device(name)
