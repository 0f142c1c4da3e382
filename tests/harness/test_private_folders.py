"""Where compilers keep what a run makes them compile: in a folder of this user alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.commands import InputError
from harness.private_folders import (
    CACHES,
    choose_cache_folders,
    find_host_user,
    find_private_folder,
)

ROOT = Path(__file__).resolve().parents[2]
FOLDER = f"lp-mlperf-kit-{find_host_user(os.getuid())}"
PROGRAM = """
import os
from harness.trainer import run_trainer
from harness.private_folders import CACHES

def main(arguments):
    import torch, triton
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    assert triton.knobs.cache.dir == os.environ["TRITON_CACHE_DIR"], triton.knobs.cache.dir
    assert cache_dir() == os.environ["TORCHINDUCTOR_CACHE_DIR"], cache_dir()
    print(*(os.environ[name] for name in CACHES))
    return 0

run_trainer(main)
"""


def test_every_cache_is_below_a_folder_of_this_user(tmp_path: Path) -> None:
    chosen = choose_cache_folders({"HF_HOME": "/given", "MPLCONFIGDIR": ""}, tmp_path)
    private = tmp_path / FOLDER
    assert private.stat().st_mode & 0o777 == 0o700
    assert chosen.keys() == CACHES.keys() - {"HF_HOME"}
    assert {Path(folder).parent for folder in chosen.values()} == {private}
    assert len(set(chosen.values())) == len(chosen)
    assert choose_cache_folders({}, tmp_path)["TRITON_CACHE_DIR"] == chosen["TRITON_CACHE_DIR"]


def test_where_all_are_given_nothing_is_made(tmp_path: Path) -> None:
    assert choose_cache_folders(dict.fromkeys(CACHES, "/given"), tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


def test_a_rank_has_them_before_anything_compiles(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    given = {k: v for k, v in os.environ.items() if k not in CACHES}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**given, "TMPDIR": str(tmp_path), "CUDA_CACHE_PATH": "/given"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    private = tmp_path / FOLDER
    places = dict(zip(CACHES, done.stdout.split(), strict=True))
    assert places.pop("CUDA_CACHE_PATH") == "/given"
    assert all(Path(place).parent == private for place in places.values())


def test_the_user_is_the_hosts_where_an_image_is_built_as_root(tmp_path: Path) -> None:
    mapping = tmp_path / "uid_map"
    mapping.write_text("         0       1000          1\n         1     100000      65536\n")
    assert [find_host_user(user, mapping) for user in (0, 1, 5, 70000)] == [
        1000,
        100000,
        100004,
        70000,
    ]
    assert find_host_user(7, tmp_path / "none") == 7


@pytest.mark.parametrize("kind", ["open to others", "a link", "a file"])
def test_a_folder_that_others_may_fill_is_refused(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / FOLDER
    if kind == "open to others":
        folder.mkdir()
        folder.chmod(0o770)
    elif kind == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.write_text("")
    with pytest.raises(InputError, match="is not a folder that this user alone may use"):
        find_private_folder(tmp_path, "take another")
    with pytest.raises(InputError, match="remove it, or name another temporary folder in TMPDIR"):
        choose_cache_folders({}, tmp_path)
