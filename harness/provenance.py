"""What a run ran on and with, for its log: hosts, software, and a hash of the sources.

A reviewer compares these lines with the delivered sources and the system description; no rule
asks for them.
"""

from __future__ import annotations

import hashlib
import platform
import sys
from pathlib import Path
from typing import Any

import torch

from harness.affinity import Binding
from harness.ranks import Ranks
from harness.runclock import ROOT, RunClock
from harness.systems import System


def log_provenance(
    clock: RunClock, benchmark: str, system: System, file: Path, ranks: Ranks, binding: Binding
) -> None:
    """Write where and with what the run is made; allowed at any time before run_stop.

    file: the system file. Its hash and the configuration's stand in the log, under the names of a
    campaign's record, since of all the kit's configurations the sources' hash says not which ran.
    """
    hosts = sorted(set(ranks.hosts))
    where = {"hosts": hosts, "ranks": ranks.world_size, "launcher": ranks.launcher}
    where["binding"] = describe_binding(binding)
    clock.log("number_of_nodes", system.nodes.count, where)
    software: dict[str, Any] = {
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    if (digest := hash_image_manifest(Path(sys.prefix))) is not None:
        software["image_manifest_sha256"] = digest
    config = system.benchmarks.named(benchmark).config
    settings = {file.name: file, config: ROOT / config}
    software["settings"] = {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in settings.items()
    }
    clock.log("source_sha256", hash_sources(ROOT, ("harness", benchmark)), software)


def describe_binding(binding: Binding) -> dict[str, Any]:
    """What the log says of the cores: the method, why it is "none", each rank's CPUs and GPU."""
    described: dict[str, Any] = {"method": binding.method, "cpus": list(binding.cpus)}
    if binding.reason:
        described["reason"] = binding.reason
    if any(binding.gpus):
        described["gpus"] = list(binding.gpus)
    return described


def hash_image_manifest(environment: Path) -> str | None:
    """SHA-256 of the manifest of the image that this environment is part of; None outside one.

    The manifest (container/manifest.py) holds every package's version and every source's hash, so
    this one line ties a log to an image that can be built again and compared.
    """
    manifest = environment / "manifest" / "manifest.json"
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None


def hash_sources(root: Path, folders: tuple[str, ...]) -> str:
    """SHA-256 over names and contents of all .py and .toml files below these folders of `root`."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted((root / folder).rglob("*")):
            if file.suffix in (".py", ".toml") and file.is_file():
                content = file.read_bytes()
                digest.update(f"{file.relative_to(root).as_posix()}\0{len(content)}\0".encode())
                digest.update(content)
    return digest.hexdigest()
