"""Where the virtual hosts can be made: root, their tools, an image, and nobody else's hosts up."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, Kit, make_kit
from tests.multinode.cluster import (
    SMALL_BYTES,
    Cluster,
    SharedKit,
    Software,
    compare_sources,
    read_manifest,
    share_kit,
)

STATE = Path("/run/vcluster")
SYSTEM_PREFIXES = (Path("/"), Path("/usr"))
MANIFEST = "/opt/lp-mlperf-environment/manifest/manifest.json"
BIND_CODE = os.environ.get("LP_BIND_CODE") == "1"


def find_tools() -> Path:
    """The folder of the cluster's tools: LP_CLUSTER_TOOLS, or beside the checkout."""
    named = os.environ.get("LP_CLUSTER_TOOLS")
    return Path(named) if named else ROOT.parent / "shared" / "tools" / "cluster"


def cluster_folder() -> Path:
    """Where the tools keep the hosts' root file system and what all hosts see."""
    return Path(os.environ.get("CLUSTER_DIR", "/var/tmp/vcluster"))


def find_software() -> Software:
    """What to test with: the image of LP_IMAGE, one built now (LP_BUILD_IMAGE=1), or .venv.

    Skips where .venv stands on a Python that hosts cannot be given.
    """
    if named := os.environ.get("LP_IMAGE"):
        return Software(Path(named).resolve())
    if os.environ.get("LP_BUILD_IMAGE") == "1":
        return Software(build_image(cluster_folder() / "test-image"))
    if Path(sys.base_prefix) in SYSTEM_PREFIXES:
        pytest.skip(f"the hosts cannot see {sys.base_prefix}'s Python: name an image (LP_IMAGE)")
    return Software(None)


def check_sources(image: Path) -> None:
    """Fail where an image was built from other sources than this checkout's."""
    command = [str(find_tools() / "sing"), "singularity", "-q", "exec", str(image), "cat", MANIFEST]
    text = subprocess.run(command, cwd=cluster_folder(), capture_output=True, text=True, check=True)
    if others := compare_sources(read_manifest(text.stdout)):
        pytest.fail(
            f"{image} holds other sources than this checkout ({len(others)}, {others[0]} among "
            "them): build it again, or LP_BIND_CODE=1 lays this checkout's over them"
        )


@functools.cache
def build_image(folder: Path) -> Path:
    """Build Singularity.def, once, as the plain user on the tools' CPU base."""
    kit, image = folder / "kit", folder / "kit.sif"
    shutil.rmtree(folder, ignore_errors=True)
    ignored = shutil.ignore_patterns(".git", ".venv", "data", "results", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, kit, ignore=ignored)
    for name in ("cache", "tmp"):
        (folder / name).mkdir()
    subprocess.run(["chown", "-R", "1000:1000", str(folder)], check=True)
    arguments = [f"BOOTSTRAP=docker-archive BASE_IMAGE={cluster_folder()}/base.tar DEVICE=cpu"]
    options = [f"--build-arg={word}" for word in arguments[0].split()]
    subprocess.run(
        [str(find_tools() / "sing"), "apptainer", "build", "--fakeroot", "--mksquashfs-args",
         "-comp zstd -Xcompression-level 3", *options, str(image), "Singularity.def"],
        cwd=kit, check=True,
        env={**os.environ, "APPTAINER_CACHEDIR": f"{folder}/cache",
             "APPTAINER_TMPDIR": f"{folder}/tmp"},
    )  # fmt: skip
    return image


@pytest.fixture(scope="session")
def software() -> Software:
    """What the ranks run in. Skips, with the reason, where the hosts cannot be made."""
    if os.geteuid() != 0:
        pytest.skip("the virtual hosts need root")
    if not (find_tools() / "vcluster").is_file():
        pytest.skip(f"no tools for virtual hosts in {find_tools()} (LP_CLUSTER_TOOLS)")
    if not (cluster_folder() / "root" / "usr" / "bin" / "apptainer").is_file():
        pytest.skip(f"no root file system of hosts in {cluster_folder()}: run make-root")
    if STATE.exists():
        pytest.skip(f"virtual hosts are up already ({STATE}): take them down first")
    software = find_software()
    if software.image is not None and not BIND_CODE:
        check_sources(software.image)
    return software


@pytest.fixture(scope="session")
def shared_folder(software: Software) -> Iterator[Path]:
    """A folder that all hosts see at its path, with tight/ on a little file system of its own."""
    folder = Path(tempfile.mkdtemp(prefix="test-", dir=cluster_folder()))
    folder.chmod(0o755)
    tight = folder / "tight"
    tight.mkdir()
    size = f"size={SMALL_BYTES},uid=1000,gid=1000"
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(tight)], check=True)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(folder)
        pytest.skip(f"no file systems can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", str(tight)], check=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def shared_kit(
    software: Software,
    shared_folder: Path,
    small_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> SharedKit:
    """The checkout's code and small data where all hosts see them."""
    kit: Kit = make_kit(tmp_path_factory.mktemp("multinode"), small_data)
    return share_kit(kit, shared_folder / "shared", software, BIND_CODE)


@pytest.fixture(scope="session")
def cluster(shared_folder: Path, shared_kit: SharedKit) -> Iterator[Cluster]:
    """Four hosts, taken down at the end."""
    tool = find_tools() / "vcluster"
    cluster = Cluster(tool, shared_folder, cluster_folder(), shared_kit.software)
    try:
        cluster.up()
    except subprocess.SubprocessError as error:
        cluster.down()
        pytest.skip(f"the virtual hosts did not come up here: {error}")
    yield cluster
    cluster.down()
