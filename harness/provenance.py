"""What a run ran on and with, for its log: hosts, software, and a hash of the sources.

A reviewer compares these lines with the delivered sources and the system description; no rule
asks for them.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import torch

from harness.ranks import Ranks
from harness.runclock import ROOT, RunClock
from harness.systems import System


def log_provenance(clock: RunClock, benchmark: str, system: System, ranks: Ranks) -> None:
    """Write where and with what the run is made; allowed at any time before run_stop."""
    hosts = sorted(set(ranks.hosts))
    where = {"hosts": hosts, "ranks": ranks.world_size, "launcher": ranks.launcher}
    clock.log("number_of_nodes", system.nodes.count, where)
    software = {"torch": torch.__version__, "python": platform.python_version()}
    clock.log("source_sha256", hash_sources(ROOT, ("harness", benchmark)), software)


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
