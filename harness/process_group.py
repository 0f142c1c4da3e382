"""The torch process group, bootstrapped over MPI: one process a device."""

from __future__ import annotations

import datetime
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from harness.addresses import find_address
from harness.commands import InputError
from harness.ranks import Ranks
from harness.systems import System

ANSWER_SECONDS = 2.0
POLL_SECONDS = 0.001
# The default process group's store and seconds to wait, as the group itself one a process.
_stores: list[TCPStore] = []
_limits: list[float] = []


class Event(Protocol):
    """What of `torch.cuda.Event` is needed."""

    def query(self) -> bool:
        """Whether the device has come past it."""
        ...

    def synchronize(self) -> None:
        """Wait for that on the host."""
        ...


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

    Rank 0 opens a store on a port that the system chooses, at an address that all nodes were seen
    to reach, and tells the others over MPI, so no port has to be free by luck. A collective that
    waits longer than the system file's limit raises and so ends the run; for those in a captured
    graph, `wait_for` does. Raises SharedFault where no such address is.
    """
    timeout = datetime.timedelta(seconds=system.launch.collective_timeout_seconds)
    backend = "gloo" if device.type == "cpu" else "nccl"
    host = "127.0.0.1" if system.nodes.one_machine else find_address(ranks)
    store = None
    if ranks.first:
        store = TCPStore(
            host, 0, ranks.world_size, is_master=True, timeout=timeout, wait_for_workers=False
        )
    port = ranks.broadcast(store.port if store is not None else 0)
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
    _limits.append(timeout.total_seconds())


def get_collective_limit() -> float | None:
    """Seconds after which a collective gives up; None before a process group was joined."""
    return _limits[-1] if _limits else None


def wait_for(event: Event, pause_seconds: float = POLL_SECONDS) -> None:
    """Wait on the host for an event of the device, no longer than for a collective.

    pause_seconds: between two looks at it, where there are other ranks.

    A step that is a graph holds collectives which nobody watches: ProcessGroupNCCL::collective puts
    none under torch's watchdog while a stream captures. Were another rank hung, this one would wait
    without end. Raises RuntimeError, worded as one of a collective that timed out.
    """
    limit = get_collective_limit()
    if limit is None or not dist.is_initialized():  # no others to wait for
        event.synchronize()
        return
    end = time.monotonic() + limit
    while not event.query():
        if time.monotonic() > end:
            raise RuntimeError(f"Timed out waiting {1000 * limit:.0f}ms for the device")
        time.sleep(pause_seconds)


def wait_for_device(device: torch.device, timed: bool = False) -> None:
    """Wait on the host until the current stream is done, no longer than for a collective.

    Before the host reads a number of a GPU's, or does anything else that waits for it by itself,
    wherever graphs with collectives may be under way. timed: look without a pause, so that a wait
    that is measured ends when the device does. Raises RuntimeError as `wait_for`.
    """
    if device.type == "cuda":
        event = torch.cuda.Event(blocking=not timed)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        wait_for(event, 0.0 if timed else POLL_SECONDS)


@dataclass(frozen=True)
class Silence:
    """After a collective that failed: after how many seconds a rank gave up, and who was silent."""

    seconds: float
    ranks: tuple[str, ...]


def find_silent_ranks(gave_up_seconds: float | None, wait_seconds: float) -> Silence | None:
    """After a collective failed: which ranks do not say within a while that it failed for them.

    gave_up_seconds: how long this rank waited; None where it lost a connection instead, be it that
    another rank ended or gave up. Returns None where no rank gave up. Every rank has to call it at
    once; where rank 0 does not answer, nobody can ask for others.
    """
    found: list[Silence | None] = []
    asked = time.monotonic()
    arguments = (gave_up_seconds, wait_seconds, found)
    asking = threading.Thread(target=_ask_ranks, args=arguments, daemon=True)
    asking.start()
    asking.join(wait_seconds + ANSWER_SECONDS)
    if found:
        return found[0]
    # Whoever knows better is to speak first, also where asking failed at once.
    time.sleep(max(0.0, asked + wait_seconds - time.monotonic()))
    # The store is rank 0's, and it did not answer.
    return None if gave_up_seconds is None else Silence(gave_up_seconds, ("rank 0",))


def _ask_ranks(
    gave_up_seconds: float | None, wait_seconds: float, found: list[Silence | None]
) -> None:
    try:
        store = _stores[-1]
        store.set(f"failed/{dist.get_rank()}", "")
        if gave_up_seconds is not None:
            store.set("gave up", str(gave_up_seconds))
        time.sleep(wait_seconds)
        if not store.check(["gave up"]):
            found.append(None)
            return
        silent = [rank for rank in range(dist.get_world_size()) if not _has(store, "failed", rank)]
        names = [
            f"rank {rank} on {store.get(f'host/{rank}').decode()}"
            for rank in silent
            if _has(store, "host", rank)
        ]
        found.append(Silence(float(store.get("gave up")), tuple(names)))
    except (IndexError, RuntimeError):
        return  # no group was joined, or the store has gone with rank 0


def _has(store: TCPStore, key: str, rank: int) -> bool:
    present: bool = store.check([f"{key}/{rank}"])
    return present


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
