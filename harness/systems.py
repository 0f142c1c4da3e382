"""A machine, as its system file states it: nodes, launch, container, environment, data."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from harness.commands import InputError
from harness.config import check, load_config

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
# Where the image holds the kit and the environment (container/install.sh).
IMAGE_KIT = PurePosixPath("/opt/lp-mlperf-kit")
IMAGE_PYTHON = PurePosixPath("/opt/lp-mlperf-environment/bin/python")
HIDING_OPTIONS = {"-e", "--cleanenv", "-c", "--contain", "-C", "--containall", "--compat"}


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
    # "gpu-local": each rank gets cores of its own, near its GPU (harness/affinity.py); "none": the
    # launcher's cores stay as they are. A system file must say which.
    binding: Literal["gpu-local", "none"] = "none"

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
        for host in self.hosts:
            check(bool(HOST.fullmatch(host)), f"'hosts': '{host}' is no host name")
        check(self.collective_timeout_seconds > 0, "'collective_timeout_seconds' must be positive")
        check(self.run_limit_minutes > 0, "'run_limit_minutes' must be positive")


@dataclass(frozen=True)
class Container:
    """The container each rank runs in; "none" runs the environment beside the sources."""

    runtime: Literal["none", "singularity", "docker"]
    # An image file (singularity) or an image's name (docker).
    image: str
    # The image file's SHA-256, looked at before anything starts; empty: not checked, and told so.
    image_sha256: str
    # HOST:INSIDE or HOST:INSIDE:ro, both absolute; every data path must lie below an INSIDE.
    binds: tuple[str, ...]
    # Further options of `singularity exec` or `docker run`.
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        needed = self.runtime != "none"
        check(needed == bool(self.image), "'image' and 'runtime' must be given together")
        check(
            needed or not (self.binds or self.options or self.image_sha256),
            "'binds', 'options' and 'image_sha256' mean nothing without a 'runtime'",
        )
        if self.runtime == "docker":
            check(
                not self.image_sha256,
                "'image_sha256' is of an image file: for docker write the digest into 'image' "
                "(NAME@sha256:...)",
            )
        elif self.image_sha256:
            check(bool(SHA256.fullmatch(self.image_sha256)), "'image_sha256' must be 64 hex digits")
        for bind in self.binds:
            parts = bind.split(":")
            absolute = len(parts) in (2, 3) and all(part.startswith("/") for part in parts[:2])
            check(
                absolute and parts[2:] in ([], ["ro"], ["rw"]),
                f"bind '{bind}' must be /HOST:/INSIDE or /HOST:/INSIDE:ro",
            )
        for option in self.options:
            check(
                option.partition("=")[0] not in HIDING_OPTIONS,
                f"option '{option}' would hide the launcher's variables or /tmp from the ranks, so "
                f"that each believes it is alone: remove it",
            )

    def covers(self, path: PurePosixPath) -> bool:
        """Whether a path inside the container lies below a bind."""
        inside = (PurePosixPath(bind.split(":")[1]) for bind in self.binds)
        return any(path.is_relative_to(place) for place in inside)


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
        check(bool(self.config.strip()), "'config' must not be empty")
        check(bool(self.data.strip()), "'data' must not be empty")
        check(self.runs >= 1, "'runs' must be at least 1")


@dataclass(frozen=True)
class Benchmarks:
    """Both benchmarks of the request."""

    resnet: Benchmark
    bert: Benchmark

    def named(self, name: str) -> Benchmark:
        """The section of "resnet" or "bert"."""
        return {"resnet": self.resnet, "bert": self.bert}[name]


@dataclass(frozen=True)
class Campaign:
    """How a whole campaign is made and judged."""

    # The profile of `python -m scoring score --rfp`.
    profile: Literal["lp2bm", "demo"]
    cache_clear: Literal["fadvise", "drop_caches", "site_command"]
    # For "site_command" alone: the program and its arguments, run once on every node.
    cache_clear_command: tuple[str, ...]
    # Run with `python -m` before the first run: modules, with arguments, that make missing data.
    make_data: tuple[str, ...]

    def __post_init__(self) -> None:
        needed = self.cache_clear == "site_command"
        check(
            needed == bool(self.cache_clear_command),
            "'cache_clear_command' and cache_clear = 'site_command' must be given together",
        )


@dataclass(frozen=True)
class Bandwidth:
    """Bus bandwidth of an all-reduce over all ranks, of each benchmark's gradients, in GB/s.

    Zero: nothing is stated. nccl-tests' busbw: 2 (n - 1) / n x bytes / seconds.
    """

    resnet: float
    bert: float

    def __post_init__(self) -> None:
        check(min(self.resnet, self.bert) >= 0, "a bandwidth cannot be negative")


@dataclass(frozen=True)
class Expected:
    """What `python -m harness.preflight` holds the nodes against; it changes no run."""

    # The GPU's name as nvidia-smi prints it; empty: any, the same on all nodes.
    gpu: str
    all_reduce_gigabytes_per_second: Bandwidth


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
    expected: Expected

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
        check(
            not hosts or self.launch.launcher == "mpirun",
            "'hosts' is for mpirun: srun takes the allocation's nodes",
        )
        self._check_container()

    def _check_container(self) -> None:
        if self.container.runtime == "none":
            return
        check(
            self.container.runtime != "docker" or self.launch.launcher != "srun",
            "docker's daemon runs the ranks outside of srun's step: take mpirun or singularity",
        )
        command = self.campaign.cache_clear_command[:1]
        check(
            not command or PurePosixPath(command[0]).name != "sudo",
            "'cache_clear_command' is run inside the container, where sudo gives no rights: clear "
            "the caches before the ranks start by the site's own means, or set cache_clear = "
            "'fadvise'",
        )
        for name, benchmark in (
            ("resnet", self.benchmarks.resnet),
            ("bert", self.benchmarks.bert),
        ):
            for key in ("data", "initial_checkpoint"):
                text = getattr(benchmark, key)
                path = IMAGE_KIT / text
                check(
                    not text or (".." not in path.parts and self.container.covers(path)),
                    f"benchmarks.{name}.{key} '{path}' lies below no bind of [container]: the "
                    f"ranks would not see it",
                )


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
