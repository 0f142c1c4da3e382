"""What is said of the page cache is what was done."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import caches
from harness.caches import check_cleared, clear_caches
from harness.commands import InputError
from tests.conftest import is_in_memory


def test_pages_are_dropped_and_counted(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_bytes(os.urandom(4 << 20))
    file.read_bytes()
    record = clear_caches("fadvise", [file])
    assert record["method"] == "fadvise"
    assert (record["files"], record["bytes"]) == (1, 4 << 20)
    if is_in_memory(tmp_path):
        pytest.skip("a file system in memory keeps its pages")
    assert record["resident_bytes_before"] > 0 and record["resident_bytes"] == 0
    assert record["not_verified"] == [caches.SERVERS]


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


def test_what_only_the_owner_can_tell_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").write_bytes(b"x")
    monkeypatch.setattr(os, "geteuid", lambda: os.stat(tmp_path).st_uid + 1)
    record = clear_caches("fadvise", [tmp_path / "data"])
    assert record["resident_bytes_before"] is None and record["resident_bytes"] is None
    assert record["not_verified"] == [caches.OTHERS_FILES, caches.SERVERS]
    check_cleared(record)


def test_data_that_stays_in_memory_was_not_cleared() -> None:
    record: dict[str, Any] = {"method": "fadvise", "bytes": 1_000_000, "resident_bytes": 10_000}
    check_cleared(record)
    with pytest.raises(InputError, match="10,001 of 1,000,000 bytes of data are still in"):
        check_cleared(record | {"resident_bytes": 10_001})


def test_a_sites_command_is_run_and_recorded(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"x")
    command = [sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", str(tmp_path / "a b")]
    record = clear_caches("site_command", [tmp_path / "data"], command)
    assert (tmp_path / "a b").exists()
    assert record["method"] == "site_command" and "'" in record["command"]
    assert (record["files"], record["bytes"]) == (1, 1)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; print('no\\nright', file=sys.stderr); sys.exit(3)", "status 3: right"),
        ("import sys; sys.exit(1)", "status 1: it said nothing"),
        ("import os; os.kill(os.getpid(), 9)", "status -9"),
    ],
)
def test_a_sites_command_that_fails_stops_the_run(program: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        clear_caches("site_command", [], [sys.executable, "-c", program])
    assert str(caught.value).startswith("cache_clear_command '") and "\n" not in str(caught.value)


def test_a_sites_command_that_cannot_start_or_hangs_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="cannot be started: No such file"):
        clear_caches("site_command", [], ["/no/such/command"])
    monkeypatch.setattr(caches, "COMMAND_LIMIT_SECONDS", 0.2)
    hanging = f"(sleep 120; touch {tmp_path}/woken) & sleep 120"
    with pytest.raises(InputError, match=r"was ended after 0.2 s: it may ask for a password"):
        clear_caches("site_command", [], ["sh", "-c", hanging])
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_method_is_a_defect() -> None:
    with pytest.raises(ValueError, match="no method 'magic'"):
        clear_caches("magic", [])
