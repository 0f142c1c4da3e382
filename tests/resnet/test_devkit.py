"""The truth of the validation images: the devkit's numbers become WordNet ids."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from harness.commands import InputError
from resnet.devkit import Truth, read_devkit, read_labels
from tests.conftest import unpack_tar
from tests.resnet.small_archives import (
    FIELDS,
    GROUND_TRUTH,
    NUMBERS,
    make_devkit,
    make_meta,
    make_rows,
    make_tar,
)

TRUTH = "".join(f"{number}\n" for number in GROUND_TRUTH).encode()
META = make_meta(make_rows(NUMBERS))
WANTED = tuple(NUMBERS[number] for number in GROUND_TRUTH)


def write_devkit(folder: Path, meta: bytes = META, truth: bytes = TRUTH) -> Path:
    path = folder / "devkit.tar.gz"
    path.write_bytes(make_devkit(meta, truth))
    return path


def test_numbers_become_wordnet_ids(tmp_path: Path) -> None:
    """From the archive and from the extracted folder; a number is never its own label."""
    path = write_devkit(tmp_path)
    assert read_devkit(path) == Truth(path, WANTED)
    unpack_tar(path, tmp_path)
    folder = tmp_path / "ILSVRC2012_devkit_t12"
    assert read_devkit(folder) == Truth(folder, WANTED)
    assert WANTED[0] == "n02110341" and sorted(NUMBERS.values()).index(WANTED[0]) != GROUND_TRUTH[0]


def test_line_ends_and_a_missing_last_one_do_not_matter(tmp_path: Path) -> None:
    path = write_devkit(tmp_path, truth=TRUTH.strip().replace(b"\n", b"\r\n"))
    assert read_devkit(path).wordnet_ids == WANTED


def refuse(path: Path, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        read_devkit(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_wrong_devkit_is_one_sentence(tmp_path: Path) -> None:
    """Numbers without a class, rows that are something else, missing, doubled and cut files."""
    refuse(tmp_path / "none", "no such file or folder")
    refuse(tmp_path, r"holds no data/meta\.mat")
    refuse(write_devkit(tmp_path, truth=b"3\n5\n"), "line 2: '5' is no class number")
    refuse(write_devkit(tmp_path, truth=b"3\n-1\n"), "line 2: '-1' is no class number")
    refuse(write_devkit(tmp_path, truth=b"3\n\n1\n"), "line 2: '' is no class number")
    refuse(write_devkit(tmp_path, truth=b"\n"), "is empty")
    refuse(write_devkit(tmp_path, truth=b"\xff"), "not a plain text")
    refuse(write_devkit(tmp_path, META[:-3]), r"meta\.mat: .*cut off")
    swapped = [(name, number, *rest) for number, name, *rest in make_rows(NUMBERS)]
    refuse(write_devkit(tmp_path, make_meta(swapped, FIELDS)), r"synsets\(1\) holds 'n01440764'")
    twice = [*make_rows(NUMBERS), *make_rows({9: "n01440764"})]
    refuse(write_devkit(tmp_path, make_meta(twice)), r"synsets\(5\) comes twice \(n01440764\)")


def test_a_wrong_archive_is_one_sentence(tmp_path: Path) -> None:
    path = write_devkit(tmp_path)
    whole = path.read_bytes()

    def refuse_bytes(data: bytes, words: str) -> None:
        path.write_bytes(data)
        refuse(path, words)

    refuse_bytes(whole[:-20], "cut off")
    refuse_bytes(b"no archive", "not a gzip archive")
    refuse_bytes(gzip.compress(b"no tar" * 200), "not a tar archive")
    refuse_bytes(gzip.compress(bytes(1 << 27)), "too large when unpacked")
    refuse_bytes(gzip.compress(make_tar({"a/readme.txt": b""})), r"holds no data/meta\.mat")
    twice = make_tar({"a/data/meta.mat": b"", "b/data/meta.mat": b""})
    refuse_bytes(gzip.compress(twice), r"holds data/meta\.mat twice")


def test_a_list_of_wordnet_ids_will_do(tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    path.write_text("".join(f"{name}\n" for name in WANTED))
    assert read_labels(path) == Truth(path, WANTED)
    path.write_text("n01440764\nn0144076\n")
    with pytest.raises(InputError, match="line 2: 'n0144076' is no WordNet id"):
        read_labels(path)
    path.write_bytes(TRUTH)
    with pytest.raises(InputError, match="numbers are not labels: give --devkit"):
        read_labels(path)
    for content, what in ((b"\xff\xfe", "not a plain text"), (b"\n \n", "empty")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"labels.txt is {what}: give a list of WordNet ids"):
            read_labels(path)
    with pytest.raises(InputError, match="no such file"):
        read_labels(tmp_path / "none")
