"""Warm-up on synthetic data before the clock starts, with everything put back bit for bit.

Rules: untimed initialisation may run the model but not touch the data set; what it changed
(weights, statistics, momenta, step counters, random state) must not leak into the run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def preserve_state(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> Iterator[None]:
    """Restore parameters, buffers, optimizer state and random state when the block ends.

    The tensors keep their addresses (copied in place), so that graphs captured inside stay valid.
    Optimizer state made inside is dropped again if there was none before.
    """
    tensors = [*model.parameters(), *model.buffers()]
    saved = [tensor.detach().clone() for tensor in tensors]
    optimizer_state = copy.deepcopy(optimizer.state_dict())
    cpu_state = torch.get_rng_state()
    cuda_state = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    yield
    with torch.no_grad():
        torch._foreach_copy_(tensors, saved)
    optimizer.load_state_dict(optimizer_state)
    optimizer.zero_grad(set_to_none=True)
    torch.set_rng_state(cpu_state)
    if cuda_state is not None:
        torch.cuda.set_rng_state(cuda_state, device)
