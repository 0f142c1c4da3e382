"""The RecordIO framing, and a manifest that is read without touching the data."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import pytest

from harness.commands import InputError
from resnet.shards import (
    MAGIC,
    Manifest,
    Shard,
    Split,
    StoredFile,
    frame_image,
    parse_manifest,
    read_manifest,
    read_records,
    write_manifest,
)

DIGEST = "0" * 64


def test_a_record_is_framed_as_mxnet_frames_it() -> None:
    """Header IfQQ, magic, flag and length, padded to a multiple of four bytes."""
    framed = frame_image(label=7, number=3, image=b"abcde")
    payload = struct.pack("<IfQQ", 0, 7.0, 3, 0) + b"abcde"
    assert framed == struct.pack("<II", 0xCED7230A, len(payload)) + payload + b"\0\0\0"


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"\xff\xd8 plain",
        MAGIC,
        MAGIC * 3 + b"x",
        b"abcd" + MAGIC + b"efgh" + MAGIC,
        b"a" + MAGIC + b"bcd",  # not at a multiple of four: stays in one part
        b"ab" + MAGIC + MAGIC + b"cd" + MAGIC,
    ],
)
def test_records_come_back_as_they_were(image: bytes) -> None:
    """Images that hold the magic number, at a multiple of four bytes or not, survive."""
    framed = frame_image(1, 0, b"first") + frame_image(2, 1, image) + frame_image(3, 2, b"last")
    records = list(read_records(io.BytesIO(framed)))
    assert [record.image for record in records] == [b"first", image, b"last"]
    assert [record.label for record in records] == [1, 2, 3]
    assert [record.offset for record in records][1] == len(frame_image(1, 0, b"first"))


def test_the_magic_number_stands_only_where_a_record_part_starts() -> None:
    """What dmlc-core's splitting is for: a scan at multiples of four finds part starts only."""
    framed = frame_image(1, 0, b"abcd" + MAGIC + b"efgh" + MAGIC + MAGIC)
    starts = [at for at in range(0, len(framed), 4) if framed[at : at + 4] == MAGIC]
    flags = [struct.unpack_from("<I", framed, at + 4)[0] >> 29 for at in starts]
    assert flags == [1, 2, 2, 3]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[:-3], "cut off"),
        (lambda data: b"\0" + data[1:], "no record frame at byte 0"),
        (lambda data: data + b"ab", "no record frame"),
        (lambda data: data[:4] + struct.pack("<I", 3 << 29 | 29) + data[8:], "out of order"),
    ],
)
def test_damaged_framing_is_named_by_its_offset(damage, words: str) -> None:  # type: ignore[no-untyped-def]
    """Cut, overwritten and misordered records raise ValueError with the place."""
    with pytest.raises(ValueError, match=words):
        list(read_records(io.BytesIO(damage(frame_image(1, 0, b"hello")))))


def make_manifest(folder: Path) -> Manifest:
    """Write a manifest and files of the right sizes that hold nothing readable."""
    splits = {}
    for name in ("train", "val"):
        shards = tuple(Shard(f"{name}-{k}.rec", 2, 10 + k, DIGEST, 600) for k in range(2))
        index, names = (StoredFile(f"{name}.{end}", 5, DIGEST) for end in ("idx", "lst"))
        splits[name] = Split(4, index, names, shards)
        for item in splits[name].files():
            (folder / item.file).write_bytes(bytes(item.bytes))
    manifest = Manifest(folder, 1, ("cat", "dog"), **splits)
    write_manifest(manifest)
    return manifest


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    """Writing and reading are inverse, and files() names what stands in the folder."""
    manifest = make_manifest(tmp_path)
    assert read_manifest(tmp_path) == manifest
    names = {path.name for path in tmp_path.iterdir()}
    assert {path.name for path in manifest.files()} == names - {"manifest.json"}


def test_reading_a_manifest_opens_no_data(tmp_path: Path) -> None:
    """Files that may not be opened do not disturb: only their size is looked at."""
    manifest = make_manifest(tmp_path)
    for path in manifest.files():
        size = path.stat().st_size
        path.unlink()
        path.symlink_to(tmp_path / f"{path.name}.target")
        (tmp_path / f"{path.name}.target").write_bytes(bytes(size))
        (tmp_path / f"{path.name}.target").chmod(0)
    opened = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and watching:
            opened.append(str(arguments[0]))

    import sys

    watching = True
    sys.addaudithook(watch)
    try:
        assert read_manifest(tmp_path) == manifest
    finally:
        watching = False
    assert [Path(name).name for name in opened] == ["manifest.json"]


def test_a_truncated_shard_is_named_with_both_sizes(tmp_path: Path) -> None:
    """The sentence says which file, what it has, what it should have, and the mend."""
    make_manifest(tmp_path)
    (tmp_path / "val-1.rec").write_bytes(b"abc")
    with pytest.raises(InputError) as caught:
        read_manifest(tmp_path)
    sentence = str(caught.value)
    for part in ("val-1.rec", "3 bytes", "11", "resnet.prepare_data pack"):
        assert part in sentence
    assert "\n" not in sentence


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    """The index is as necessary as the shards."""
    make_manifest(tmp_path)
    (tmp_path / "train.idx").unlink()
    with pytest.raises(InputError, match=r"train\.idx is missing"):
        read_manifest(tmp_path)


def set_schema(table: dict) -> None:
    table["schema"] = 9


def set_sum(table: dict) -> None:
    table["train"]["images"] = 5


def set_path(table: dict) -> None:
    table["val"]["shards"][0]["file"] = "../x.rec"


def drop_split(table: dict) -> None:
    del table["val"]


def set_classes(table: dict) -> None:
    table["classes"] = ["dog", "cat"]


def set_bytes(table: dict) -> None:
    table["val"]["index"]["bytes"] = "5"


def drop_size(table: dict) -> None:
    del table["train"]["shards"][1]["decoded_bytes"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_size, "'decoded_bytes' is missing"),
        (set_schema, "schema"),
        (set_sum, "sum"),
        (set_path, "plain file name"),
        (drop_split, "'val' is missing"),
        (set_classes, "sorted"),
        (set_bytes, r"val\.bytes"),
    ],
)
def test_a_malformed_manifest_is_one_sentence(tmp_path: Path, change, words: str) -> None:  # type: ignore[no-untyped-def]
    """Every wrong key is refused by name, with the file and the mend."""
    make_manifest(tmp_path)
    path = tmp_path / "manifest.json"
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    with pytest.raises(InputError, match=words) as caught:
        parse_manifest(tmp_path)
    assert str(path) in str(caught.value) and "pack" in str(caught.value)


def test_no_manifest_and_no_json_are_one_sentence(tmp_path: Path) -> None:
    """The two commonest mistakes: another folder, a damaged file."""
    with pytest.raises(InputError, match="no such file"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_manifest(tmp_path)
