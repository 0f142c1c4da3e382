"""Weights of sharded pools to all ranks, while the forward pass already runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.distributed as dist
from torch import nn

from harness.collectives import all_gather
from harness.parameters import Bucket, FlatParameters, Pool


class WeightGathering:
    """Brings what every rank has updated to all of them, bucket by bucket, as forward needs it.

    `begin` sends all buckets off, in the order of `stages`: the modules of the forward pass in the
    order in which it calls them, which hold every parameter of the sharded pools. Each stage waits,
    in the device's order, for the buckets of its own parameters when it is called; later ones
    travel meanwhile. `finish` waits for what is left. Between an update and the next `begin` the
    weights that the model sees are those of the update on this rank's own share at most: `gather`
    before anything else reads them. Nothing is sent where no pool is sharded. Raises ValueError
    where a stage is missing.
    """

    def __init__(self, parameters: FlatParameters, stages: Sequence[nn.Module]) -> None:
        self._buckets: list[tuple[Pool, Bucket]] = []
        self._works: dict[int, dist.Work] = {}
        places = {
            id(placed.parameter): (pool, bucket)
            for pool in parameters.pools
            if pool.sharded
            for bucket in pool.buckets
            for placed in bucket.tensors
        }
        numbers: dict[int, int] = {}  # of a bucket, by its identity
        seen: set[int] = set()
        for stage in stages:
            needed = []
            for parameter in stage.parameters():
                if id(parameter) not in places:
                    continue
                seen.add(id(parameter))
                pool, bucket = places[id(parameter)]
                if id(bucket) not in numbers:
                    numbers[id(bucket)] = len(self._buckets)
                    self._buckets.append((pool, bucket))
                needed.append(numbers[id(bucket)])
            if needed:
                stage.register_forward_pre_hook(partial(self._wait_before, sorted(set(needed))))
        if missing := len(places.keys() - seen):
            raise ValueError(f"{missing} parameters of sharded pools belong to no stage")

    def begin(self) -> None:
        """Send every rank's share of every bucket to all others, in the order of the stages."""
        for number, (pool, bucket) in enumerate(self._buckets):
            whole = pool.weights[bucket.start : bucket.stop]
            mine = pool.owned_weights[pool.owned_place(bucket)]
            work = all_gather(whole, mine, async_op=True)
            if work is not None:
                self._works[number] = work

    def finish(self) -> None:
        """Wait, in the device's order, for what no stage has waited for."""
        self._wait(list(self._works))

    def gather(self) -> None:
        """Bring the weights of the last update to all ranks at once."""
        self.begin()
        self.finish()

    def _wait_before(self, numbers: Sequence[int], stage: nn.Module, inputs: object) -> None:
        self._wait(numbers)

    def _wait(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if (work := self._works.pop(number, None)) is not None:
                work.wait()
