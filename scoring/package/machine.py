"""What the machine at hand is made of, as far as it says so itself.

Read from /proc, /sys and /etc; nvidia-smi and lscpu are asked where they are there. A fact that
cannot be found out is empty or 0, never guessed. Nothing here imports torch.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

PROGRAM_LIMIT_SECONDS = 30
# Distributions that decide what a run computes with: name shown, names a distribution may have.
PACKAGES = {
    "PyTorch": ("torch",),
    "DALI": ("nvidia-dali-cuda130", "nvidia-dali-cuda120", "nvidia-dali-cuda110", "nvidia-dali"),
    "NCCL": ("nvidia-nccl-cu13", "nvidia-nccl-cu12", "nvidia-nccl-cu11"),
    "CUDA runtime": ("nvidia-cuda-runtime", "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime-cu11"),
    "cuDNN": ("nvidia-cudnn-cu13", "nvidia-cudnn-cu12", "nvidia-cudnn-cu11"),
    "Transformer Engine": ("transformer-engine", "transformer_engine"),
    "Apex": ("apex",),
    "mpi4py": ("mpi4py",),
    "Open MPI": ("openmpi",),
    "Triton": ("triton",),
}


@dataclass(frozen=True)
class Processor:
    """The processors; counts are 0 and texts empty where unknown."""

    model: str = ""
    sockets: int = 0
    cores_per_socket: int = 0
    logical_count: int = 0
    virtual: bool = False
    frequency: str = ""
    caches: str = ""


@dataclass(frozen=True)
class Accelerators:
    """The accelerators; `model` lists the kinds where there are several."""

    count: int = 0
    model: str = ""
    memory: str = ""
    frequency: str = ""
    host_interconnect: str = ""
    interconnect: str = ""
    driver: str = ""


@dataclass(frozen=True)
class Machine:
    """One node. drives: (kind, bytes) of each; networks: in words; packages: versions by name."""

    processor: Processor
    memory_bytes: int
    drives: tuple[tuple[str, int], ...]
    networks: tuple[str, ...]
    operating_system: str
    kernel: str
    accelerators: Accelerators
    packages: dict[str, str]
    python: str


RunProgram = Callable[[list[str]], str]


def run_program(command: list[str]) -> str:
    """Give what a program prints; empty where it is not there, fails or takes too long."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=PROGRAM_LIMIT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def read_machine(root: Path = Path("/"), program: RunProgram = run_program) -> Machine:
    """Read the machine whose /proc, /sys and /etc stand below `root`."""
    release = _read_pairs(root / "etc/os-release", "=")
    memory = re.match(r"(\d+) kB", _read_pairs(root / "proc/meminfo", ":").get("MemTotal", ""))
    return Machine(
        processor=_read_processor(root, program),
        memory_bytes=int(memory.group(1)) * 1024 if memory else 0,
        drives=tuple(sorted(_read_drives(root / "sys/block"))),
        networks=tuple(_read_networks(root)),
        operating_system=release.get("PRETTY_NAME", "").strip("\"'"),
        kernel=_read(root / "proc/sys/kernel/osrelease"),
        accelerators=_read_accelerators(program),
        packages=find_packages(),
        python=platform.python_version(),
    )


def find_packages() -> dict[str, str]:
    """Give the versions of the packages of `PACKAGES` that this environment has."""
    versions = {}
    for shown, names in PACKAGES.items():
        for name in names:
            try:
                versions[shown] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
            break
    return versions


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _read_pairs(path: Path, separator: str) -> dict[str, str]:
    """Read lines of key and value; the first line of a key counts."""
    pairs: dict[str, str] = {}
    for line in _read(path).splitlines():
        key, found, value = line.partition(separator)
        if found:
            pairs.setdefault(key.strip(), value.strip())
    return pairs


# -- processors -------------------------------------------------------------------------------


def _read_processor(root: Path, program: RunProgram) -> Processor:
    first = _read_pairs(root / "proc/cpuinfo", ":")
    model = first.get("model name", "")
    if not model:
        # Arm's /proc/cpuinfo has numbers only, which lscpu knows to name.
        asked = program(["lscpu"])
        model = next(
            (line.partition(":")[2] for line in asked.splitlines() if "Model name:" in line), ""
        )
    folders = [
        path
        for path in sorted((root / "sys/devices/system/cpu").glob("cpu*"))
        if re.fullmatch(r"cpu\d+", path.name) and (path / "topology").is_dir()
    ]
    packages = [_read(path / "topology/physical_package_id") for path in folders]
    cores = {
        (package, _read(path / "topology/core_id"))
        for package, path in zip(packages, folders, strict=True)
    }
    sockets = len(set(packages))
    highest = _read(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return Processor(
        model=model.strip(),
        sockets=sockets,
        cores_per_socket=len(cores) // sockets if sockets else 0,
        logical_count=len(folders),
        virtual="hypervisor" in first.get("flags", "").split(),
        frequency=f"{int(highest) / 1e6:.2f} GHz" if highest.isdecimal() else "",
        caches=_read_caches(root / "sys/devices/system/cpu/cpu0/cache"),
    )


def _read_caches(folder: Path) -> str:
    letters = {"Data": "d", "Instruction": "i"}
    caches = []
    for place in sorted(folder.glob("index*")):
        level, size = _read(place / "level"), _read(place / "size")
        if level and size:
            kind = letters.get(_read(place / "type"), "")
            caches.append(f"L{level}{kind} {size.replace('K', ' KiB')}")
    return ", ".join(caches)


# -- storage and network ----------------------------------------------------------------------


def _read_drives(folder: Path) -> Iterator[tuple[str, int]]:
    """List the drives that are hardware: what has a device behind it and holds anything."""
    for place in folder.glob("*"):
        sectors = _read(place / "size")
        removable = _read(place / "removable") == "1"
        if not (place / "device").exists() or removable or not sectors.isdecimal():
            continue
        if int(sectors) == 0 or place.name.startswith(("sr", "fd")):
            continue
        spinning = _read(place / "queue/rotational") == "1"
        kind = "hard disk" if spinning else "SSD"
        if place.name.startswith("nvme"):
            kind = "NVMe SSD"
        elif place.name.startswith("vd"):
            kind = "virtual disk"
        # The kernel counts sectors of 512 bytes here, whatever those of the drive are.
        yield kind, int(sectors) * 512


def _read_networks(root: Path) -> Iterator[str]:
    """Give the network ports in words, with their number: what is connected and hardware."""
    ports: Counter[str] = Counter()
    fabric = root / "sys/class/infiniband"
    for port in sorted(fabric.glob("*/ports/*")):
        match = re.match(r"[\d.]+ Gb/sec", _read(port / "rate"))
        if match and "ACTIVE" in _read(port / "state"):
            layer = _read(port / "link_layer") or "InfiniBand"
            words = "RoCE (Ethernet)" if layer == "Ethernet" else layer
            ports[f"{words} {match.group().replace('/sec', '/s')}"] += 1
    for place in sorted((root / "sys/class/net").glob("*")):
        speed = _read(place / "speed")
        is_fabric = (place / "device/infiniband").exists() or place.name.startswith("ib")
        if (place / "device").exists() and not is_fabric and speed.isdecimal() and int(speed) > 0:
            ports[f"Ethernet {int(speed) / 1000:g} Gb/s"] += 1
    for words, count in ports.items():
        yield f"{count}x {words}"


# -- accelerators -----------------------------------------------------------------------------


def _read_accelerators(program: RunProgram) -> Accelerators:
    columns = "name,memory.total,clocks.max.sm,pcie.link.gen.max,pcie.link.width.max,driver_version"
    answer = program(["nvidia-smi", f"--query-gpu={columns}", "--format=csv,noheader,nounits"])
    rows = [[field.strip() for field in line.split(",")] for line in answer.splitlines()]
    rows = [row for row in rows if len(row) == len(columns.split(","))]
    if not rows:
        return Accelerators()
    kinds = Counter(row[0] for row in rows)
    model = rows[0][0]
    if len(kinds) > 1:
        model = ", ".join(f"{count}x {kind}" for kind, count in kinds.items())
    _, memory, clock, generation, width, driver = rows[0]
    links = set(re.findall(r"\bNV\d+\b", program(["nvidia-smi", "topo", "-m"])))
    return Accelerators(
        count=len(rows),
        model=model,
        memory=f"{int(memory) / 1024:.0f} GiB" if memory.isdecimal() else "",
        frequency=f"{clock} MHz" if clock.isdecimal() else "",
        host_interconnect=f"PCIe Gen{generation} x{width}" if generation.isdecimal() else "",
        interconnect=f"NVLink ({', '.join(sorted(links))})" if links else "",
        driver=driver,
    )
