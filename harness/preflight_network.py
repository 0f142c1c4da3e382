"""The network between the ranks: clocks compared over MPI, and all-reduces measured."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist

from harness.process_group import synchronize
from harness.ranks import Ranks

# Parameters of each model; gradients travel in 16 bits.
GRADIENT_BYTES = {"resnet": 2 * 25_557_032, "bert": 2 * 336_226_108}
# Without a GPU a tenth of the bytes, so that the demonstration takes seconds.
CPU_SHARE = 0.1
MOST_REPETITIONS, MEASURED_SECONDS = 50, 1.0
ROUND_TRIPS = 20


def measure_bandwidth(size_bytes: int, ranks: Ranks, device: torch.device) -> tuple[float, int]:
    """All-reduce `size_bytes` over all ranks; returns bus bandwidth in GB/s, and repetitions.

    Bus bandwidth is nccl-tests' busbw, 2 (n - 1) / n x bytes / seconds: what a ring sends over
    its slowest link, so that figures for different numbers of ranks can be compared.
    """
    kind = torch.float32 if device.type == "cpu" else torch.bfloat16
    tensor = torch.zeros(size_bytes // kind.itemsize, dtype=kind, device=device)
    seconds = _time_all_reduces(tensor, 2, device)  # connections are made in the first ones
    seconds = ranks.broadcast(max(ranks.gather(_time_all_reduces(tensor, 1, device))))
    repetitions = max(1, min(MOST_REPETITIONS, int(MEASURED_SECONDS / max(seconds, 1e-9))))
    seconds = max(ranks.gather(_time_all_reduces(tensor, repetitions, device))) / repetitions
    sent = 2 * (ranks.world_size - 1) / ranks.world_size * tensor.numel() * kind.itemsize
    return sent / seconds / 1e9, repetitions


def _time_all_reduces(tensor: torch.Tensor, repetitions: int, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repetitions):
        dist.all_reduce(tensor)
    synchronize(device)
    return time.perf_counter() - start


def compare_clocks(ranks: Ranks) -> dict[str, tuple[float, float]]:
    """Compare each host's clock with rank 0's; called by all ranks together.

    Returns by host the seconds that it is ahead and half the quickest round trip, the most that
    this can be wrong; the same on every rank. Source: Cristian's algorithm.
    """
    if ranks.world_size == 1:
        return {ranks.hosts[0]: (0.0, 0.0)}
    from mpi4py import MPI

    communicator: Any = MPI.COMM_WORLD
    offsets: dict[str, tuple[float, float]] = {ranks.hosts[0]: (0.0, 0.0)}
    for rank in range(1, ranks.world_size):
        host = ranks.hosts[rank]
        if host in offsets:
            continue
        offsets[host] = (0.0, 0.0)
        best: tuple[float, float] | None = None
        for _ in range(ROUND_TRIPS):
            if ranks.first:
                start = time.monotonic()
                before = time.time()
                theirs = communicator.sendrecv(None, dest=rank, source=rank)
                half = (time.monotonic() - start) / 2
                if best is None or half < best[1]:
                    best = (theirs - (before + half), half)
            elif ranks.rank == rank:
                communicator.recv(source=0)
                communicator.send(time.time(), dest=0)
        if best is not None:
            offsets[host] = best
    found: dict[str, tuple[float, float]] = ranks.broadcast(offsets)
    return found
