"""Where machine code is kept: beside the sources, else in a folder of this user alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from numba.core.errors import TypingError

from bert import compilation
from bert.compilation import (
    CACHE_FOLDER,
    choose_cache_folder,
    count_trailing_zeros,
    hash_sources,
)
from bert.documents import Documents
from bert.example_maker import create_examples
from bert.examples import ExampleSettings
from bert.permutation import invert
from harness.commands import InputError
from harness.private_folders import find_host_user
from tests.bert.sample_vocabulary import SPECIAL, make_vocabulary

ROOT = Path(__file__).resolve().parents[2]
NAME = f"loops-{hash_sources()}"


def test_beside_the_sources_where_they_can_be_written(tmp_path: Path) -> None:
    chosen = choose_cache_folder("", tmp_path / "package", tmp_path / "temporary")
    assert chosen == tmp_path / "package" / "__pycache__" / NAME and chosen.is_dir()
    assert not (tmp_path / "temporary").exists()


def test_in_a_private_folder_where_the_sources_are_read_only(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.write_text("")  # no folder can be made in it, not even by root
    chosen = choose_cache_folder("", package, tmp_path)
    private = tmp_path / f"lp-mlperf-kit-{find_host_user(os.getuid())}"
    assert chosen == private / NAME and chosen.is_dir()
    assert private.stat().st_mode & 0o777 == 0o700
    assert choose_cache_folder("", package, tmp_path) == chosen


def test_where_the_user_wants_it(tmp_path: Path) -> None:
    chosen = choose_cache_folder(str(tmp_path / "given"), tmp_path / "package", tmp_path)
    assert chosen == tmp_path / "given" / NAME
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"NUMBA_CACHE_DIR=.*file cannot be written to"):
        choose_cache_folder(str(tmp_path / "file"), tmp_path / "package", tmp_path)


def test_a_change_in_any_loop_is_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (ROOT / "bert").glob("*.py"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(compilation, "PACKAGE", tmp_path)
    monkeypatch.setattr(compilation, "__file__", str(tmp_path / "compilation.py"))
    assert f"loops-{hash_sources()}" == CACHE_FOLDER.name
    with (tmp_path / "train.py").open("a") as file:
        file.write("# no loop\n")
    assert f"loops-{hash_sources()}" == CACHE_FOLDER.name
    for name in ("twister.py", "word_pieces.py", "example_loops.py"):
        before = hash_sources()
        with (tmp_path / name).open("a") as file:
            file.write("# changed\n")
        assert hash_sources() != before


def test_the_hot_loops_count_no_references() -> None:
    documents = Documents(np.array([5], np.int32), np.array([0, 1]), np.array([0, 1]))
    create_examples(documents, make_vocabulary([*SPECIAL, "a"]), ExampleSettings(dupe_factor=1))
    invert(np.zeros(1, np.uint32))
    for name, counts in (("example_loops.make_examples", False), ("permutation.invert", True)):
        kept = list(CACHE_FOLDER.rglob(f"{name}*.nbc"))
        assert kept and all((b"NRT_" in path.read_bytes()) == counts for path in kept)


def test_a_loop_that_makes_an_array_must_say_so() -> None:
    def make(count: Any) -> Any:
        return np.empty(count)

    with pytest.raises(TypingError, match="array passed into the function"):
        compilation.compiled(make)(3)


@numba.njit
def count_zeros(number: Any) -> Any:
    return count_trailing_zeros(number)


@pytest.mark.parametrize("zeros", range(64))
def test_trailing_zeros_are_counted(zeros: int) -> None:
    for number in (1 << zeros, (1 << 64) - (1 << zeros)):
        assert count_zeros(np.uint64(number)) == zeros


def test_numba_is_imported_by_nobody_else() -> None:
    modules = "bert.train, bert.data, bert.shards, bert.prepare_data, bert.checkpoint"
    code = f"import sys, {modules}; sys.exit('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == 0
