"""Which rank this process is: one launcher's word, checked against MPI and the system file.

The launcher's variables come first, because they are there before anything is initialised; MPI
must then say the same. A launcher that starts four processes which each believe they are alone
is the costliest mistake of a cluster day, so any disagreement ends the run with a sentence.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.commands import InputError
from harness.systems import Nodes


class SharedFault(InputError):
    """A fault that every rank knows of: all stop by themselves, rank 0 says it."""


@dataclass(frozen=True)
class Launcher:
    """What a launcher's variables say: who started this process, its rank and the world size."""

    name: str
    rank: int
    world_size: int


@dataclass(frozen=True)
class Ranks:
    """This process among all: rank, world size, place on its node, and the hosts of all nodes."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node: int
    hosts: tuple[str, ...]
    launcher: str

    @property
    def first(self) -> bool:
        """True on rank 0, the only one that writes logs."""
        return self.rank == 0

    @property
    def first_of_node(self) -> bool:
        """True on one rank of each node: who clears the node's caches."""
        return self.local_rank == 0

    def broadcast(self, value: Any) -> Any:
        """Give rank 0's value to every rank (bootstrap only, never in the timed loop)."""
        return _communicator().bcast(value, root=0) if self.world_size > 1 else value

    def gather(self, value: Any) -> list[Any]:
        """Give every rank the values of all, in rank order (bootstrap only)."""
        return _communicator().allgather(value) if self.world_size > 1 else [value]

    def agree(self, fault: str | None) -> None:
        """End all ranks together if one found a fault. Raises SharedFault with the first sentence.

        fault: None where all is well, else the sentence this rank would have stopped with.
        """
        faults = self.gather(fault)
        for rank, sentence in enumerate(faults):
            if sentence is not None:
                where = f" (rank {rank} on {self.hosts[rank]})" if self.world_size > 1 else ""
                raise SharedFault(f"{sentence}{where}")


def _communicator() -> Any:
    from mpi4py import MPI

    return MPI.COMM_WORLD


def read_launcher(environment: Mapping[str, str]) -> Launcher:
    """Find the one launcher that started this process by its variables.

    Open MPI's own variables win over Slurm's, since mpirun inside an allocation shows both; a
    Slurm task counts only with a step id, since an sbatch shell has a task number too.
    Raises InputError for torchrun and for unreadable numbers.
    """
    if environment.get("TORCHELASTIC_RUN_ID"):
        raise InputError("started by torchrun: start with mpirun or srun, as harness.launch prints")
    pairs = [
        ("openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", ""),
        ("hydra", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
        ("slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID"),
    ]
    for name, rank, size, also in pairs:
        if rank in environment and size in environment and (not also or also in environment):
            try:
                return Launcher(name, int(environment[rank]), int(environment[size]))
            except ValueError:
                raise InputError(f"{rank} and {size} must be numbers: start with mpirun") from None
    if "PMIX_RANK" in environment:
        # A PMIx launcher without size variables: MPI knows the size.
        return Launcher("pmix", int(environment["PMIX_RANK"]), 0)
    return Launcher("single", 0, 1)


def find_ranks(nodes: Nodes, environment: Mapping[str, str] | None = None) -> Ranks:
    """Find this process's place and check it against the system file.

    Raises InputError where launcher, MPI and system file do not all say the same.
    """
    launcher = read_launcher(os.environ if environment is None else environment)
    if launcher.name == "single":
        check_world_size(1, nodes)
        return Ranks(0, 1, 0, 1, 0, (socket.gethostname(),), "single")
    communicator = _communicator()
    check_agreement(launcher, communicator.rank, communicator.size)
    check_world_size(communicator.size, nodes)
    hosts = tuple(communicator.allgather(socket.gethostname()))
    if nodes.one_machine:
        place = (communicator.rank % nodes.ranks_per_node, nodes.ranks_per_node)
    else:
        from mpi4py import MPI

        local = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        place = (local.rank, local.size)
        counts = communicator.allgather(local.size)
        if set(counts) != {nodes.ranks_per_node}:
            raise SharedFault(
                f"{counts[0]} ranks were started on {hosts[0]} where the system file says "
                f"{nodes.ranks_per_node} a node: give the launcher that number a node"
            )
        check_order(communicator.allgather(local.rank), hosts)
    rank = communicator.rank
    return Ranks(
        rank, communicator.size, *place, rank // nodes.ranks_per_node, hosts, launcher.name
    )


def check_agreement(launcher: Launcher, rank: int, size: int) -> None:
    """Compare the launcher's word with MPI's. Raises InputError if they differ."""
    known_size = launcher.world_size or size
    if (launcher.rank, known_size) == (rank, size):
        return
    mends = {
        "slurm": "start with 'srun --mpi=pmix', for which 'srun --mpi=list' must show pmix",
        "openmpi": "let no container option remove the OMPI_* and PMIX_* variables, "
        "and use one Open MPI inside and outside",
        "hydra": "start with Open MPI's mpirun, which this environment's mpi4py belongs to",
    }
    raise InputError(
        f"{launcher.name} says rank {launcher.rank} of {known_size}, MPI says rank {rank} of "
        f"{size}: {mends.get(launcher.name, 'start with mpirun')}"
    )


def check_order(local_ranks: Sequence[int], hosts: Sequence[str]) -> None:
    """Refuse ranks dealt out to the nodes in turn: groups of neighbouring ranks share a node.

    local_ranks: of every rank its place among those of its node. Raises SharedFault.
    """
    size = max(local_ranks) + 1
    for rank, place in enumerate(local_ranks):
        if place != rank % size:
            raise SharedFault(
                f"ranks {rank - 1} and {rank} are on {hosts[rank - 1]} and {hosts[rank]}: fill one "
                f"node after another (srun: --distribution=block, no SLURM_DISTRIBUTION; mpirun: "
                f"no --rank-by or --map-by of your own)"
            )


def check_world_size(size: int, nodes: Nodes) -> None:
    """Compare the number of processes with the system file. Raises SharedFault if they differ."""
    if size != nodes.world_size:
        raise SharedFault(
            f"{size} rank(s) were started, the system file says {nodes.count} node(s) x "
            f"{nodes.ranks_per_node} rank(s) = {nodes.world_size}: start through harness.launch or "
            f"run_and_time.sh, with nothing that takes the launcher's variables from a container "
            f"(--cleanenv, SINGULARITY_CLEANENV, APPTAINER_CLEANENV), or change [nodes]"
        )
