"""The torch process group, bootstrapped over MPI: one process a device."""

from __future__ import annotations

import datetime
import os
import socket
import sys
import threading
import time

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from harness.commands import InputError
from harness.ranks import Ranks
from harness.systems import System

# The default process group's store, as the group itself one a process.
_stores: list[TCPStore] = []


def select_device(system: System, ranks: Ranks) -> torch.device:
    """Choose this rank's device and set torch's threads. Raises InputError without that GPU."""
    torch.set_num_threads(system.nodes.threads_per_rank)
    if system.nodes.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            "the system file says device 'cuda', torch finds no GPU (singularity --nv?)"
        )
    if ranks.local_rank >= torch.cuda.device_count():
        raise InputError(
            f"local rank {ranks.local_rank} has no GPU, the node shows "
            f"{torch.cuda.device_count()}: give every task all GPUs of its node"
        )
    device = torch.device("cuda", ranks.local_rank)
    torch.cuda.set_device(device)
    # Shapes are fixed: the warm-up tries cuDNN's algorithms once, before the clock starts.
    torch.backends.cudnn.benchmark = True
    return device


def join(system: System, ranks: Ranks, device: torch.device) -> None:
    """Make the default process group: gloo on CPUs, NCCL on GPUs.

    Rank 0 opens a store on a port that the system chooses and tells the others over MPI, so no
    port has to be free by luck. A collective that waits longer than the system file's limit
    raises and so ends the run.
    """
    timeout = datetime.timedelta(seconds=system.launch.collective_timeout_seconds)
    backend = "gloo" if device.type == "cpu" else "nccl"
    host = "127.0.0.1" if system.nodes.one_machine else socket.gethostname()
    store = None
    if ranks.first:
        store = TCPStore(
            host, 0, ranks.world_size, is_master=True, timeout=timeout, wait_for_workers=False
        )
    host, port = ranks.broadcast((host, store.port if store is not None else 0))
    if store is None:
        store = TCPStore(host, port, ranks.world_size, is_master=False, timeout=timeout)
    dist.init_process_group(
        backend,
        store=store,
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=timeout,
        device_id=device if device.type == "cuda" else None,
    )
    store.set(f"host/{ranks.rank}", socket.gethostname())
    _stores.append(store)


def describe_silent_ranks(wait_seconds: float) -> str:
    """After a collective timed out: which ranks do not say within a while that they waited too.

    Every rank that waited has to call it. Where rank 0 does not answer, nobody can ask for others.
    """
    found: list[str] = []
    asking = threading.Thread(
        target=_ask_for_waiting_ranks, args=(wait_seconds, found), daemon=True
    )
    asking.start()
    asking.join(wait_seconds + 2.0)
    if asking.is_alive():  # the store is rank 0's
        return "rank 0"
    return ", ".join(found) or "no rank: all of them waited, but not for the same"


def _ask_for_waiting_ranks(wait_seconds: float, found: list[str]) -> None:
    store = _stores[-1]
    store.set(f"waited/{dist.get_rank()}", "")
    time.sleep(wait_seconds)
    for rank in range(dist.get_world_size()):
        if not store.check([f"waited/{rank}"]):
            host = store.get(f"host/{rank}").decode() if store.check([f"host/{rank}"]) else "?"
            found.append(f"rank {rank} on {host}")


def join_subgroup(rank: int, world_size: int, size: int) -> dist.ProcessGroup:
    """Make groups of `size` consecutive ranks and return this rank's.

    Every rank has to call it. Raises ValueError where size does not divide the world size.
    """
    if size < 1 or world_size % size:
        raise ValueError(f"groups of {size} do not divide {world_size} ranks")
    groups = [
        dist.new_group(list(range(first, first + size))) for first in range(0, world_size, size)
    ]
    group: dist.ProcessGroup = groups[rank // size]
    return group


def synchronize(device: torch.device) -> None:
    """Wait for this device, then for all ranks."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        dist.barrier(device_ids=[device.index])
    else:
        dist.barrier()


def end_all_ranks(world_size: int, status: int) -> None:
    """End every rank at once: one has failed, and the others would wait in a collective."""
    if world_size != 1:
        from mpi4py import MPI

        MPI.COMM_WORLD.Abort(status)
    os._exit(status)


def finalize_mpi() -> None:
    """Leave MPI if this process has entered it; a rank that does not counts as lost."""
    if "mpi4py.MPI" in sys.modules:
        from mpi4py import MPI

        if MPI.Is_initialized() and not MPI.Is_finalized():
            MPI.Finalize()
