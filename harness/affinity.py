"""Each rank on cores of its own, near its GPU, before anything starts threads.

What is bound is read from this machine: the GPUs from the driver's list, the cores near each from
the PCI device, which cores are one physical core from the CPU topology, and what this process may
use from the kernel (a Slurm task has less than the machine). Threads made later inherit the cores
(DALI's and the loaders' too), and memory comes from where it is first touched. Nothing is
assumed where a file is missing: then no rank of the run is bound, and the reason is told.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.ranks import Ranks
from harness.systems import Nodes

GPUS = "proc/driver/nvidia/gpus"
PCI_DEVICES = "sys/bus/pci/devices"
CPUS = "sys/devices/system/cpu"
BUS_ID = re.compile(r"([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])")
CPU_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
LARGEST_CPU = 1 << 16


class TopologyError(Exception):
    """What this machine does not tell about itself: one sentence."""


@dataclass(frozen=True)
class Place:
    """One rank: its host, its GPU's PCI bus id ("" on a CPU), and the cores it could be bound to.

    allowed: what the kernel lets it use; near: of these, the ones near its GPU; cores: the
    physical cores of `near`, each with its threads. fault: why they cannot be told, or "".
    """

    rank: int
    host: str
    gpu: str = ""
    allowed: frozenset[int] = frozenset()
    near: frozenset[int] = frozenset()
    cores: tuple[frozenset[int], ...] = ()
    fault: str = ""


@dataclass(frozen=True)
class Binding:
    """What was done: for every rank, in rank order, its GPU and the CPUs in force on it.

    method: "gpu-local" where every rank is bound, else "none". reason: why it is "none", or "".
    """

    method: str
    reason: str
    gpus: tuple[str, ...]
    cpus: tuple[str, ...]


def bind_rank(
    nodes: Nodes, ranks: Ranks, environment: Mapping[str, str], root: Path = Path("/")
) -> Binding:
    """Bind this rank, all its threads of now and later, to its share of the cores near its GPU.

    Called by all ranks together. On a CPU all that the kernel allows is near. environment: where
    CUDA_VISIBLE_DEVICES is read; root: where /proc and /sys are. Raises nothing for a machine
    that cannot be read: `reason` says it.
    """
    host = ranks.hosts[ranks.rank]
    if nodes.binding == "none":
        places = ranks.gather(Place(ranks.rank, host))
        shares: dict[int, frozenset[int]] = {}
        reason = "the system file says binding = 'none'"
    else:
        places = ranks.gather(_find_place(nodes, ranks, environment, root))
        shares, reason = share_all(places)
        if not reason:
            before = frozenset(os.sched_getaffinity(0))
            faults = ranks.gather(_bind_threads(shares[ranks.rank]))
            reason = next(filter(None, faults), "")
            if reason:
                _bind_threads(before)
    in_force = ranks.gather(format_cpus(os.sched_getaffinity(0)))
    method = "none" if reason else nodes.binding
    return Binding(method, reason, tuple(place.gpu for place in places), tuple(in_force))


def _find_place(nodes: Nodes, ranks: Ranks, environment: Mapping[str, str], root: Path) -> Place:
    allowed = frozenset(os.sched_getaffinity(0))
    place = Place(ranks.rank, ranks.hosts[ranks.rank], allowed=allowed, near=allowed)
    try:
        if nodes.device == "cuda":
            gpus = list_visible_gpus(environment, root)
            if ranks.local_rank >= len(gpus):
                raise TopologyError(
                    f"local rank {ranks.local_rank} has no GPU among the {len(gpus)} visible"
                )
            place = replace(place, gpu=gpus[ranks.local_rank])
            place = replace(place, near=allowed & read_near_cpus(place.gpu, root))
            if not place.near:
                raise TopologyError(
                    f"none of the allowed CPUs {format_cpus(allowed)} is near GPU {place.gpu}"
                )
        return replace(place, cores=read_cores(place.near, root))
    except TopologyError as error:
        return replace(place, fault=str(error))


def _bind_threads(cpus: frozenset[int]) -> str:
    """Bind every thread that there is, MPI's among them; returns why it failed, or ""."""
    try:
        os.sched_setaffinity(0, cpus)
        bound: set[str] = set()
        # Again until none is new: a thread not yet bound may have started another.
        while new := set(os.listdir("/proc/self/task")) - bound:
            for thread in new:
                with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                    os.sched_setaffinity(int(thread), cpus)
            bound |= new
    except OSError as error:
        return f"the kernel refused CPUs {format_cpus(cpus)}: {error.strerror}"
    return ""


def share_all(places: Sequence[Place]) -> tuple[dict[int, frozenset[int]], str]:
    """Share out the cores of every host among its ranks.

    Returns the CPUs by rank and "", or nothing and the reason why no rank is bound: a run is
    bound as a whole or not at all, so that no rank waits for one that was placed otherwise.
    """
    shares: dict[int, frozenset[int]] = {}
    for host in dict.fromkeys(place.host for place in places):
        here = [place for place in places if place.host == host]
        for place in here:
            if place.fault:
                return {}, f"{place.fault} (rank {place.rank} on {host})"
        cores = share_cores([place.cores for place in here])
        if not all(cores):
            few = len({core for place in here for core in place.cores})
            return {}, f"{len(here)} ranks share {few} core(s) of {host}: too few for one each"
        for place, own in zip(here, cores, strict=True):
            shares[place.rank] = frozenset().union(*own)
    return shares, ""


def share_cores(
    wanted: Sequence[Sequence[frozenset[int]]],
) -> list[list[frozenset[int]]]:
    """Give each physical core to one of the ranks that want it, as evenly as can be.

    wanted: for each rank the cores it may have, each a set of CPUs. Cores that the same ranks
    want are handed out in neighbouring runs, so that a rank's cores share caches; cores that few
    ranks want come first. A rank that nothing is left for gets an empty list.
    """
    claims: dict[frozenset[int], list[int]] = {}
    for rank, cores in enumerate(wanted):
        for core in cores:
            claims.setdefault(core, []).append(rank)
    blocks: dict[tuple[int, ...], list[frozenset[int]]] = {}
    for core in sorted(claims, key=min):
        blocks.setdefault(tuple(claims[core]), []).append(core)
    shares: list[list[frozenset[int]]] = [[] for _ in wanted]
    for claimants in sorted(blocks, key=len):
        counts = dict.fromkeys(claimants, 0)
        for _ in blocks[claimants]:
            poorest = min(claimants, key=lambda rank: len(shares[rank]) + counts[rank])
            counts[poorest] += 1
        start = 0
        for rank in claimants:
            shares[rank] += blocks[claimants][start : start + counts[rank]]
            start += counts[rank]
    return shares


def list_visible_gpus(environment: Mapping[str, str], root: Path) -> list[str]:
    """List the PCI bus ids of the GPUs that CUDA shows this process, in CUDA's order.

    Read without starting CUDA, whose threads would be there before the binding. Identical GPUs
    are numbered by bus id. Raises TopologyError where the order cannot be known so.
    """
    try:
        folders = sorted(entry for entry in (root / GPUS).iterdir())
    except OSError:
        raise TopologyError(f"no list of GPUs in /{GPUS}") from None
    facts = {folder.name.lower(): _read_fields(folder / "information") for folder in folders}
    if wrong := [name for name in facts if not BUS_ID.fullmatch(name)]:
        raise TopologyError(f"/{GPUS}/{wrong[0]!a} is no PCI bus id")
    models = {fields.get("Model") for fields in facts.values()}
    by_bus = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if len(models) > 1 and not by_bus:
        raise TopologyError("GPUs of several models: set CUDA_DEVICE_ORDER = PCI_BUS_ID")
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(facts)
    return [_find_gpu(name.strip(), facts) for name in visible.split(",")]


def _find_gpu(name: str, facts: dict[str, dict[str, str]]) -> str:
    gpus = list(facts)
    if re.fullmatch(r"\d{1,4}", name, re.ASCII) and int(name) < len(gpus):
        return gpus[int(name)]
    uuids = {fields.get("GPU UUID", ""): gpu for gpu, fields in facts.items()}
    matching = [gpu for uuid, gpu in uuids.items() if uuid.startswith(name)]
    if name.startswith("GPU-") and len(matching) == 1:
        return matching[0]
    raise TopologyError(f"CUDA_VISIBLE_DEVICES names {name!a}, which is none of the driver's GPUs")


def read_near_cpus(gpu: str, root: Path) -> frozenset[int]:
    """The CPUs that the machine says are near a PCI device. Raises TopologyError."""
    match = BUS_ID.fullmatch(gpu)
    if match is None:
        raise TopologyError(f"{gpu!a} is no PCI bus id")
    domain, *rest = match.groups()
    name = f"{int(domain, 16):04x}:{rest[0]}:{rest[1]}.{rest[2]}"
    file = root / PCI_DEVICES / name / "local_cpulist"
    return _read_cpus(file, root)


def read_cores(cpus: frozenset[int], root: Path) -> tuple[frozenset[int], ...]:
    """Group CPUs into physical cores, of each what is in `cpus`. Raises TopologyError."""
    cores = set()
    for cpu in sorted(cpus):
        folder = root / CPUS / f"cpu{cpu}" / "topology"
        # The first name is the kernel's since 5.3, the second the one before.
        names = ("core_cpus_list", "thread_siblings_list")
        file = next(
            (folder / name for name in names if (folder / name).exists()), folder / names[1]
        )
        cores.add((_read_cpus(file, root) | {cpu}) & cpus)
    return tuple(sorted(cores, key=min))


def _read_cpus(file: Path, root: Path) -> frozenset[int]:
    shown = f"/{file.relative_to(root)}"
    try:
        text = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise TopologyError(f"cannot read {shown}") from None
    try:
        return parse_cpus(text)
    except ValueError:
        raise TopologyError(f"{shown} holds {text[:40]!a}, which is no list of CPUs") from None


def _read_fields(file: Path) -> dict[str, str]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def parse_cpus(text: str) -> frozenset[int]:
    """Read the kernel's way to write sets of CPUs, such as "0-3,8". Raises ValueError."""
    if not CPU_LIST.fullmatch(text):
        raise ValueError(f"{text[:40]!a} is no list of CPUs")
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        low, high = int(first), int(last or first)
        if not low <= high < LARGEST_CPU:
            raise ValueError(f"{part!a} is no range of CPUs")
        found.update(range(low, high + 1))
    return frozenset(found)


def format_cpus(cpus: frozenset[int] | set[int]) -> str:
    """Write a set of CPUs as the kernel does: "0-3,8"; "" for none."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and cpu == parts[-1][1] + 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(f"{low}-{high}" if low < high else str(low) for low, high in parts)
