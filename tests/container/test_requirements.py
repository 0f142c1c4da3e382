"""What an image adds to its base: the locked packages that the base lacks, with their hashes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from container.requirements import lacks, list_installed, normalize, split_lock

ROOT = Path(__file__).resolve().parents[2]
LOCK = """a-package==1.0 ; python_full_version < '3.11' \\
    --hash=sha256:aa
    # via b
a-package==2.0 ; python_full_version >= '3.11' \\
    --hash=sha256:bb
NumPy==9.9 \\
    --hash=sha256:cc \\
    --hash=sha256:dd
"""


def test_a_lock_is_split_at_its_requirements() -> None:
    blocks = split_lock(LOCK)
    assert [name for name, _ in blocks] == ["a-package", "a-package", "numpy"]
    assert "\n".join(block for _, block in blocks) + "\n" == LOCK


def test_names_are_compared_as_pypi_does() -> None:
    assert normalize("A__b.-C") == "a-b-c"


def test_only_what_is_lacking_is_printed(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(LOCK)
    program = ROOT / "container" / "requirements.py"
    done = subprocess.run(
        [sys.executable, str(program), str(lock)], capture_output=True, text=True, check=True
    )
    assert "numpy" in list_installed()
    assert done.stdout == LOCK[: LOCK.index("NumPy")]


def test_the_kits_own_lock_is_whole() -> None:
    text = (ROOT / "container" / "requirements.lock").read_text()
    blocks = split_lock(text)
    assert "\n".join(block for _, block in blocks) + "\n" == text
    assert all("--hash=sha256:" in block for _, block in blocks)
    assert "torch" not in [name for name, _ in blocks]


def test_dali_and_its_libraries_are_those_of_the_lock() -> None:
    """Whatever the base has; all else serves at the base's version."""
    blocks = dict(split_lock((ROOT / "container" / "requirements.lock").read_text()))
    own = sorted(name for name in blocks if name.startswith("nvidia-"))
    assert "nvidia-dali-cuda130" in own and "nvidia-nvimgcodec-cu13" in own and len(own) == 6
    locked = {name: blocks[name].split("==")[1].split()[0] for name in blocks}
    assert not any(lacks(name, blocks[name], locked) for name in blocks)
    older = dict.fromkeys(blocks, "0.1")
    assert sorted(name for name in blocks if lacks(name, blocks[name], older)) == own
