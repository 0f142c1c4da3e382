"""LARS over flat buffers: a few kernels for all tensors, learning rate and step on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from harness.optimizers.device_schedule import DeviceSchedule
from harness.parameters import FlatParameters


class FlatLARS:
    """The equation of harness.optimizers.LARS over a model's pools; `update` applies one update.

    learning_rates: of every update, from the first; operation: what harness.ops.lars_update
    defines; gradient_scale: what the pools' gradients are scaled by. Nothing in `update` waits for
    the device, so it can be captured in a graph. Raises ValueError for a sharded pool.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        operation: Callable[..., None],
        learning_rates: Sequence[float],
        momentum: float,
        weight_decay: float,
        trust_coefficient: float,
        eps: float,
        gradient_scale: float,
        device: torch.device,
    ) -> None:
        if any(pool.sharded for pool in parameters.pools):
            raise ValueError("LARS updates every tensor on every rank: shard no pool")
        self.parameters, self.operation = parameters, operation
        self.schedule = DeviceSchedule([[rate] for rate in learning_rates], device)
        self.momenta = [torch.zeros_like(pool.master) for pool in parameters.pools]
        self.momentum, self.weight_decay = momentum, weight_decay
        self.trust_coefficient, self.eps = trust_coefficient, eps
        self.gradient_scale = gradient_scale

    @torch.no_grad()
    def update(self) -> None:
        """Apply the pools' gradients at the schedule's learning rate and count the update."""
        learning_rate = self.schedule.read()
        for pool, momenta in zip(self.parameters.pools, self.momenta, strict=True):
            self.operation(
                pool.master,
                momenta,
                pool.owned_gradients,
                None if pool.master is pool.owned_weights else pool.owned_weights,
                pool.chunk_tensors,
                pool.tensor_chunks,
                pool.adapted,
                pool.any_adapted,
                learning_rate,
                self.momentum,
                self.weight_decay,
                self.trust_coefficient,
                self.eps,
                self.gradient_scale,
            )
        self.schedule.advance()

    def state(self) -> list[Tensor]:
        """Every tensor that an update changes beside the weights."""
        return [*self.momenta, self.schedule.number]
