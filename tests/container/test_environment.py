"""scripts/environment: a finished .venv needs nothing more, not even a folder to write to."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN_FILES = ("container/requirements.lock", "container/torch.txt")
FILES = (*RUN_FILES, "container/requirements-check.lock")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the script reads; its lock cannot be opened, as in a folder that may not be written."""
    for name in ("scripts/environment", *FILES):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "python3").symlink_to(sys.executable)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv.lock").mkdir()
    return tmp_path


def ask(checkout: Path, want: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(checkout / "scripts/environment"), want],
        env={"PATH": f"{checkout / 'path'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def finish(checkout: Path, want: str, names: tuple[str, ...]) -> None:
    version = f"Python {'.'.join(map(str, sys.version_info[:3]))}\n".encode()
    content = version + b"".join((checkout / name).read_bytes() for name in names)
    stamp = hashlib.sha256(content).hexdigest()
    (checkout / ".venv" / f".ready-{want}").write_text(f"{stamp}\n", encoding="utf-8")


def test_a_finished_environment_is_used_where_nothing_can_be_written(checkout: Path) -> None:
    finish(checkout, "run", RUN_FILES)
    done = ask(checkout, "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{checkout}/.venv/bin/python\n"
    assert ask(checkout, "check").returncode == 2
    finish(checkout, "check", FILES)
    assert ask(checkout, "check").stdout == done.stdout


def test_an_unfinished_one_there_is_one_sentence(checkout: Path) -> None:
    done = ask(checkout, "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1 and "cannot be written to" in done.stderr
    assert (checkout / ".venv").is_dir()


def add_python(checkout: Path, name: str, version: str) -> Path:
    """A Python that tells this version, whatever it is asked."""
    file = checkout / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    file.write_text(f"#!/bin/sh\necho Python {version}\n", encoding="utf-8")
    file.chmod(0o755)
    return file


def test_a_finished_one_is_used_where_another_python_stands_first(checkout: Path) -> None:
    """As on the node of a cluster that has another release than the one that made it."""
    (checkout / ".venv/bin").mkdir()
    (checkout / ".venv/bin/python").symlink_to(sys.executable)
    add_python(checkout, "path/python3", "3.12.99")
    finish(checkout, "run", RUN_FILES)
    done = ask(checkout, "run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{checkout}/.venv/bin/python\n"


def test_a_finished_one_whose_python_is_not_here_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv.lock").rmdir()
    (checkout / ".venv/bin").mkdir()
    (checkout / ".venv/bin/python").symlink_to(checkout / "elsewhere")
    finish(checkout, "run", RUN_FILES)
    done = ask(checkout, "run")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"a Python that is not on this machine ({checkout}/elsewhere)" in done.stderr
    assert len(done.stderr.splitlines()) == 1 and (checkout / ".venv/.ready-run").is_file()
