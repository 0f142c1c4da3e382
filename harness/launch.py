"""From a system file to the command line that starts every rank of a run.

`python -m harness.launch --system NAME --benchmark resnet|bert --log FILE` starts one run by
hand, `--probe N` in place of --log measures N steps on every rank; with `--dry-run` it prints the
command line and starts nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.commands import GOOD, InputError, Parser, run_command
from harness.config_command import check_configurations
from harness.containers import check_folders, enter_container, find_image_fault
from harness.systems import System, find_system_file, load_system

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = ROOT / "systems"
BENCHMARKS = ("resnet", "bert")

# ssh gives a node that is off a quarter of a minute, where TCP alone would wait for two. It
# notices a cut link first (6 s) and ends the job with a status; mpirun's own keep-alive (14 s)
# then ends what is left on the node that was cut off. Without the first, mpirun of Open MPI 5.0
# ends with status 0; without the second it hangs for minutes.
NOTICE_LOST_NODES = (
    "--mca",
    "plm_ssh_args",
    "-o ConnectTimeout=15 -o ServerAliveInterval=3 -o ServerAliveCountMax=2",
    *("--prtemca", "oob_tcp_keepalive_time", "8"),
    *("--prtemca", "oob_tcp_keepalive_intvl", "2"),
    *("--prtemca", "oob_tcp_keepalive_probes", "3"),
)


def compose_command(system: System, file: Path, benchmark: str, log: Path) -> list[str]:
    """Compose the command line of one run: launcher, environment, container, trainer.

    file: the system file, which every rank reads again.
    Nothing is started or looked at beyond the user id (mpirun refuses root unless told).
    """
    trainer = [f"{benchmark}.train", "run", "--system", str(file), "--log", str(log)]
    return compose_ranks(system, trainer, [file.parent, log.parent])


def compose_probe(
    system: System, file: Path, benchmark: str, steps: int, config: Path | None = None
) -> list[str]:
    """Compose the command line that measures the training step on all ranks; JSON on stdout.

    config: another configuration than the system's.
    """
    probe = [f"{benchmark}.train", "probe", "--system", str(file), "--steps", str(steps), "--json"]
    folders = [file.parent]
    if config is not None:
        probe += ["--config", str(config)]
        folders.append(config.parent)
    return compose_ranks(system, probe, folders)


def compose_ranks(system: System, module: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Compose the command line that starts one module on every rank, as a run is started.

    module: what follows `python -m`. folders: what it reads or writes inside a container.
    """
    variables = {name: variable.value for name, variable in system.environment.items()}
    inner = [*_find_python(system, folders, variables, ranks=True), "-m", *module]
    if system.launch.launcher == "mpirun":
        return [*_compose_mpirun(system, variables), *inner]
    assignments = [f"{name}={value}" for name, value in variables.items()]
    if system.launch.launcher == "srun":
        return [*_compose_srun(system), "env", *assignments, *inner]
    return ["env", *assignments, *inner]


def compose_tool(system: System, module: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Compose the command line of one process beside the ranks: a maker of data, or scoring.

    module: what follows `python -m`. folders: what it may write to inside a container.
    """
    return [*_find_python(system, folders, {}, ranks=False), "-m", *module]


def _find_python(
    system: System, folders: Sequence[Path], variables: dict[str, str], ranks: bool
) -> list[str]:
    if system.container.runtime == "none":
        return [sys.executable]
    return enter_container(system, folders, variables, ranks)


def _compose_srun(system: System) -> list[str]:
    nodes = system.nodes
    # In full, so that no SLURM_NTASKS of an allocation has a say in it.
    srun = ["srun", f"--nodes={nodes.count}", f"--ntasks={nodes.world_size}"]
    srun.append(f"--ntasks-per-node={nodes.ranks_per_node}")
    if nodes.binding == "gpu-local":
        # Slurm would bind each task to cores of its choice, one if not told more, whatever GPU it
        # drives: a rank must be free to take those near its own (harness/affinity.py).
        srun.append("--cpu-bind=none")
    srun += ["--mpi=pmix", "--export=ALL"]  # whatever --export the job was submitted with
    # A rank that fails ends the others at once, one that leaves early after half a minute.
    return [*srun, "--kill-on-bad-exit=1", "--wait=30", *system.launch.options]


def _compose_mpirun(system: System, variables: dict[str, str]) -> list[str]:
    nodes, launch = system.nodes, system.launch
    command = [_find_mpirun(system)]
    if os.geteuid() == 0:
        command.append("--allow-run-as-root")
    command += ["-n", str(nodes.world_size), "--bind-to", "none"]
    if nodes.one_machine:
        command.append("--oversubscribe")
    else:
        command += ["--map-by", f"ppr:{nodes.ranks_per_node}:node", *NOTICE_LOST_NODES]
    if system.container.runtime != "none":
        # MPI meets its daemon below TMPDIR, which batch systems name anew for each job, and of
        # which a container shows /tmp alone.
        command += ["--prtemca", "prte_tmpdir_base", "/tmp"]
    if launch.hosts:
        hosts = (f"{host}:{nodes.ranks_per_node}" for host in launch.hosts)
        command += ["--host", ",".join(hosts)]
    for name, value in variables.items():
        command += ["-x", f"{name}={value}"]
    return [*command, *launch.options]


def _find_mpirun(system: System) -> str:
    """The mpirun beside this Python; with a container the host's own, whichever is on the PATH."""
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if system.container.runtime == "none" and beside.exists() else "mpirun"


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of `python -m harness.launch`."""
    parser = Parser(prog="python -m harness.launch", description=__doc__)
    parser.add_argument("--system", required=True, help="a name in systems/, or a file")
    parser.add_argument("--benchmark", required=True, choices=BENCHMARKS)
    parser.add_argument("--log", type=Path, help="the run's log, not there yet")
    parser.add_argument("--probe", type=int, metavar="STEPS", help="no run: measure so many steps "
                        "on every rank, with what they exchange; JSON on stdout")  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the command line only")
    options = parser.parse_args(arguments)
    if (options.log is None) == (options.probe is None):
        parser.error("give --log FILE for a run, or --probe STEPS")
    if options.probe is not None and options.probe < 1:
        parser.error(f"--probe must be at least 1, is {options.probe}")
    return options


def main(arguments: Sequence[str]) -> int:
    """Start one run or one probe of all ranks, or print how it would be started."""
    options = parse_arguments(arguments)
    file = find_system_file(options.system, SYSTEMS)
    system = load_system(file)
    if options.probe is not None:
        folders = [file.parent]
        command = compose_probe(system, file, options.benchmark, options.probe)
    else:
        log = options.log.absolute()
        folders = [file.parent, log.parent]
        command = compose_command(system, file, options.benchmark, log)
    if system.container.runtime != "none":
        check_folders(folders)
    check_configurations(file, [options.benchmark])
    # A probe's stdout is its document alone.
    shown = sys.stdout if options.probe is None or options.dry_run else sys.stderr
    print(shlex.join(command), file=shown)
    if options.dry_run:
        return GOOD
    if fault := find_image_fault(system, file):
        raise InputError(fault)
    if options.log is not None and options.log.exists():
        raise InputError(f"{options.log} is there already: name a new log file")
    os.chdir(ROOT)
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except (FileNotFoundError, PermissionError):  # the latter also for a folder of PATH
        if shutil.which(command[0]) is not None:
            raise
        raise InputError(f"launcher '{command[0]}' is not on this machine's PATH") from None


if __name__ == "__main__":
    run_command(main)
