"""Dockerfile and Singularity.def: one base, the same files, steps and environment."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.container.recipes import KIT, read_definition, read_dockerfile, read_ignored

ROOT = Path(__file__).resolve().parents[2]
DOCKER = read_dockerfile(ROOT / "Dockerfile")
SINGULARITY = read_definition(ROOT / "Singularity.def")
FOLDERS = read_ignored(ROOT / ".dockerignore")


def fill(text: str) -> str:
    """Write a template's or a variable's name in one way."""
    return re.sub(r"\{\{ (\w+) \}\}|\$\{(\w+)\}|\$(\w+)", r"<\1\2\3>", text)


def test_one_base_and_the_same_arguments() -> None:
    arguments = dict(SINGULARITY["arguments"])
    assert arguments.pop("BOOTSTRAP") == "docker"
    assert arguments == DOCKER["arguments"]
    assert DOCKER["from"] == ["${BASE_IMAGE}"]
    assert SINGULARITY["header"] == {"Bootstrap": "{{ BOOTSTRAP }}", "From": "{{ BASE_IMAGE }}"}


def test_the_same_files() -> None:
    assert [source for source, _ in SINGULARITY["files"]] == FOLDERS
    assert all(place == f"{KIT}/{source}" for source, place in SINGULARITY["files"])
    assert DOCKER["copies"] == [f"container {KIT}/container", f". {KIT}"]


def test_all_that_is_kept_of_the_kit_is_in_the_image_but_tests() -> None:
    done = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    tops = {line.split("/")[0] for line in done.stdout.splitlines()}
    recipes = {"Dockerfile", "Singularity.def", ".dockerignore", ".gitignore", ".ci", "tests"}
    assert tops - recipes == set(FOLDERS)


def test_the_same_steps_and_environment() -> None:
    assert DOCKER["steps"] == SINGULARITY["steps"] == ["packages", "finish"]
    docker = {key: fill(value) for key, value in DOCKER["environment"].items()}
    assert docker == {key: fill(value) for key, value in SINGULARITY["environment"].items()}
    assert docker["PATH"].startswith("/opt/lp-mlperf-environment/bin:")
    # Before the base's own: its torch may be linked to an MPI that mpi4py would then be given.
    assert docker["LD_LIBRARY_PATH"].startswith("/opt/lp-mlperf-environment/lib$")
    assert docker["PYTHONNOUSERSITE"] == docker["PYTHONDONTWRITEBYTECODE"] == "1"
    # Without "video" nvJPEG finds no hardware decoder, and says nothing.
    assert set(docker["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility", "video"}


def test_every_argument_reaches_the_install_step() -> None:
    passed = set(DOCKER["arguments"]) - {"REVISION"}
    dockerfile = (ROOT / "Dockerfile").read_text()
    (run,) = re.findall(r"^RUN (.*?)install\.sh packages$", dockerfile, re.M | re.S)
    assert set(re.findall(r'(\w+)="\$\{\1\}"', run)) == passed
    definition = (ROOT / "Singularity.def").read_text()
    assert set(re.findall(r'(\w+)="\{\{ \1 \}\}"', definition)) == passed


def test_the_same_labels() -> None:
    docker = {key: fill(value) for key, value in DOCKER["labels"].items()}
    assert docker == {key: fill(value) for key, value in SINGULARITY["labels"].items()}
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version and docker["org.opencontainers.image.version"] == version.group(1)


def test_both_test_themselves_as_a_numeric_user() -> None:
    command = ["bash", f"{KIT}/container/selftest.sh"]
    assert DOCKER["command"] == [command] and SINGULARITY["test"] == [" ".join(command)]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", DOCKER["user"][-1])


def test_nothing_goes_where_a_build_or_a_run_hides_it() -> None:
    hidden = tuple(f"/{name}/" for name in ("tmp", "var/tmp", "home", "root"))
    assert not [place for _, place in SINGULARITY["files"] if place.startswith(hidden)]


@pytest.mark.parametrize(
    ("arguments", "device", "words"),
    [
        ([], "cpu", "usage: install.sh packages|finish"),
        (["all"], "cpu", "usage: install.sh packages|finish"),
        (["packages"], "gpu", "DEVICE must be cpu or cuda, not 'gpu'"),
    ],
)
def test_a_wrong_call_is_one_sentence(arguments: list[str], device: str, words: str) -> None:
    done = subprocess.run(
        ["bash", str(ROOT / "container" / "install.sh"), *arguments],
        env={**os.environ, "DEVICE": device},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, f"error: {words}\n")
