"""The apex of a cuda image: the base's where it serves, else the pinned commit and nothing else.

A small git repository stands in for apex's, a fake torch and nvcc for the base's; git, setuptools
and pip are real. Nothing is compiled: the stand-in's build_ext writes each extension as Python.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SETUP = """
import os, sys
from pathlib import Path
import torch
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

class Build(build_ext):
    def run(self):
        for extension in self.extensions:
            print("compiling", extension.name, "for", os.environ["TORCH_CUDA_ARCH_LIST"])
            signature = f"run(arg0: {torch.tensor}, arg1: int) -> None"
            text = f"def run(): pass\\nrun.__doc__ = '{signature}'\\n"
            Path(self.build_lib, extension.name + ".py").write_text(text)

    def get_outputs(self):
        return []

if os.environ.get("BREAK"):
    sys.exit("nvcc fell over")
names = ["left", "right", "surplus"] if os.environ.get("APEX_PAIR") == "1" else []
setup(
    name="apex", version="0.1", packages=["apex", "apex.contrib", "apex.optimizers"],
    ext_modules=[Extension(name, []) for name in names], cmdclass={"build_ext": Build},
)
"""
PIN = """
repository = "{repository}"
commit = "{commit}"
[extensions.left]
variable = "APEX_PAIR"
functions = {{ run = 2 }}
[extensions.right]
variable = "APEX_PAIR"
functions = {{ run = {count} }}
"""

NVCC = """#!/bin/sh
echo "Cuda compilation tools, release 13.0, V13.0.88"
"""
COMPILER = """#!/bin/sh
# finds a header in the folder after -I, or not
while [ "$1" != -I ]; do shift; done
test -f "$2/$(sed 's/.*<//; s/>.*//')"
"""


def git(folder: Path, *arguments: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *names, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_apex(folder: Path) -> Path:
    """Write a package that has the outline of NVIDIA's apex."""
    for part in ("apex", "apex/contrib", "apex/optimizers"):
        (folder / part).mkdir(parents=True)
        (folder / part / "__init__.py").write_text("")
    return folder / "apex"


@dataclass
class Base:
    """A base image: its folder of packages, an environment that sees it, and the copied kit."""

    folder: Path
    packages: Path
    environment: Path
    container: Path
    repository: Path
    variables: dict[str, str]

    def pin(self, commit: str | None = None, repository: str = "/nowhere", count: int = 2) -> None:
        commit = commit or git(self.repository, "rev-parse", "HEAD~1")
        text = PIN.format(repository=repository, commit=commit, count=count)
        (self.container / "apex.toml").write_text(text)

    def run(self, step: str, **variables: str) -> subprocess.CompletedProcess[str]:
        program = str(self.container / "build_apex.py")
        return subprocess.run(
            [str(self.environment / "bin" / "python"), program, step, str(self.environment)],
            env={**self.variables, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def list_installed(self) -> set[str]:
        (site,) = self.environment.glob("lib/python*/site-packages")
        return {path.name for path in site.iterdir()} - {"base.pth", "__pycache__"}

    def read_record(self) -> dict[str, object]:
        record = json.loads((self.environment / "manifest" / "apex.json").read_text())
        assert isinstance(record, dict)
        return record

    def refuses(self, step: str, words: str, **variables: str) -> None:
        """The step says one sentence, and leaves nothing behind."""
        done = self.run(step, **variables)
        assert done.returncode == 2, done.stdout + done.stderr
        (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert words in sentence
        assert self.list_installed() == set()
        assert not (self.environment / "manifest").exists()
        assert list((self.folder / "tmp").iterdir()) == []


@pytest.fixture
def base(tmp_path: Path) -> Base:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    container, packages, environment = (tmp_path / n for n in ("kit/container", "base", "env"))
    container.mkdir(parents=True)
    for name in ("build_apex.py", "find_apex.py", "apex_setup.py"):
        shutil.copy(ROOT / "container" / name, container)
    (packages / "torch" / "utils").mkdir(parents=True)
    (packages / "torch" / "__init__.py").write_text(
        "from . import version\n__version__, tensor = '2.9', 'Tensor'\n"
    )
    (packages / "torch" / "version.py").write_text(
        "import os\ncuda = os.environ['TORCH_CUDA'] or None\n"
    )
    (packages / "torch" / "utils" / "cpp_extension.py").write_text(
        "import os\nCUDA_HOME = os.environ['CUDA_HOME'] or None\n"
    )
    (tmp_path / "cuda" / "include").mkdir(parents=True)
    (tmp_path / "cuda" / "bin").mkdir()
    for tool, said in (("bin/nvcc", NVCC), ("c++", COMPILER)):
        (tmp_path / "cuda" / tool).write_text(said)
        (tmp_path / "cuda" / tool).chmod(0o755)
    for header in ("cuda_runtime.h", "cusparse.h", "cudnn.h"):
        (tmp_path / "cuda" / "include" / header).write_text("")
    # As in an image: the environment's own packages first, then the base's.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    seen = [str(packages), *(path for path in sys.path if path.endswith("site-packages"))]
    (site / "base.pth").write_text("\n".join(seen) + "\n")
    repository = tmp_path / "apex.git"
    make_apex(repository)
    (repository / "setup.py").write_text(SETUP)
    git(repository, "init", "--quiet")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "the pinned one")
    (repository / "setup.py").write_text("raise SystemExit('a later commit')\n")
    git(repository, "commit", "--quiet", "-am", "a later one")
    (tmp_path / "tmp").mkdir()
    variables = {
        "PATH": f"{tmp_path / 'cuda'}:{os.environ['PATH']}",
        "CUDA_HOME": str(tmp_path / "cuda"),
        "TORCH_CUDA": "13.0",
        "TMPDIR": str(tmp_path / "tmp"),
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "APEX_SOURCE": str(repository),
    }
    made = Base(tmp_path, packages, environment, container, repository, variables)
    made.pin()
    return made


def test_what_the_base_lacks_is_built_and_no_more(base: Base) -> None:
    found = base.run("find")
    assert found.returncode == 1, found.stderr
    assert found.stdout == "the base image's apex does not serve: apex is not installed\n"
    commit = git(base.repository, "rev-parse", "HEAD~1")
    if os.geteuid() == 0:  # what is bound into a build mostly belongs to another user
        subprocess.run(["chown", "-R", "1000:1000", str(base.repository)], check=True)
    done = base.run("build", APEX_ARCHITECTURES="9.0 10.0a", APEX_SURPLUS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    version = f"0.1+{commit[:12]}"
    assert f"apex: commit {commit} from {base.repository}" in done.stdout
    assert "compiling left for 9.0 10.0a\ncompiling right for 9.0 10.0a\n" in done.stdout
    assert f"apex {version} is in {base.environment}" in done.stdout
    assert base.list_installed() == {"apex", f"apex-{version}.dist-info", "left.py", "right.py"}
    record = base.read_record()
    assert record == {
        "origin": "built",
        "version": version,
        "extensions": ["left", "right"],
        "repository": "/nowhere",
        "commit": commit,
        "architectures": "9.0 10.0a",
        "torch": "2.9",
        "nvcc": "13.0",
    }
    assert list((base.folder / "tmp").iterdir()) == []


def test_the_bases_own_is_left_as_it_is_where_it_serves(base: Base) -> None:
    make_apex(base.packages)
    for name in ("left", "right"):
        text = "def run(): pass\nrun.__doc__ = 'run(arg0: Tensor, arg1: int) -> None'\n"
        (base.packages / f"{name}.py").write_text(text)
    done = base.run("find")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "apex unknown of the base image serves, with left, right\n"
    record = base.read_record()
    names = ["left", "right"]
    assert record == {"origin": "base image", "version": "unknown", "extensions": names}
    assert base.list_installed() == set()


def test_one_that_serves_in_part_is_hidden_and_that_is_said(base: Base) -> None:
    folder = make_apex(base.packages)
    (base.packages / "left.py").write_text("def run(): 'run(arg0: int) -> None'\n")
    found = base.run("find")
    assert found.returncode == 1
    assert "left.run takes 1 arguments, 2 are given; right cannot be imported" in found.stdout
    assert f"one built into {base.environment} will hide that in {folder}" in found.stdout
    base.pin(repository=f"file://{base.repository}")
    done = base.run("build", APEX_SOURCE="pinned")
    assert done.returncode == 0, done.stdout + done.stderr
    assert base.read_record()["origin"] == "built"
    again = base.run("find")
    assert again.returncode == 0 and again.stdout.endswith(f"is in {base.environment} already\n")
    assert base.read_record()["origin"] == "built" and folder.is_dir()


def test_pypis_package_of_the_same_name_is_refused(base: Base) -> None:
    (base.packages / "apex").mkdir()
    (base.packages / "apex" / "__init__.py").write_text("raise ImportError('pyramid')\n")
    base.refuses("find", "is not NVIDIA's, but most likely PyPI's of the same name")


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        ("needs git, which the base image lacks", {"PATH": ""}),
        (
            "needs nvcc, which the base image lacks: install the CUDA toolkit 13.0",
            {"CUDA_HOME": ""},
        ),
        ("is of CUDA 13.0, torch 2.9 of CUDA 12.8, but apex must be", {"TORCH_CUDA": "12.8"}),
        ("torch 2.9 is built without CUDA", {"TORCH_CUDA": ""}),
        ("there is no nothing-like-g++: install g++ in", {"CXX": "nothing-like-g++ -m64"}),
        ("APEX_ARCHITECTURES must be like '8.0 9.0 10.0'", {"APEX_ARCHITECTURES": "sm_90"}),
        ("MAX_JOBS must be auto or a whole number, not '0'", {"MAX_JOBS": "0"}),
        ("was not built (the reason stands above); nothing is installed", {"BREAK": "1"}),
        ("cannot be had from", {"APEX_SOURCE": "/"}),
        ("name a git repository that holds it in APEX_SOURCE", {"APEX_SOURCE": "pinned"}),
    ],
)
def test_what_hinders_is_one_sentence(base: Base, words: str, variables: dict[str, str]) -> None:
    base.refuses("build", words, **variables)


@pytest.mark.parametrize("header", ["cusparse.h", "cudnn.h"])
def test_a_header_that_is_not_there_is_named(base: Base, header: str) -> None:
    (base.folder / "cuda" / "include" / header).unlink()
    base.refuses("build", f"needs {header}, which c++ does not find")


def test_a_commit_that_is_not_there_is_named(base: Base) -> None:
    base.pin("0123456789abcdef0123456789abcdef01234567")
    base.refuses("build", "commit 0123456789abcdef0123456789abcdef01234567 cannot be had from")


def test_what_was_built_is_removed_where_it_does_not_serve(base: Base) -> None:
    base.pin(count=3)
    base.refuses("build", "is removed: right.run takes 2 arguments, 3 are given")


def test_what_hides_the_built_one_is_named(base: Base) -> None:
    make_apex(base.folder / "mine")
    place = str(base.folder / "mine")
    base.refuses("build", f"{place}/apex hides it: PYTHONPATH must not", PYTHONPATH=place)


STUB = """#!/bin/sh
# the environment's python: tells what it was asked for, with the status that the test wants
case $2 in
find | build) echo "$2 $3 ninja:$(command -v ninja)"; eval exit \\$STATUS_$2 ;;
*) echo 2.9 ;;
esac
"""
PYTHON = """#!/bin/sh
case "$1 $2" in
"-m venv") for last; do :; done; mkdir -p "$last/bin"
    cp {folder}/stub "$last/bin/python"; cp {folder}/stub "$last/bin/ninja" ;;
"-c import torch"*) echo 2.9 ;;
esac
"""


@pytest.mark.parametrize(
    ("device", "find", "build", "calls", "status"),
    [
        ("cuda", 0, 0, ["find"], 0),
        ("cuda", 1, 0, ["find", "build"], 0),
        ("cuda", 1, 2, ["find", "build"], 2),
        ("cuda", 2, 0, ["find"], 2),
        ("cpu", 1, 0, [], 0),
    ],
)
def test_install_builds_apex_where_the_base_lacks_it(
    tmp_path: Path, device: str, find: int, build: int, calls: list[str], status: int
) -> None:
    text = (ROOT / "container" / "install.sh").read_text()
    for name in ("kit", "environment"):
        text = text.replace(f"={'/opt/lp-mlperf-'}{name}", f"={tmp_path / name}")
    assert "/opt/" not in text
    files = {"install.sh": text, "stub": STUB, "python3": PYTHON.format(folder=tmp_path)}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "tmp").mkdir()
    done = subprocess.run(
        ["bash", str(tmp_path / "install.sh"), "packages"],
        env={
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "TMPDIR": str(tmp_path / "tmp"),
            "DEVICE": device,
            "BASE_IMAGE": "base",
            "STATUS_find": str(find),
            "STATUS_build": str(build),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, "")
    said = [line.split() for line in done.stdout.splitlines()]
    assert [words[0] for words in said] == calls
    assert all(words[1] == str(tmp_path / "environment") for words in said)
    if "build" in calls:  # with the tools that are not kept, and these are gone
        assert said[-1][2].startswith(f"ninja:{tmp_path}/tmp/")
        assert list((tmp_path / "tmp").iterdir()) == []
