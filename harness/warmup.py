"""Warm-up on synthetic data before the clock starts, with everything put back bit for bit.

Rules: untimed initialisation may run the model but not touch the data set; what it changed
(weights, statistics, momenta, step counters, random state) must not leak into the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def preserve_state(tensors: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Restore tensors and torch's random state when the block ends, whatever it did to them.

    tensors: everything that a step changes. They keep their addresses (copied in place), so that
    graphs captured inside stay valid.
    """
    saved = [tensor.detach().clone() for tensor in tensors]
    cpu_state = torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    yield
    with torch.no_grad():
        for tensor, value in zip(tensors, saved, strict=True):
            tensor.copy_(value)
    torch.set_rng_state(cpu_state)
    if cuda_state is not None:
        torch.cuda.set_rng_state(cuda_state, device)
