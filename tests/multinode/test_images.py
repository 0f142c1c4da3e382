"""Both recipes, built on one base: the same packages, the same files, a self-test that passes.

Takes many minutes: LP_BUILD_IMAGE=1 asks for it, on a machine with buildah and the cluster tools.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.multinode.conftest import MANIFEST, build_image, cluster_folder, find_tools

SELF_TEST = "/opt/lp-mlperf-kit/container/selftest.sh"
BASE = "localhost/cpu-base:bookworm"
TAG = "localhost/lp-mlperf-kit:test"

pytestmark = pytest.mark.multinode


def run(*command: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True)  # noqa: PLW1510
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
    return done.stdout


ENVIRONMENT = {
    **os.environ,
    "CONTAINERS_STORAGE_CONF": str(cluster_folder() / "storage.conf"),
    "STORAGE_DRIVER": "overlay",
    "BUILDAH_ISOLATION": "chroot",
}


@pytest.fixture(scope="module")
def container() -> Iterator[str]:
    """A container of the image that Dockerfile makes."""
    if os.environ.get("LP_BUILD_IMAGE") != "1":
        pytest.skip("building two images takes many minutes: LP_BUILD_IMAGE=1 asks for it")
    if os.geteuid() != 0 or shutil.which("buildah") is None:
        pytest.skip("buildah, as root, builds Dockerfile here; one of the two is missing")
    if not (cluster_folder() / "base.tar").is_file():
        pytest.skip(f"no base image in {cluster_folder()}: run make-base")
    arguments = ("--build-arg", f"BASE_IMAGE={BASE}", "--build-arg", "DEVICE=cpu")
    run("buildah", "bud", "--layers", "--timestamp", "0", *arguments, "-t", TAG, ".")
    name = run("buildah", "from", TAG).strip()
    yield name
    run("buildah", "rm", name)


def read_manifest(text: str) -> dict[str, Any]:
    manifest = json.loads(text)
    assert isinstance(manifest, dict)
    manifest.pop("base_image")  # one name for each of the two forms of the same base
    return manifest


def test_both_recipes_make_the_same_image(container: str) -> None:
    docker = read_manifest(run("buildah", "run", container, "--", "cat", MANIFEST))
    image = build_image(cluster_folder() / "test-image")  # runs the self-test in its %test
    sing = str(find_tools() / "sing")
    command = (sing, "singularity", "-q", "exec", str(image), "cat", MANIFEST)
    singularity = read_manifest(run(*command, cwd=cluster_folder()))
    assert docker == singularity
    assert docker["files"] and "torch" in docker["packages"]


def test_the_docker_image_passes_its_self_test_as_a_plain_user(container: str) -> None:
    assert run("buildah", "run", container, "--", "id", "-u").strip() == "1000"
    said = run("buildah", "run", container, "--", "bash", SELF_TEST)
    assert said.endswith("self-test: both benchmarks reached their targets on four ranks\n")
