"""Gradients into flat buffers and over the ranks: few large buckets, overlapped with backward."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from harness.collectives import reduce_scatter
from harness.parameters import Bucket, FlatParameters, Pool, flatten_dense


class GradientReduction:
    """Collects every parameter's gradient in its pool and adds up the ranks' pools.

    A backward pass hands each gradient over as it is made. When all gradients of a bucket are
    there they are copied into the pool at once, and in a step's last micro-batch the bucket's
    all-reduce (reduce-scatter where the pool is sharded) begins, while backward goes on. `begin`
    comes before each backward pass, `finish` after a step's last. Ranks are summed, not averaged:
    divide the loss by the world size, so that the sum of 16-bit gradients cannot overflow. With
    overlap False nothing is sent before `finish`.
    """

    def __init__(self, parameters: FlatParameters, world_size: int, overlap: bool = True) -> None:
        self.parameters, self.world_size, self.overlap = parameters, world_size, overlap
        self._first = self._last = True
        self._waiting: dict[int, int] = {}
        self._works: list[dist.Work] = []
        self._buckets = [(pool, bucket) for pool in parameters.pools for bucket in pool.buckets]
        self._places = [
            [pool.gradients[placed.start : placed.stop] for placed in bucket.tensors]
            for pool, bucket in self._buckets
        ]
        # Python's collector does not see what a parameter's hook refers to: were that this object,
        # neither it nor the pools would ever be free again.
        taking = weakref.ref(self)
        for number, (_, bucket) in enumerate(self._buckets):
            for placed in bucket.tensors:
                hook = partial(_hand_over, taking, number)
                placed.parameter.register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]

    def begin(self, first: bool, last: bool) -> None:
        """Say which micro-batch of a step the coming backward pass belongs to."""
        self._first, self._last = first, last
        self._waiting = {n: len(b.tensors) for n, (_, b) in enumerate(self._buckets)}

    def finish(self, before_sending: Callable[[], None] | None = None) -> None:
        """Wait, in the device's order, until every pool holds the sum over all ranks.

        before_sending: called when all of this rank's gradients are there and, with overlap
        False, none is sent. Raises RuntimeError where a parameter had no gradient.
        """
        if any(self._waiting.values()):
            missing = sum(self._waiting.values())
            raise RuntimeError(f"{missing} parameters had no gradient in this backward pass")
        if before_sending is not None:
            before_sending()
        if not self.overlap:
            for pool, bucket in self._buckets:
                self._send(pool, bucket)
        for work in self._works:
            work.wait()
        self._works.clear()

    def _take(self, number: int, _: Tensor) -> None:
        self._waiting[number] -= 1
        if self._waiting[number]:
            return
        pool, bucket = self._buckets[number]
        gradients = [flatten_dense(placed.parameter.grad) for placed in bucket.tensors]  # type: ignore[arg-type]
        if self._first:
            torch._foreach_copy_(self._places[number], gradients)
        else:
            torch._foreach_add_(self._places[number], gradients)
        for placed in bucket.tensors:
            placed.parameter.grad = None  # the next backward pass hands its own tensor over
        if self._last and self.overlap:
            self._send(pool, bucket)

    def _send(self, pool: Pool, bucket: Bucket) -> None:
        if self.world_size == 1:
            return
        whole = pool.gradients[bucket.start : bucket.stop]
        if pool.sharded:
            mine = pool.owned_gradients[pool.owned_place(bucket)]
            work = reduce_scatter(mine, whole, async_op=True)
        else:
            work = dist.all_reduce(whole, async_op=True)
        if work is not None:
            self._works.append(work)


def _hand_over(taking: weakref.ref[GradientReduction], number: int, parameter: Tensor) -> None:
    reduction = taking()
    if reduction is not None:
        reduction._take(number, parameter)


def broadcast_model(model: torch.nn.Module, world_size: int) -> None:
    """Give every rank rank 0's parameters and buffers, so that all start alike."""
    if world_size > 1:
        for tensor in [*model.parameters(), *model.buffers()]:
            dist.broadcast(tensor.detach(), 0)
