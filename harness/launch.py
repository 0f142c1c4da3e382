"""From a system file to the command line that starts every rank of a run.

`python -m harness.launch --system NAME --benchmark resnet|bert --log FILE` starts one run by
hand; with `--dry-run` it prints the command line and starts nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.commands import GOOD, InputError, Parser, run_command
from harness.systems import System, find_system_file, load_system

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = ROOT / "systems"
BENCHMARKS = ("resnet", "bert")


def compose_command(system: System, file: Path, benchmark: str, log: Path) -> list[str]:
    """Compose the command line of one run: launcher, environment, container, trainer.

    file: the system file, which every rank reads again.
    Nothing is started or looked at beyond the user id (mpirun refuses root unless told).
    """
    trainer = ["-m", f"{benchmark}.train", "run"]
    trainer += ["--system", str(file), "--log", str(log)]
    inner = [*_enter_container(system), *trainer]
    variables = {name: variable.value for name, variable in system.environment.items()}
    if system.launch.launcher == "mpirun":
        return [*_compose_mpirun(system, variables), *inner]
    assignments = [f"{name}={value}" for name, value in variables.items()]
    if system.launch.launcher == "srun":
        nodes = system.nodes
        srun = ["srun", f"--nodes={nodes.count}", f"--ntasks-per-node={nodes.ranks_per_node}"]
        srun += ["--mpi=pmix", "--kill-on-bad-exit=1", *system.launch.options]
        return [*srun, "env", *assignments, *inner]
    return ["env", *assignments, *inner]


def _compose_mpirun(system: System, variables: dict[str, str]) -> list[str]:
    nodes, launch = system.nodes, system.launch
    beside = Path(sys.executable).parent / "mpirun"
    command = [str(beside) if beside.exists() else "mpirun"]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    command += ["-n", str(nodes.world_size), "--bind-to", "none"]
    if nodes.one_machine:
        command.append("--oversubscribe")
    else:
        command += ["--map-by", f"ppr:{nodes.ranks_per_node}:node"]
        # Without these a cut link hangs mpirun for minutes.
        for name, value in (("time", "8"), ("intvl", "2"), ("probes", "3")):
            command += ["--prtemca", f"oob_tcp_keepalive_{name}", value]
    if launch.hosts:
        hosts = (f"{host}:{nodes.ranks_per_node}" for host in launch.hosts)
        command += ["--host", ",".join(hosts)]
    for name, value in variables.items():
        command += ["-x", f"{name}={value}"]
    return [*command, *launch.options]


def _enter_container(system: System) -> list[str]:
    container = system.container
    if container.runtime == "none":
        return [sys.executable]
    command = ["singularity", "exec"]
    if system.nodes.device == "cuda":
        command.append("--nv")
    for bind in container.binds:
        command += ["--bind", bind]
    return [*command, container.image, "python"]


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of `python -m harness.launch`."""
    parser = Parser(prog="python -m harness.launch", description=__doc__)
    parser.add_argument("--system", required=True, help="a name in systems/, or a file")
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    parser.add_argument("--log", required=True, type=Path, help="the run's log, not there yet")
    parser.add_argument("--dry-run", action="store_true", help="print the command line only")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Start one run, or print how it would be started."""
    options = parse_arguments(arguments)
    file = find_system_file(options.system, SYSTEMS)
    command = compose_command(load_system(file), file, options.benchmark, options.log.absolute())
    print(shlex.join(command))
    if options.dry_run:
        return GOOD
    if options.log.exists():
        raise InputError(f"{options.log} is there already: name a new log file")
    os.chdir(ROOT)
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise InputError(f"launcher '{command[0]}' is not on this machine's PATH") from None


if __name__ == "__main__":
    run_command(main)
