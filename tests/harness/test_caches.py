"""What is said of the page cache is what was done."""

import os
from pathlib import Path

import pytest

from harness.caches import clear_caches
from harness.commands import InputError


def test_pages_are_dropped_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(os.urandom(4 << 20))
    file.read_bytes()
    record = clear_caches("fadvise", [file])
    assert record["method"] == "fadvise"
    assert (record["files"], record["bytes"]) == (1, 4 << 20)
    if os.statvfs(tmp_path).f_fsid == 0:
        pytest.skip("a file system in memory keeps its pages")
    assert record["resident_bytes"] == 0


def test_pages_held_by_a_reader_are_told(tmp_path: Path) -> None:
    import mmap

    file = tmp_path / "data"
    file.write_bytes(os.urandom(1 << 20))
    with open(file, "rb") as source:
        view = mmap.mmap(source.fileno(), 0, prot=mmap.PROT_READ)
        assert sum(view[:: mmap.PAGESIZE]) >= 0  # touch every page
        record = clear_caches("fadvise", [file])
        assert record["resident_bytes"] == 1 << 20
        view.close()


def test_empty_files_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert clear_caches("fadvise", [tmp_path / "empty"])["resident_bytes"] == 0
    with pytest.raises(FileNotFoundError):
        clear_caches("fadvise", [tmp_path / "missing"])


def test_a_refused_method_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.caches.DROP_CACHES", tmp_path / "no" / "such")
    with pytest.raises(InputError, match="run as root or set cache_clear"):
        clear_caches("drop_caches", [])
