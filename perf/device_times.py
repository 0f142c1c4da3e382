"""Seconds of a call on a device that computes while the host goes on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

WARMUPS = 2


def time_calls(call: Callable[[], object], turns: int, device: torch.device) -> float:
    """Median seconds of a call, waited for on its device."""
    seconds = []
    for number in range(WARMUPS + turns):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARMUPS:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
