"""Starts a process inside the image: Singularity's (or Apptainer's) and docker's command lines.

In the image the kit and its environment stand at fixed paths, and the image's own sources run. The
results folder, the system file and the configurations are bound at run time, so that the host's
campaign and the ranks inside read and write the very same files.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.commands import InputError
from harness.systems import IMAGE_KIT, IMAGE_PYTHON, System

ROOT = Path(__file__).resolve().parent.parent

# What tells a rank its place; docker hands a variable in only if it is named.
RANK_VARIABLES = (
    *(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    "OMPI_COMM_WORLD_NODE_RANK",
    *(f"PMIX_{name}" for name in ("RANK", "NAMESPACE", "VERSION", "HOSTNAME", "SERVER_TMPDIR")),
    *(f"PMIX_{name}" for name in ("SYSTEM_TMPDIR", "SECURITY_MODE", "GDS_MODULE", "BFROP_MODULE")),
    *(f"PMIX_SERVER_URI{version}" for version in ("2", "21", "3", "4", "41", "5", "51")),
    *(f"SLURM_{name}" for name in ("PROCID", "NTASKS", "LOCALID", "STEP_ID", "JOB_ID")),
)


def enter_container(
    system: System, folders: Sequence[Path], variables: Mapping[str, str], ranks: bool
) -> list[str]:
    """Compose what comes before `-m MODULE ...`: the image's Python, run in the container.

    folders: bound read-write at their own paths. variables: set inside (docker only; Singularity
    passes the whole environment on). ranks: True for the trainers' ranks, which get the GPUs.
    """
    binds = [*system.container.binds, *_bind_configurations(system)]
    binds += [f"{folder}:{folder}" for folder in _outermost(folders)]
    gpus = ranks and system.nodes.device == "cuda"
    if system.container.runtime == "singularity":
        command = ["singularity", "exec", *(["--nv"] if gpus else []), "--pwd", str(IMAGE_KIT)]
        command += [word for bind in binds for word in ("--bind", bind)]
    else:
        # The host's network, process ids, shared memory and /tmp: where PMIx and Open MPI meet.
        command = ["docker", "run", "--rm", "--network", "host", "--ipc", "host", "--pid", "host"]
        command += ["--ulimit", "memlock=-1", "--user", f"{os.getuid()}:{os.getgid()}"]
        command += [*(["--gpus", "all"] if gpus else []), "--workdir", str(IMAGE_KIT)]
        command += [word for bind in (*binds, "/tmp:/tmp") for word in ("-v", bind)]
        names = (*variables, *(RANK_VARIABLES if ranks else ()))
        command += [word for name in names for word in ("-e", name)]
    return [*command, *system.container.options, system.container.image, str(IMAGE_PYTHON)]


def _bind_configurations(system: System) -> list[str]:
    """The host's configurations, over the image's: what the campaign hashes is what runs."""
    configs = (system.benchmarks.resnet.config, system.benchmarks.bert.config)
    folders = sorted({Path(config).parent for config in configs})
    return [f"{ROOT / folder}:{IMAGE_KIT / folder}:ro" for folder in folders]


def _outermost(folders: Iterable[Path]) -> list[Path]:
    ordered = sorted(set(folders))
    return [
        folder
        for folder in ordered
        if not any(folder != other and folder.is_relative_to(other) for other in ordered)
    ]


def check_folders(folders: Iterable[Path]) -> None:
    """Refuse folders whose names a bind cannot carry. Raises InputError."""
    for folder in folders:
        if not set(str(folder)).isdisjoint(":,"):
            raise InputError(f"{folder}: a ':' or ',' in its path cannot be bound: name another")


def find_image_fault(system: System, file: Path) -> str | None:
    """Say why the image cannot be the one that the system file means; None where it can.

    A Singularity image is read once if `image_sha256` is given. A docker image is not looked at:
    its name carries its digest.
    """
    container = system.container
    if container.runtime != "singularity":
        return None
    image = Path(container.image)
    if not image.is_absolute():
        return f"{file}: image '{image}' must be an absolute path, the same on every node"
    if not image.exists():
        return f"{file}: image {image} is not there: build it (docs/reproducing.md), or name it"
    if container.image_sha256:
        if image.is_dir():
            return f"{file}: image {image} is a folder, which has no 'image_sha256': leave it empty"
        found = _hash_image(image)
        if found != container.image_sha256:
            return f"{file}: image {image} has SHA-256 {found}, 'image_sha256' says another"
    return None


def _hash_image(image: Path) -> str:
    digest = hashlib.sha256()
    with open(image, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
