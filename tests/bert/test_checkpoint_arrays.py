"""The reader of .npz files: numpy's own, and those that claim what they have not."""

from __future__ import annotations

import io
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bert import checkpoint_arrays
from bert.checkpoint_arrays import read_tables
from harness.commands import InputError


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("dtype", ["<i2", ">i4", "<u8", "|i1", "<f4", ">f8", "<f2"])
def test_what_numpy_writes_is_read(tmp_path: Path, save: object, dtype: str) -> None:
    assert callable(save)
    table = np.arange(15).reshape(5, 3).astype(dtype)
    save(tmp_path / "a.npz", rows=table, columns=np.asfortranarray(table), one=table[:1, :1])
    tables = read_tables(tmp_path / "a.npz", ["one", "columns", "rows"])
    assert list(tables) == ["one", "columns", "rows"]
    for name, wanted in (("rows", table), ("columns", table), ("one", table[:1, :1])):
        assert tables[name].dtype == np.int64
        np.testing.assert_array_equal(tables[name], wanted)


def write_member(path: Path, content: bytes, **changes: int) -> Path:
    """An archive of one array's bytes, with fields of its entry changed."""
    info = zipfile.ZipInfo("a.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, content, zipfile.ZIP_DEFLATED)
        for name, value in changes.items():
            setattr(archive.filelist[0], name, value)
    return path


def write_array(header: str, content: bytes = b"", version: int = 1) -> bytes:
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode("latin-1") + content


GOOD = "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }   \n"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_of_the_header(tmp_path: Path, version: int) -> None:
    content = np.arange(6, dtype="<i4").tobytes()
    path = write_member(tmp_path / "a.npz", write_array(GOOD, content, version))
    np.testing.assert_array_equal(read_tables(path, ["a"])["a"], np.arange(6).reshape(2, 3))


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (b"", "fewer or more bytes"),
        (b"\x93NUMPY\x09\x00", "does not begin as numpy's do"),
        (b"PK" * 9, "does not begin as numpy's do"),
        (write_array(GOOD, bytes(23)), "an array of 96 bytes does not fit its shape"),
        (write_array(GOOD, bytes(25)), "does not fit its shape"),
        (write_array(GOOD)[:20], "fewer or more bytes"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "header claims 4294967295 bytes"),
        (write_array("(" * 9000), "header is not as numpy writes it"),
        (write_array("__import__('os').abort()"), "header is not as numpy writes it"),
        (write_array(GOOD.replace("'<i4'", "[('a', '<i4')]")), "not as numpy writes"),
        (write_array(GOOD.replace("(2, 3)", "(2,)")), "not a table of numbers"),
        (write_array(GOOD.replace("(2, 3)", "(2, 3, 1)")), "not a table of numbers"),
        (write_array(GOOD.replace("(2, 3)", "(2, 0)")), "not a table of numbers"),
        (write_array(GOOD.replace("<i4", "|O")), "not a table of numbers"),
        (write_array(GOOD.replace("<i4", "<c8")), "not a table of numbers"),
        (write_array(GOOD.replace("<i4", "<f16")), "not a table of numbers"),
        (write_array(GOOD.replace("(2, 3)", "(200000000, 300)")), "larger than the memory"),
        (write_array(GOOD.replace("(2, 3)", f"({'9' * 12}, {'9' * 12})")), "larger than the mem"),
        (write_array(GOOD.replace("(2, 3)", f"({'9' * 5000}, 1)")), "not a table of numbers"),
    ],
)
def test_arrays_that_are_none(tmp_path: Path, array: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_tables(write_member(tmp_path / "a.npz", array), ["a"])


def test_archives_of_another_making(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    whole = io.BytesIO()
    np.save(whole, np.ones((2, 3), np.int32))
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", kind) as archive:
            archive.writestr("a.npy", whole.getvalue())
        with pytest.raises(InputError, match="in a way that numpy never does"):
            read_tables(path, ["a"])
    write_member(path, whole.getvalue(), flag_bits=1)
    with pytest.raises(InputError, match="in a way that numpy never does"):
        read_tables(path, ["a"])
    write_member(path, whole.getvalue(), CRC=1)
    with pytest.raises(InputError, match=r"not a sound \.npz file .Bad CRC-32"):
        read_tables(path, ["a"])
    write_member(path, whole.getvalue(), file_size=1 << 40)
    with pytest.raises(InputError, match="does not fit its shape"):
        read_tables(path, ["a"])


def test_what_an_archive_unfolds_to_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.ones((10, 20), np.int8), b=np.ones((10, 20), np.int8))
    monkeypatch.setattr(checkpoint_arrays, "LARGEST_TABLES_BYTES", 2 * 200 * 8)
    assert read_tables(path, ["a", "b"]).keys() == {"a", "b"}
    monkeypatch.setattr(checkpoint_arrays, "LARGEST_TABLES_BYTES", 2 * 200 * 8 - 1)
    with pytest.raises(InputError, match="b is larger than the memory for it: give fewer"):
        read_tables(path, ["a", "b"])


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf, 1e30, -1e30])
def test_numbers_that_are_not_whole_are_refused_in_one_sentence(
    tmp_path: Path, value: float
) -> None:
    np.savez(tmp_path / "a.npz", a=np.full((2, 2), value))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning would be a second sentence on stderr
        with pytest.raises(InputError, match="a holds numbers that are not whole"):
            read_tables(tmp_path / "a.npz", ["a"])


def test_missing_arrays_and_their_prefix(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{"in/a": np.ones((1, 1)), "in/b": np.ones((1, 2)), "b": np.ones((1, 3))})
    assert read_tables(path, ["a", "b"], "in/")["b"].shape == (1, 2)
    assert read_tables(path, ["b"])["b"].shape == (1, 3)
    with pytest.raises(InputError, match=r"lacks a, c: write it with .*prepare_data export"):
        read_tables(path, ["a", "b", "c"])
    with pytest.raises(FileNotFoundError):
        read_tables(tmp_path / "none.npz", ["a"])
