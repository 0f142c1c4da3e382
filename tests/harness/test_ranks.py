"""Launchers' variables, and every way in which launcher, MPI and system file can disagree."""

import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands import InputError
from harness.ranks import (
    Launcher,
    Ranks,
    SharedFault,
    check_agreement,
    check_order,
    check_world_size,
    find_ranks,
    read_launcher,
)
from harness.systems import Nodes

OPENMPI = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "PMIX_RANK": "2"}
SBATCH = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}
STEP = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0"}


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({}, Launcher("single", 0, 1)),
        (OPENMPI, Launcher("openmpi", 2, 4)),
        ({**OPENMPI, **SBATCH}, Launcher("openmpi", 2, 4)),
        (SBATCH, Launcher("single", 0, 1)),
        (STEP, Launcher("slurm", 3, 4)),
        ({**STEP, "PMIX_RANK": "3"}, Launcher("slurm", 3, 4)),
        ({**STEP, "PMI_RANK": "3", "PMI_SIZE": "4"}, Launcher("slurm", 3, 4)),  # --mpi=pmi2
        ({"PMIX_RANK": "1"}, Launcher("pmix", 1, 0)),
        (
            {"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"},
            Launcher("hydra", 1, 2),
        ),
    ],
)
def test_reads_the_launcher(environment: dict[str, str], launcher: Launcher) -> None:
    assert read_launcher(environment) == launcher


def test_refuses_torchrun_and_nonsense() -> None:
    with pytest.raises(InputError, match="torchrun"):
        read_launcher({"TORCHELASTIC_RUN_ID": "x", **STEP})
    with pytest.raises(InputError, match="must be numbers"):
        read_launcher({**OPENMPI, "OMPI_COMM_WORLD_SIZE": "four"})


@pytest.mark.parametrize(
    ("launcher", "mend"),
    [
        (Launcher("slurm", 2, 4), "srun --mpi=pmix"),
        (Launcher("openmpi", 2, 4), "OMPI_"),
        (Launcher("hydra", 2, 4), "Open MPI's mpirun"),
    ],
)
def test_silent_singletons_are_found(launcher: Launcher, mend: str) -> None:
    with pytest.raises(InputError, match="rank 2 of 4, MPI says rank 0 of 1") as caught:
        check_agreement(launcher, rank=0, size=1)
    assert mend in str(caught.value)


def test_agreement_passes() -> None:
    check_agreement(Launcher("openmpi", 2, 4), 2, 4)
    check_agreement(Launcher("pmix", 1, 0), 1, 4)


def test_ranks_dealt_out_in_turn_are_refused() -> None:
    check_order([0, 1, 0, 1], ["a", "a", "b", "b"])
    check_order([0, 0, 0], ["a", "b", "c"])
    with pytest.raises(SharedFault, match="ranks 0 and 1 are on a and b: fill one node"):
        check_order([0, 0, 1, 1], ["a", "b", "a", "b"])


def make_nodes(count: int, ranks_per_node: int = 1, one_machine: bool = True) -> Nodes:
    return Nodes(count, ranks_per_node, "cpu", one_machine, 1)


def test_world_size_must_be_the_system_files() -> None:
    check_world_size(8, make_nodes(4, 2))
    with pytest.raises(SharedFault, match=r"1 rank\(s\) were started.*4 node"):
        find_ranks(make_nodes(4), environment={})


def test_a_single_process_is_rank_0() -> None:
    ranks = find_ranks(make_nodes(1), environment={})
    assert (ranks.rank, ranks.world_size, ranks.first, ranks.first_of_node) == (0, 1, True, True)
    assert ranks.broadcast(5) == 5
    assert ranks.gather(5) == [5]


def test_agree_raises_the_first_fault() -> None:
    ranks = Ranks(0, 1, 0, 1, 0, ("host",), "single")
    ranks.agree(None)
    with pytest.raises(SharedFault, match="broken"):
        ranks.agree("broken")


PROGRAM = """
import sys
from harness.commands import InputError
from harness.ranks import find_ranks
from harness.systems import Nodes
try:
    ranks = find_ranks(Nodes({count}, {per_node}, "cpu", {one_machine}, 1))
except InputError as error:
    sys.exit(f"refused: {{error}}")
assert ranks.gather(ranks.rank) == list(range(ranks.world_size))
assert ranks.broadcast("x" if ranks.first else None) == "x"
sys.stdout.write(f"{{ranks.rank}} {{ranks.local_rank}} {{ranks.node}} {{ranks.launcher}}\\n")
"""


def run_mpi(processes: int, count: int, per_node: int, one_machine: bool) -> tuple[str, int]:
    program = PROGRAM.format(count=count, per_node=per_node, one_machine=one_machine)
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [str(mpirun), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
    command += ["-n", str(processes), sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return done.stdout + done.stderr, done.returncode


def test_mpirun_with_one_machine_for_all_nodes() -> None:
    output, status = run_mpi(4, count=2, per_node=2, one_machine=True)
    assert status == 0, output
    lines = sorted(line for line in output.splitlines() if line.endswith("openmpi"))
    assert lines == ["0 0 0 openmpi", "1 1 0 openmpi", "2 0 1 openmpi", "3 1 1 openmpi"]


def test_mpirun_with_wrong_placement_is_refused() -> None:
    output, status = run_mpi(2, count=2, per_node=1, one_machine=False)
    assert status != 0
    assert "2 ranks were started on" in output and "1 a node" in output


def test_mpirun_with_wrong_world_size_is_refused() -> None:
    output, status = run_mpi(3, count=4, per_node=1, one_machine=True)
    assert status != 0
    assert "3 rank(s) were started, the system file says 4 node(s)" in output
