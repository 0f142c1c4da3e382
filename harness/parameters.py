"""Parameters in flat buffers: fp32 master weights, the model's weights, gradients, in few tensors.

A model's tensors of one type form a pool. A pool is a run of chunks of CHUNK elements; every chunk
belongs to one tensor (a tensor's last chunk is filled up with zeros that stay zero), so an update
over all tensors is a handful of kernels, and a norm of each tensor is a sum over its chunks. A pool
is cut into buckets, in the order in which the backward pass makes gradients; a bucket is what one
all-reduce carries. Where a pool is sharded, every rank updates its own part of each bucket.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from harness.batch import LAST_PART

CHUNK = 256
BYTES_PER_MEGABYTE = 1 << 20
Numbers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Placed:
    """Where a tensor lies in its pool: elements start to start + its size."""

    parameter: nn.Parameter
    start: int
    adapt: bool

    @property
    def stop(self) -> int:
        return self.start + self.parameter.numel()


@dataclass(frozen=True)
class Bucket:
    """Elements start to stop of a pool, which are whole tensors; what one collective carries."""

    start: int
    stop: int
    tensors: tuple[Placed, ...]


def flatten_dense(tensor: Tensor) -> Tensor:
    """A tensor's elements in the order of its pool: channels last where it has four dimensions.

    A view where the tensor lies so in memory, as convolution weights and their gradients do.
    """
    return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).reshape(-1)


def shape_like(flat: Tensor, tensor: Tensor) -> Tensor:
    """The reverse of flatten_dense: a view of a pool's elements with a tensor's shape."""
    if tensor.dim() != 4:
        return flat.view(tensor.shape)
    out, channels, height, width = tensor.shape
    return flat.view(out, height, width, channels).permute(0, 3, 1, 2)


class Pool:
    """The tensors of one type: (length,) weights and gradients, (owned,) master weights, fp32.

    weights and gradients are of the pool's type and whole on every rank. What this rank updates is
    `owned`: all of the pool, or its share of each bucket where the pool is sharded. For the owned
    elements there are master (fp32), owned_gradients and owned_weights (of the pool's type), and
    chunk_tensors: (owned / CHUNK,) int32, the tensor of each chunk; tensor number `tensors` is
    what fills a bucket up. tensor_chunks: (tensors + 1, 2) int32, the first of each tensor's
    chunks among them and the one behind its last. adapted: (tensors + 1,) fp32, 1 for a tensor
    with decay and trust ratio; any_adapted says whether there is one. Where nothing is sharded the
    owned buffers are the whole ones, and in fp32 master is weights itself.
    """

    def __init__(
        self,
        runs: Sequence[Sequence[nn.Parameter]],
        adapted: set[int],
        dtype: torch.dtype,
        bucket_megabytes: float,
        rank: int,
        shards: int,
    ) -> None:
        self.dtype, self.shards, self._rank = dtype, shards, rank
        device = runs[0][0].device
        bucket_elements = math.ceil(bucket_megabytes * BYTES_PER_MEGABYTE / dtype.itemsize)
        self.buckets = _lay_out(runs, adapted, bucket_elements, CHUNK * shards)
        self.placed = [placed for bucket in self.buckets for placed in bucket.tensors]
        self.length = self.buckets[-1].stop
        self.tensors = len(self.placed)
        self.weights = torch.zeros(self.length, dtype=dtype, device=device)
        self.gradients = torch.zeros_like(self.weights)
        self.any_adapted = any(placed.adapt for placed in self.placed)
        flags = [float(placed.adapt) for placed in self.placed] + [0.0]
        self.adapted = torch.tensor(flags, device=device)
        chunk_tensors = np.full(self.length // CHUNK, self.tensors, dtype=np.int32)
        for number, placed in enumerate(self.placed):
            chunk_tensors[placed.start // CHUNK : -(-placed.stop // CHUNK)] = number
        shares = [chunk_tensors[self.share(bucket, CHUNK)] for bucket in self.buckets]
        owned = np.concatenate(shares)
        self.chunk_tensors = torch.from_numpy(owned).to(device)
        self.tensor_chunks = torch.from_numpy(_find_ranges(owned, self.tensors + 1)).to(device)
        whole = torch.zeros(self.length, device=device)
        for placed in self.placed:
            whole[placed.start : placed.stop] = flatten_dense(placed.parameter.detach())
        self.weights.copy_(whole)
        self.owned_gradients = self.take_owned(self.gradients)
        self.owned_weights = self.take_owned(self.weights)
        same = dtype == torch.float32
        self.master = self.owned_weights if same else self.take_owned(whole)
        for placed in self.placed:
            place = self.weights[placed.start : placed.stop]
            placed.parameter.data = shape_like(place, placed.parameter)

    @property
    def sharded(self) -> bool:
        """Whether this rank updates only a part of each bucket."""
        return self.shards > 1

    def share(self, bucket: Bucket, unit: int = 1) -> slice:
        """This rank's share of a bucket, in units of that many elements of the whole pool."""
        width = (bucket.stop - bucket.start) // self.shards
        start = bucket.start + self._rank * width
        return slice(start // unit, (start + width) // unit)

    def owned_place(self, bucket: Bucket) -> slice:
        """Where this rank's share of a bucket lies among the owned elements."""
        width = (bucket.stop - bucket.start) // self.shards
        start = bucket.start // self.shards
        return slice(start, start + width)

    def take_owned(self, whole: Tensor) -> Tensor:
        """The owned elements of a tensor over the pool: itself, or a copy where it is sharded."""
        if not self.sharded:
            return whole
        return torch.cat([whole[self.share(bucket)] for bucket in self.buckets])


def _lay_out(
    runs: Sequence[Sequence[nn.Parameter]], adapted: set[int], bucket_elements: int, unit: int
) -> list[Bucket]:
    """Place the tensors of every run one after the other, and cut buckets between runs.

    A bucket ends with the run that fills it, or before one that would fill a bucket by itself: what
    is ready is not kept waiting for a large tensor. The last one, which is sent when nothing is
    left to hide it, takes no more than 1 / LAST_PART of a bucket, unless its one run is larger.
    Each is filled up to a multiple of `unit`.
    """
    buckets: list[Bucket] = []
    placed: list[Placed] = []
    start = position = 0
    sizes = [sum(parameter.numel() for parameter in run) for run in runs]
    last, behind = len(runs), 0  # the first run of the last bucket, where that is a small one
    while last and (behind + sizes[last - 1]) * LAST_PART <= bucket_elements:
        last -= 1
        behind += sizes[last]

    def close() -> int:
        stop = start + -(-(position - start) // unit) * unit
        buckets.append(Bucket(start, stop, tuple(placed)))
        return stop

    for number, run in enumerate(runs):
        if placed and (number == last or sizes[number] >= bucket_elements):
            start = position = close()
            placed = []
        for parameter in run:
            placed.append(Placed(parameter, position, id(parameter) in adapted))
            position = -(-placed[-1].stop // CHUNK) * CHUNK
        if position - start >= bucket_elements or number == len(runs) - 1:
            start = position = close()
            placed = []
    return buckets


def _find_ranges(chunk_tensors: Numbers, tensors: int) -> Numbers:
    """First and last + 1 of the chunks of each tensor, which lie together; (0, 0) for none.

    What fills buckets up, the last number, lies in many places: it has no range either.
    """
    ranges = np.zeros((tensors, 2), dtype=np.int32)
    changes = np.flatnonzero(np.diff(chunk_tensors)) + 1
    starts = np.concatenate([[0], changes])
    ranges[chunk_tensors[starts], 0] = starts
    ranges[chunk_tensors[starts], 1] = np.concatenate([changes, [len(chunk_tensors)]])
    ranges[-1] = 0
    return ranges


class FlatParameters:
    """All parameters of a model in one or two pools, with fp32 master weights.

    runs: the parameters in the order of the forward pass; those of one run lie one after the other
    in memory. kept_fp32: the parameters that stay fp32 whatever the model's type (those of
    normalisations). adapted: those with decay and trust ratio. dtype: the model's type. The master
    weights are the values before they are rounded to it. From then on the model's parameters are
    views of the pools. shards: over how many ranks the pool of the model's type is sharded, 1 for
    none; the fp32 pool never is. Raises ValueError where a parameter is missing or named twice.
    """

    def __init__(
        self,
        model: nn.Module,
        runs: Sequence[Sequence[nn.Parameter]],
        kept_fp32: Sequence[nn.Parameter],
        adapted: Sequence[nn.Parameter],
        dtype: torch.dtype,
        bucket_megabytes: float,
        rank: int = 0,
        shards: int = 1,
    ) -> None:
        names = [id(parameter) for run in runs for parameter in run]
        wanted = {id(parameter) for parameter in model.parameters()}
        if len(names) != len(set(names)) or set(names) != wanted:
            raise ValueError("the runs must name every parameter of the model once")
        kept = {id(parameter) for parameter in kept_fp32}
        self.pools: list[Pool] = []
        # Backward makes the gradients of the last layers first.
        backward = list(reversed(runs))
        matrices = [run for run in backward if id(run[0]) not in kept]
        normalisations = [run for run in backward if id(run[0]) in kept]
        chosen = {id(parameter) for parameter in adapted}
        if dtype == torch.float32 and shards == 1:
            matrices, normalisations = backward, []
        for some, kind, parts in ((matrices, dtype, shards), (normalisations, torch.float32, 1)):
            if some:
                place = rank if parts > 1 else 0
                self.pools.append(Pool(some, chosen, kind, bucket_megabytes, place, parts))

    def weights(self) -> list[Tensor]:
        """Every pool's weights as the model sees them, and what an update writes beside them.

        That is the masters, and where a pool is sharded this rank's share in the model's type.
        """
        tensors = [
            tensor
            for pool in self.pools
            for tensor in (pool.weights, pool.owned_weights, pool.master)
        ]
        return list({id(tensor): tensor for tensor in tensors}.values())
