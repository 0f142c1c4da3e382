"""Struct arrays of MATLAB 5 files: as MATLAB writes them, as scipy does, and damaged ones."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest

from resnet.matlab import read_struct
from tests.resnet.small_archives import make_meta, make_rows

FIELDS = ("ILSVRC2012_ID", "WNID")
NUMBERS = {k: f"n{k:08d}" for k in (1, 2, 255, 256, 1860)}
WANTED = list(NUMBERS.items())


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("order", ["<", ">"])
def test_fields_are_read_as_matlab_writes_them(compress: bool, order: str) -> None:
    """Short elements, one and two-byte numbers, either byte order, other fields passed over."""
    data = make_meta(make_rows(NUMBERS), compress=compress, order=order)
    assert read_struct(data, "synsets", FIELDS) == WANTED
    assert read_struct(data, "synsets", FIELDS[::-1]) == [row[::-1] for row in WANTED]


@pytest.mark.parametrize("compress", [True, False])
def test_fields_are_read_as_scipy_writes_them(compress: bool) -> None:
    """The same struct array with matrices and empty arrays in the fields that nobody wants."""
    from scipy.io import savemat

    names = (*FIELDS, "words", "children", "num_train_images")
    rows = np.zeros((len(NUMBERS), 1), dtype=[(name, object) for name in names])
    for k, (number, name) in enumerate(NUMBERS.items()):
        rows[k, 0] = (float(number), name, "ein Wort, ü", np.zeros((0, 1)), np.arange(5.0))
    file = io.BytesIO()
    savemat(file, {"a": "b", "synsets": rows}, do_compression=compress)
    assert read_struct(file.getvalue(), "synsets", FIELDS) == WANTED


def refuse(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_struct(data, "synsets", FIELDS)


def test_what_is_not_there_is_said() -> None:
    rows = make_rows(NUMBERS)
    refuse(b"", "not a MATLAB 5 file")
    refuse(b"\x89HDF\r\n\x1a\n" + bytes(500), "not a MATLAB 5 file")
    refuse(make_meta(rows, name="others"), "no variable 'synsets'")
    fields = ("ILSVRC2012_ID", "ID", "words", "gloss", "num_children", "children")
    refuse(make_meta(rows, fields), "no field 'WNID'")
    refuse(make_meta(rows, ("ILSVRC2012_ID", "a", "b", "c", "WNID", "d"))[:-9], "cut off")


def test_a_small_file_that_unpacks_to_gigabytes_is_refused() -> None:
    """128 MiB of zeros in 130 kB: stopped at the limit, not in the swap."""
    packed = zlib.compress(bytes(1 << 27))
    data = make_meta([])[:128] + struct.pack("<II", 15, len(packed)) + packed
    refuse(data, "more than 64 MiB")


def test_counts_that_lie_are_refused() -> None:
    """A struct array that says a million elements, or more than memory holds, and has five."""
    data = make_meta(make_rows(NUMBERS), compress=False)
    place = data.index(struct.pack("<ii", len(NUMBERS), 1))
    for count in (6, 1 << 20, (1 << 31) - 1):
        refuse(data[:place] + struct.pack("<i", count) + data[place + 4 :], "cut off|more than")
    refuse(data[:place] + struct.pack("<i", -1) + data[place + 4 :], "damaged")


def test_no_damage_ends_in_anything_but_a_sentence() -> None:
    """Thousands of files with changed bytes or cut off: ValueError or values, nothing else."""
    whole, generator = make_meta(make_rows(NUMBERS), compress=False), np.random.default_rng(1)
    refused = 0
    for _ in range(3000):
        data = bytearray(whole)
        for place in generator.integers(128, len(data), generator.integers(1, 4)):
            data[place] = generator.choice((0, 1, 4, 128, 255, generator.integers(256)))
        if generator.random() < 0.2:
            del data[generator.integers(len(data)) :]
        try:
            read_struct(bytes(data), "synsets", FIELDS)
        except ValueError:
            refused += 1
    assert refused > 300
