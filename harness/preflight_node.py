"""What one node tells of itself: software, memory, limits, disks, and the data as it lies there."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import math
import os
import platform
import resource
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.commands import describe_os_error
from harness.preflight_gpus import Gpu, UnreadableGpus, read_gpus
from harness.systems import Benchmark, System

LARGEST_MANIFEST_BYTES = 1 << 26
MANIFESTS = ("manifest.json", "train/manifest.json", "eval/manifest.json")
MEMORY = Path("/proc/meminfo")
SHARED_MEMORY = Path("/dev/shm")
# nvJPEG reaches the GPU's JPEG decoder through this library of the driver's, and without it decodes
# by CPU and CUDA and says nothing (it opens the library when it is asked for its hardware backend).
JPEG_DECODER = "libnvcuvid.so.1"


@dataclass(frozen=True)
class DataFacts:
    """A benchmark's data on a node. digest: of its manifests; fault: what is wrong, or ""."""

    files: int = 0
    bytes: int = 0
    digest: str = ""
    fault: str = ""


@dataclass(frozen=True)
class Ports:
    """InfiniBand and RoCE ports: all, the active ones, and how many cards cannot be opened."""

    all: int = 0
    active: int = 0
    shut_cards: int = 0


@dataclass(frozen=True)
class NodeFacts:
    """What a node's first rank has found; sizes in bytes.

    gpus: the GPUs, or why they could not be read. network: its InfiniBand or RoCE ports.
    memlock: bytes that a process may pin, -1 without a limit. jpeg_decoder: why the library of the
    GPUs' JPEG decoder cannot be loaded, or "".
    """

    host: str
    sources: str
    image: str
    software: str
    memory: float
    shared_memory: int
    memlock: int
    temporary: int
    data: dict[str, DataFacts]
    gpus: list[Gpu] | str
    network: Ports = Ports()
    jpeg_decoder: str = ""


def read_node(
    system: System, host: str, root: Path, software: str, hashes: tuple[str, str]
) -> NodeFacts:
    """Look at this node. root: where relative data paths begin; hashes: of sources and image."""
    gpus: list[Gpu] | str = []
    jpeg_decoder = ""
    if system.nodes.device == "cuda":
        jpeg_decoder = find_load_fault(JPEG_DECODER)
        try:
            gpus = read_gpus()
        except UnreadableGpus as error:
            gpus = str(error)
    shared = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    return NodeFacts(
        host=host,
        sources=hashes[0],
        image=hashes[1],
        software=f"python {platform.python_version()}, {software}",
        memory=min(
            read_available_memory(MEMORY.read_text(encoding="ascii")), read_memory_limit(Path("/"))
        ),
        shared_memory=shared,
        memlock=resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        temporary=shutil.disk_usage(tempfile.gettempdir()).free,
        data={
            "resnet": read_data(system.benchmarks.resnet, root),
            "bert": read_data(system.benchmarks.bert, root),
        },
        gpus=gpus,
        network=read_ports(Path("/")),
        jpeg_decoder=jpeg_decoder,
    )


def find_load_fault(library: str) -> str:
    """Why a shared library cannot be loaded here, or ""."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return ""


def read_available_memory(text: str) -> int:
    """MemAvailable of /proc/meminfo's text, in bytes; 0 where it is not told."""
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["MemAvailable:"] and len(words) == 3 and words[1].isdecimal():
            return int(words[1]) * 1024
    return 0


def read_memory_limit(root: Path) -> float:
    """The least memory, in bytes, that a control group of this process may take; inf for none.

    A batch system limits a job so: beyond it a process is killed, whatever the node has left.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return math.inf
    limits = [math.inf]
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            top, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            top, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = top / name.lstrip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            try:
                text = (folder / file).read_text(encoding="ascii").strip()
            except OSError:
                continue  # the topmost has none; a container may not show them all
            if text.isdecimal():
                limits.append(int(text))
    return min(limits)


def read_ports(root: Path) -> Ports:
    """Look at the node's InfiniBand and RoCE cards, as the ranks see them."""
    cards = sorted((root / "sys/class/infiniband").glob("*"))
    states = []
    for file in (file for card in cards for file in sorted(card.glob("ports/*/state"))):
        with contextlib.suppress(OSError):
            states.append(file.read_text(encoding="ascii"))
    shut = 0
    for card in cards:
        devices = [root / "dev/infiniband" / found.name
                   for found in card.glob("device/infiniband_verbs/*")]  # fmt: skip
        shut += not any(os.access(device, os.R_OK | os.W_OK) for device in devices)
    return Ports(len(states), sum("ACTIVE" in state for state in states), shut)


def read_data(benchmark: Benchmark, root: Path) -> DataFacts:
    """Look at a benchmark's data by its manifests and by stat; no data is read."""
    folder = root / benchmark.data
    try:
        manifests = [folder / name for name in MANIFESTS if (folder / name).is_file()]
        if not manifests:
            return DataFacts(fault=f"no manifest.json in {folder}")
        digest, files, size = hashlib.sha256(), 0, 0
        for manifest in manifests:
            content = read_bounded(manifest)
            digest.update(content)
            for name, stated in list_files(json.loads(content)):
                found = (manifest.parent / name).stat().st_size
                if found != stated:
                    sizes = f"{found:,} bytes, the manifest says {stated:,}"
                    return DataFacts(fault=f"{manifest.parent / name} has {sizes}")
                files, size = files + 1, size + found
        if benchmark.initial_checkpoint:
            checkpoint = root / benchmark.initial_checkpoint
            size += checkpoint.stat().st_size
            files += 1
    except OSError as error:
        return DataFacts(fault=describe_os_error(error))
    except (ValueError, RecursionError):
        return DataFacts(fault=f"{manifest} is no manifest")
    if not files:
        return DataFacts(fault=f"the manifests in {folder} name no file")
    return DataFacts(files, size, digest.hexdigest())


def read_bounded(file: Path) -> bytes:
    """Read a small file. Raises ValueError where it is larger than any manifest."""
    with open(file, "rb") as source:
        content = source.read(LARGEST_MANIFEST_BYTES + 1)
    if len(content) > LARGEST_MANIFEST_BYTES:
        raise ValueError(f"{file} is larger than any manifest")
    return content


def list_files(document: Any) -> Iterator[tuple[str, int]]:
    """Every file that a manifest names with its size: both benchmarks' manifests state `bytes`
    beside `file` or `name`, wherever in the document. Raises ValueError for a path."""
    if isinstance(document, dict):
        name, size = document.get("file", document.get("name")), document.get("bytes")
        if isinstance(name, str) and isinstance(size, int):
            if name != os.path.basename(name) or name in ("", ".", "..") or "\0" in name:
                raise ValueError(f"{name!a} is no file's name")
            yield name, size
        document = list(document.values())
    if isinstance(document, list):
        for item in document:
            yield from list_files(item)
