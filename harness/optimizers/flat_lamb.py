"""LAMB over flat buffers, sharded over the ranks or not, with all its numbers on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from harness.optimizers.device_schedule import DeviceSchedule
from harness.optimizers.groups import compute_norm
from harness.parameters import FlatParameters, Pool


@dataclass(frozen=True)
class LambOperations:
    """The two halves of an update: see harness.ops.lamb_moments and harness.ops.lamb_apply."""

    moments: Callable[..., Tensor]
    apply: Callable[..., None]


class FlatLAMB:
    """The equation of harness.optimizers.LAMB over a model's pools; `update` applies one update.

    Where a pool is sharded, every rank updates its share: the squared norms of gradient, weights
    and updates are added up over the ranks, and harness.weight_gathering brings the new weights to
    all ranks when they are needed. learning_rates: of every update, from the first;
    gradient_scale: what the pools' gradients are scaled by; max_gradient_norm None: they were
    clipped before. An update whose gradient is not finite
    changes no weight and no moment, does not count as an update of the schedule, and is counted in
    `overflows`, (1,) int64. Nothing in `update` waits for the device, so it can be captured in a
    graph.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        operations: LambOperations,
        learning_rates: Sequence[float],
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        max_gradient_norm: float | None,
        gradient_scale: float,
        device: torch.device,
    ) -> None:
        self.parameters, self.operations = parameters, operations
        beta1, beta2 = self.betas = betas
        rows = [
            (rate, 1 - beta1**t, 1 - beta2**t) for t, rate in enumerate(learning_rates, start=1)
        ]
        self.schedule = DeviceSchedule(rows, device)
        self.means = [torch.zeros_like(pool.master) for pool in parameters.pools]
        self.squares = [torch.zeros_like(pool.master) for pool in parameters.pools]
        self.overflows = torch.zeros(1, dtype=torch.int64, device=device)
        self.eps, self.weight_decay = eps, weight_decay
        self.max_gradient_norm, self.gradient_scale = max_gradient_norm, gradient_scale

    @torch.no_grad()
    def update(self) -> None:
        """Apply the pools' gradients at the schedule's learning rate and count the update."""
        row = self.schedule.read()
        learning_rate, corrections = row[:1], row[1:]
        norm = measure_gradients(self.parameters, self.gradient_scale)
        overflow = ~torch.isfinite(norm)
        self.overflows.add_(overflow)
        factor = torch.full_like(norm, 1 / self.gradient_scale)
        if self.max_gradient_norm is not None:
            factor = factor * (self.max_gradient_norm / norm.clamp(min=self.max_gradient_norm))
        self._move(factor, overflow, learning_rate, corrections)
        self.schedule.advance(~overflow)

    def _move(
        self, factor: Tensor, overflow: Tensor, learning_rate: Tensor, corrections: Tensor
    ) -> None:
        """Move moments and weights by the pools' gradients times `factor`, unless they overflow.

        factor, overflow and learning_rate: (1,), corrections: (2,), as harness.ops.lamb_moments
        takes them.
        """
        pools = list(zip(self.parameters.pools, self.means, self.squares, strict=True))
        sums = []
        for pool, means, squares in pools:
            some = self.operations.moments(
                pool.master, means, squares, pool.owned_gradients, pool.chunk_tensors,
                pool.tensor_chunks, pool.adapted, factor, overflow, corrections, *self.betas,
                self.eps, self.weight_decay,
            )  # fmt: skip
            if pool.sharded:
                dist.all_reduce(some)
            sums.append(some)
        for (pool, means, squares), some in zip(pools, sums, strict=True):
            self.operations.apply(
                pool.master, means, squares, _model_copy(pool), pool.chunk_tensors, pool.adapted,
                some, overflow, learning_rate, corrections, self.eps, self.weight_decay,
            )  # fmt: skip

    def state(self) -> list[Tensor]:
        """Every tensor that an update changes beside the weights."""
        return [*self.means, *self.squares, self.overflows, self.schedule.number]


def measure_gradients(parameters: FlatParameters, gradient_scale: float) -> Tensor:
    """The norm of the whole gradient, (1,) fp32, on the device; over all ranks where sharded."""
    total = torch.zeros(1, device=parameters.pools[0].master.device)
    for pool in parameters.pools:
        norm = compute_norm(pool.owned_gradients)
        square = (norm / gradient_scale).square().view(1)
        if pool.sharded:
            dist.all_reduce(square)
        total += square
    return total.sqrt()


def _model_copy(pool: Pool) -> Tensor | None:
    """What an update writes for the model beside the master weights, if anything."""
    return None if pool.master is pool.owned_weights else pool.owned_weights
