"""The format of one shard: deterministic, aligned, and nothing in it is believed unchecked."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert.prepare_data_faults import find_faults
from bert.shard_file import (
    ALIGNMENT_BYTES,
    INDEX_ENTRY,
    MAGIC,
    ShardFile,
    hash_content,
    read_description,
    read_examples,
    write_shard,
)
from harness.commands import InputError


def make_shard(path: Path, dtype: str = "<u2") -> dict[str, Any]:
    index = np.zeros(3, INDEX_ENTRY)
    index["tokens"], index["masked"], index["first_segment"] = (6, 5, 8), (1, 2, 1), (3, 3, 4)
    lengths = index["tokens"] + 2 * index["masked"]
    index["start"] = np.cumsum(lengths) - lengths
    records = [
        np.asarray([*range(tokens), *range(masked), *range(10, 10 + masked)], dtype)
        for _, tokens, _, masked, _, _ in index.tolist()
    ]
    return write_shard(path, index, records, {"text": {"bytes": 5}})


def describe(path: Path, **changes: Any) -> None:
    """Rewrite a shard's description, with a right checksum."""
    whole = path.read_bytes()
    length = int.from_bytes(whole[16:20], "little")
    content = json.loads(whole[24 : 24 + length])
    content.update(changes)
    text = json.dumps({k: v for k, v in content.items() if v is not None}).encode()
    text += b" " * (length - len(text))
    crc = zlib.crc32(text).to_bytes(4, "little")
    path.write_bytes(MAGIC + length.to_bytes(4, "little") + crc + text + whole[24 + length :])


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_round_trip(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.shard"
    description = make_shard(path, dtype)
    read, start = read_description(path)
    assert read == description and start == ALIGNMENT_BYTES
    assert hash_content(path, start) == description["sha256"]
    assert (read["examples"], read["tokens"], read["masked_tokens"]) == (3, 19, 4)
    file = ShardFile(path)
    assert find_faults(file.layout, 8, 2, 13) == []
    records = list(file.iterate_records())
    assert records[1].tolist() == [0, 1, 2, 3, 4, 0, 1, 10, 11]
    with pytest.raises(ValueError, match="read-only"):
        file.records[0] = 1
    make_shard(tmp_path / "b.shard", dtype)
    assert (tmp_path / "b.shard").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.shard", "b.shard"]


def test_faults_of_the_examples_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.shard"
    make_shard(path)
    layout = ShardFile(path).layout
    assert "longer than 7 tokens (example 2)" in find_faults(layout, 7, 2, 13)[0]
    assert "more than 1 (example 1)" in find_faults(layout, 8, 1, 13)[0]
    assert "not in the vocabulary (example 1)" in find_faults(layout, 8, 2, 11)[0]


def test_stretches_are_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.shard"
    make_shard(path)
    file = ShardFile(path)
    index, records = read_examples(file.layout, 1, 3)
    assert index["tokens"].tolist() == [5, 8]
    assert records.tolist() == file.records[8:].tolist()
    assert [len(part) for part in read_examples(file.layout, 2, 2)] == [0, 0]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match="become shorter"):
        read_examples(file.layout, 2, 3)


def test_faults_are_found_in_later_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.shard"
    make_shard(path)
    layout = ShardFile(path).layout
    monkeypatch.setattr("bert.prepare_data_faults.BLOCK_EXAMPLES", 1)
    assert find_faults(layout, 8, 2, 13) == []
    assert "longer than 7 tokens (example 2)" in find_faults(layout, 7, 2, 13)[0]
    assert "not in the vocabulary (example 1)" in find_faults(layout, 8, 2, 11)[0]
    content = bytearray(path.read_bytes())
    content[ALIGNMENT_BYTES + 2 * 16 + 8] += 2  # two tokens more, and a masked one less: as long
    content[ALIGNMENT_BYTES + 2 * 16 + 12] -= 1
    path.write_bytes(content)
    assert "longer or shorter than the index says" in find_faults(layout, 12, 2, 13)[0]


@pytest.mark.parametrize("start", [1, 9, 1 << 40, (1 << 64) - 8])
def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path, start: int) -> None:
    path = tmp_path / "a.shard"
    make_shard(path)
    content = bytearray(path.read_bytes())
    content[ALIGNMENT_BYTES + 16 : ALIGNMENT_BYTES + 24] = start.to_bytes(8, "little")
    path.write_bytes(content)
    file = ShardFile(path)
    with pytest.raises(InputError, match="index does not match the records"):
        read_examples(file.layout, 0, 3)
    assert "index does not match" in find_faults(file.layout, 8, 2, 13)[0]
    if start > len(file.records):
        with pytest.raises(InputError, match="index does not match the records"):
            file.get_records(file.index[1:2])


@pytest.mark.parametrize(
    ("places", "sentence"),
    [({13: 1}, "wrong masked positions"), ({14: 5}, "wrong masked positions"), ({}, None)],
)
def test_masked_positions_rise_within_the_sequence(
    tmp_path: Path, places: dict[int, int], sentence: str | None
) -> None:
    """Numbers 13 and 14 of the records are example 1's masked positions, 0 and 1 of 5 tokens."""
    path = tmp_path / "a.shard"
    make_shard(path)
    content = bytearray(path.read_bytes())
    for place, value in places.items():
        content[2 * ALIGNMENT_BYTES + 2 * place] = value
    path.write_bytes(content)
    faults = find_faults(ShardFile(path).layout, 8, 2, 13)
    assert faults == ([f"{path}: {sentence} (example 1)"] if sentence else [])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"examples": 4}, "contradict"),
        ({"examples": "3"}, "not a whole number"),
        ({"examples": 3.0}, "not a whole number"),
        ({"tokens": True}, "not a whole number"),
        ({"masked_tokens": None}, "'masked_tokens'"),
        ({"examples": None}, "'examples'"),
        ({"index": {"bytes": -48}}, "not a whole number"),
        ({"index": 3}, "not the description"),
        ({"sha256": 3}, "no checksum"),
        ({"records": {"bytes": 54, "number": "|O"}}, "contradict"),
        ({"records": {"bytes": 54, "number": []}}, "not the description"),
        ({"records": {"bytes": 1 << 70, "number": "<u2"}}, "contradict"),
        ({"records": {"bytes": 52, "number": "<u2"}}, "contradict"),
    ],
)
def test_hostile_descriptions(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = tmp_path / "a.shard"
    make_shard(path)
    describe(path, **changes)
    with pytest.raises(InputError, match=reason) as caught:
        ShardFile(path)
    assert str(path) in str(caught.value)


def test_every_flipped_byte_of_the_head_and_every_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.shard"
    make_shard(path)
    whole = path.read_bytes()
    head = 24 + int.from_bytes(whole[16:20], "little")
    for place in range(head):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError):
            read_description(path)
    for length in (0, 1, 16, 23, 24, head - 1, head, 4096, 4200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError):
            read_description(path)


def test_a_length_beyond_the_file_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.shard"
    path.write_bytes(MAGIC + b"\xff" * 8)
    with pytest.raises(InputError, match="description is damaged"):
        read_description(path)
