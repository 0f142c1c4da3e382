"""A machine, as its system file states it: nodes, launch, container, environment, data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.commands import InputError
from harness.config import check, load_config

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Submission:
    """What the run logs say of the submitter (MLPerf submission_* keys)."""

    organization: str
    platform: str
    status: Literal["cloud", "onprem", "preview", "research"]

    def __post_init__(self) -> None:
        check(bool(self.organization.strip()), "'organization' must not be empty")
        check(bool(self.platform.strip()), "'platform' must not be empty")


@dataclass(frozen=True)
class Nodes:
    """The nodes and the ranks on each; one rank drives one device."""

    count: int
    ranks_per_node: int
    device: Literal["cpu", "cuda"]
    # True: this one machine stands for all nodes (the demonstration), placement is not checked.
    one_machine: bool
    # Threads of torch on each rank (one rank's share of the cores on a CPU; few on a GPU node).
    threads_per_rank: int

    def __post_init__(self) -> None:
        check(self.count >= 1, "'count' must be at least 1")
        check(self.ranks_per_node >= 1, "'ranks_per_node' must be at least 1")
        check(self.threads_per_rank >= 1, "'threads_per_rank' must be at least 1")

    @property
    def world_size(self) -> int:
        """Ranks of a run."""
        return self.count * self.ranks_per_node


@dataclass(frozen=True)
class Launch:
    """How ranks are started."""

    launcher: Literal["mpirun", "srun", "local"]
    # Hosts for mpirun; empty: the launcher's allocation, or this machine.
    hosts: tuple[str, ...]
    options: tuple[str, ...]
    # A collective that waits longer than this ends the run: a rank has died or hangs.
    collective_timeout_seconds: int
    run_limit_minutes: int

    def __post_init__(self) -> None:
        check(self.collective_timeout_seconds > 0, "'collective_timeout_seconds' must be positive")
        check(self.run_limit_minutes > 0, "'run_limit_minutes' must be positive")


@dataclass(frozen=True)
class Container:
    """The container each rank runs in; "none" runs the environment beside the sources."""

    runtime: Literal["none", "singularity"]
    image: str
    binds: tuple[str, ...]

    def __post_init__(self) -> None:
        needed = self.runtime != "none"
        check(needed == bool(self.image), "'image' and 'runtime' must be given together")


@dataclass(frozen=True)
class Variable:
    """An environment variable of every rank, and why it is set."""

    value: str
    reason: str

    def __post_init__(self) -> None:
        check(bool(self.reason.strip()), "'reason' must say why the variable is set")


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark runs with on this machine."""

    config: str
    data: str
    # BERT's initial checkpoint (.safetensors); empty where the benchmark starts from nothing.
    initial_checkpoint: str
    runs: int

    def __post_init__(self) -> None:
        check(self.runs >= 1, "'runs' must be at least 1")


@dataclass(frozen=True)
class Benchmarks:
    """Both benchmarks of the request."""

    resnet: Benchmark
    bert: Benchmark


@dataclass(frozen=True)
class Campaign:
    """How a whole campaign is made and judged."""

    # The profile of `python -m scoring score --rfp`.
    profile: Literal["lp2bm", "demo"]
    cache_clear: Literal["fadvise", "drop_caches"]
    # Run with `python -m` before the first run: modules, with arguments, that make missing data.
    make_data: tuple[str, ...]


@dataclass(frozen=True)
class System:
    """One system file."""

    name: str
    submission: Submission
    nodes: Nodes
    launch: Launch
    container: Container
    environment: dict[str, Variable]
    benchmarks: Benchmarks
    campaign: Campaign

    def __post_init__(self) -> None:
        check(bool(NAME.fullmatch(self.name)), "'name' must be letters, digits, '.', '_' and '-'")
        for variable in self.environment:
            check(bool(VARIABLE.fullmatch(variable)), f"'{variable}' is no variable name")
        if self.launch.launcher == "local":
            check(
                self.nodes.world_size == 1, "launcher 'local' starts one rank: use mpirun or srun"
            )
        check(
            not self.nodes.one_machine or self.campaign.profile == "demo",
            "nodes.one_machine is for the demonstration alone",
        )
        hosts = self.launch.hosts
        several = bool(hosts) and not self.nodes.one_machine
        check(not several or len(hosts) == self.nodes.count, "'hosts' must name one host a node")


def load_system(path: Path | str) -> System:
    """Read a system file; its name must be the file's. Raises InputError."""
    path = Path(path)
    system = load_config(path, System)
    if system.name != path.stem:
        raise InputError(f"{path}: name is '{system.name}', must be the file's name '{path.stem}'")
    return system


def find_system_file(name: str, folder: Path) -> Path:
    """Find the system file of that name in a folder, or the file itself where a path is given.

    Raises InputError, listing what there is.
    """
    if name.endswith(".toml"):
        return Path(name).absolute()
    path = folder / f"{name}.toml"
    if not NAME.fullmatch(name) or not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.toml")))
        raise InputError(f"no system '{name}' in {folder} (there are: {known})")
    return path
