"""A benchmark's configuration, looked at before any rank is started.

`python -m resnet.config --system FILE` and `python -m bert.config --system FILE` say whether the
ranks of a system can use the configuration that it names. The launch code starts these commands: it
may not import a trainer, and needs no torch for them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from harness.batch import Batch, Graphs
from harness.commands import GOOD, InputError, Parser
from harness.systems import System, load_system

ROOT = Path(__file__).resolve().parent.parent


class Configuration(Protocol):
    """The sections of a configuration that a system has a say in."""

    @property
    def batch(self) -> Batch: ...

    @property
    def graphs(self) -> Graphs: ...


def check_fit(system: System, config: Configuration, file: str) -> None:
    """Refuse a configuration whose sizes or graphs a system's ranks cannot have.

    file: the configuration's, as the system names it. Raises InputError.
    """
    fault = config.batch.check_world_size(system.nodes.world_size)
    if fault := fault or config.graphs.find_fault(system.nodes.device):
        raise InputError(f"{file}: {fault}")


def run_check(benchmark: str, look: Callable[[System], str], arguments: Sequence[str]) -> int:
    """Be the command of a benchmark's configuration.

    look: reads the configuration that a system names, raises InputError where it cannot be used
    there, and returns its file.
    """
    description = "Say whether the ranks of a system can use the configuration that it names."
    parser = Parser(prog=f"python -m {benchmark}.config", description=description)
    parser.add_argument("--system", required=True, type=Path, help="systems/NAME.toml")
    system = load_system(parser.parse_args(arguments).system)
    print(f"{look(system)}: can be used by system {system.name}")
    return GOOD


def find_configuration_fault(file: Path, benchmark: str) -> str | None:
    """Say why no rank could use the configuration that a system file names; None: they can."""
    command = [sys.executable, "-m", f"{benchmark}.config", "--system", str(file.absolute())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == GOOD:
        return None
    return done.stderr.strip().removeprefix("error: ")


def check_configurations(file: Path, benchmarks: Sequence[str]) -> None:
    """Refuse a system file that names a configuration its ranks cannot use. Raises InputError."""
    for benchmark in benchmarks:
        if fault := find_configuration_fault(file, benchmark):
            raise InputError(fault)


def list_undeliverable(system: System, benchmarks: Sequence[str]) -> list[str]:
    """Name the configurations that stand outside of the sources whose hash each log carries.

    A package delivers the sources alone, so none can be made of a campaign with these.
    """
    configs = {name: PurePosixPath(system.benchmarks.named(name).config) for name in benchmarks}
    return [
        str(config)
        for name, config in configs.items()
        if config.parts[0] != name or ".." in config.parts
    ]
