"""Atomic files: the old content or the new one, never a part, and no temporary left behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.files import write_atomically


def test_text_and_bytes_are_written(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "text") as file:
        file.write("a\nµ\n")
    with write_atomically(str(tmp_path / "bytes"), "wb") as file:
        file.write(b"\x00\r\n")
    assert (tmp_path / "text").read_bytes() == "a\nµ\n".encode()
    assert (tmp_path / "bytes").read_bytes() == b"\x00\r\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytes", "text"]


def test_the_name_is_taken_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with write_atomically(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
        (temporary,) = (other for other in tmp_path.iterdir() if other != path)
        assert temporary.name.startswith(".")
    assert path.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_an_error_keeps_the_old_file_and_leaves_no_temporary(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error), write_atomically(path) as file:
        file.write("half")
        raise error("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_to_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space"), write_atomically(path) as file:
        file.write("new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "file"
    with pytest.raises(FileNotFoundError) as caught, write_atomically(path):
        pass
    assert caught.value.filename == str(path)
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "below"
    with pytest.raises(NotADirectoryError) as caught_below, write_atomically(path):
        pass
    assert caught_below.value.filename == str(path)
    (tmp_path / "file").unlink()
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(IsADirectoryError) as replaced, write_atomically(folder) as file:
        file.write("x")
    assert replaced.value.filename == str(folder)
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", ["", "."])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(IsADirectoryError), write_atomically(name):
        pass


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(FileExistsError, match="no regular file"), write_atomically(pipe) as file:
        file.write("x")
    assert pipe.is_fifo()
    assert list(tmp_path.iterdir()) == [pipe]


def test_an_error_about_another_file_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "other"
    with pytest.raises(FileNotFoundError) as caught, write_atomically(tmp_path / "file"):
        other.read_text()
    assert caught.value.filename == str(other)
