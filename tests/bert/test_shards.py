"""The data set on disk: what is written is read, and what is damaged or missing is said."""

from __future__ import annotations

import json
import random
import resource
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from bert.examples import Examples, ExampleSettings
from bert.manifest import UNKNOWN_TEXT, Origin, Text, trace_origin
from bert.shard_file import order_examples, read_description, write_shard
from bert.shards import (
    Manifest,
    Shard,
    ShardSet,
    allow_open_files,
    name_shard,
    read_manifest,
    write_manifest,
)
from harness.commands import InputError

VOCABULARY = 100


@dataclass
class Row:
    input_ids: list[int]
    first_segment: int
    positions: list[int]
    truth: list[int]
    label: int


def make_rows(seed: int, count: int) -> list[Row]:
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        length = rng.randint(5, 40)
        masked = rng.randint(1, min(5, length - 3))
        rows.append(
            Row(
                [rng.randrange(VOCABULARY) for _ in range(length)],
                rng.randint(3, length - 2),
                sorted(rng.sample(range(length), masked)),
                [rng.randrange(VOCABULARY) for _ in range(masked)],
                rng.randrange(2),
            )
        )
    return rows


def write_rows(folder: Path, number: int, rows: list[Row], typecode: str) -> Shard:
    numbers = array(typecode)
    examples = Examples([])
    for row in reversed(rows):  # the written order is not the made one
        numbers.extend(row.input_ids + row.positions + row.truth)
        examples.ends.append(len(numbers))
        examples.tokens.append(len(row.input_ids))
        examples.first_segment.append(row.first_segment)
        examples.masked.append(len(row.positions))
        examples.next_sentence_label.append(row.label)
    examples.payload.append(np.frombuffer(numbers, typecode))
    examples.order = list(range(len(rows)))[::-1]
    path = folder / name_shard(number, "a text")
    made = write_shard(path, *order_examples(examples), {"text": "a text"})
    counts = (made["examples"], made["tokens"], made["masked_tokens"])
    return Shard(path.name, *counts, path.stat().st_size, made["sha256"])


def make_data(folder: Path, typecode: str = "H") -> tuple[Manifest, list[Row]]:
    settings = ExampleSettings(max_seq_length=40, max_predictions_per_seq=5)
    parts = [make_rows(seed, count) for seed, count in enumerate((7, 1, 30, 12))]
    shards = [write_rows(folder, number, rows, typecode) for number, rows in enumerate(parts)]
    manifest = Manifest(folder, settings, VOCABULARY, "0" * 32, tuple(shards))
    write_manifest(manifest)
    return manifest, [row for rows in parts for row in rows]


@pytest.mark.parametrize("typecode", ["H", "I"])
def test_what_is_written_is_read(tmp_path: Path, typecode: str) -> None:
    written, rows = make_data(tmp_path, typecode)
    manifest = read_manifest(tmp_path)
    assert manifest == written
    assert manifest.examples == len(rows) == 50
    assert manifest.tokens == sum(len(row.input_ids) for row in rows)
    assert manifest.masked_tokens == sum(len(row.positions) for row in rows)
    with ShardSet.open(manifest) as shards:
        assert len(shards) == len(rows)
        for number, row in enumerate(rows):
            sample = shards.sample(number)
            assert sample.input_ids.tolist() == row.input_ids
            expected = [int(i >= row.first_segment) for i in range(len(row.input_ids))]
            assert sample.segment_ids.tolist() == expected
            assert sample.masked_lm_positions.tolist() == row.positions
            assert sample.masked_lm_ids.tolist() == row.truth
            assert sample.next_sentence_label == row.label


def test_gather_is_the_samples_in_the_asked_order(tmp_path: Path) -> None:
    manifest, rows = make_data(tmp_path)
    numbers = [random.Random(3).randrange(50) for _ in range(33)] + [7, 7, 0, 49]
    batch = ShardSet.open(manifest).gather(np.asarray(numbers))
    wanted = [rows[number] for number in numbers]
    ends = np.cumsum([0] + [len(row.input_ids) for row in wanted])
    assert batch.cu_seqlens.dtype == np.int32 and batch.cu_seqlens.tolist() == ends.tolist()
    assert batch.input_ids.tolist() == [i for row in wanted for i in row.input_ids]
    assert batch.position_ids.tolist() == [i for row in wanted for i in range(len(row.input_ids))]
    assert batch.segment_ids.tolist() == [
        int(i >= row.first_segment) for row in wanted for i in range(len(row.input_ids))
    ]
    assert batch.masked_positions.tolist() == [
        int(end) + i for row, end in zip(wanted, ends, strict=False) for i in row.positions
    ]
    assert batch.masked_ids.tolist() == [i for row in wanted for i in row.truth]
    assert batch.masked_counts.tolist() == [len(row.positions) for row in wanted]
    assert batch.next_sentence_labels.tolist() == [row.label for row in wanted]


def test_entries_are_read_across_shards_and_spare_the_index(tmp_path: Path) -> None:
    manifest, rows = make_data(tmp_path)  # shards of 7, 1, 30 and 12
    shards = ShardSet.open(manifest)
    shards.open_files([(0, 5), (6, 9)])
    assert [file is not None for file in shards._files] == [True, True, True, False]
    for first, last in ((0, 7), (5, 9), (0, 50), (37, 38), (49, 50)):
        shards.read_index_ahead(first, last)
        entries = shards.read_entries(first, last)
        assert entries["tokens"].tolist() == [len(row.input_ids) for row in rows[first:last]]
        shards.read_records_ahead(first, entries)
    numbers = np.asarray([44, 3, 7])
    known = shards.gather(numbers, shards.read_entries(0, 50)[numbers])
    for one, other in zip(known, shards.gather(numbers), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("numbers", [[], [-1], [50], [0, 50]])
def test_examples_that_are_not_there(tmp_path: Path, numbers: list[int]) -> None:
    manifest, _ = make_data(tmp_path)
    with pytest.raises(IndexError, match="numbered from 0 to 49"):
        ShardSet.open(manifest).gather(numbers)


def test_only_the_shards_asked_for_are_opened(tmp_path: Path) -> None:
    manifest, rows = make_data(tmp_path)
    shards = ShardSet.open(manifest)
    for number in (0, 1, 3):
        (tmp_path / manifest.shards[number].name).unlink()
    assert shards.sample(20).input_ids.tolist() == rows[20].input_ids
    with pytest.raises(FileNotFoundError):
        shards.sample(0)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.unlink(), r"is missing \(\d+ bytes wanted\)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), r"has \d+ bytes instead of \d+"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), r"has \d+ bytes instead of \d+"),
        (lambda path: path.write_bytes(b""), r"has 0 bytes instead of \d+"),
    ],
)
def test_manifest_knows_every_size(
    tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    manifest, _ = make_data(tmp_path)
    path = tmp_path / manifest.shards[2].name
    damage(path)
    with pytest.raises(InputError, match=reason) as caught:
        read_manifest(tmp_path)
    assert str(path) in str(caught.value)


def test_content_of_the_right_size_is_not_looked_at_by_the_manifest(tmp_path: Path) -> None:
    manifest, _ = make_data(tmp_path)
    path = tmp_path / manifest.shards[0].name
    path.write_bytes(bytes(path.stat().st_size))
    assert read_manifest(tmp_path) == manifest
    with pytest.raises(InputError, match="is not a shard"):
        ShardSet.open(manifest).sample(0)


def test_manifests_that_are_none(tmp_path: Path) -> None:
    manifest, _ = make_data(tmp_path)
    path = tmp_path / "manifest.json"
    good = json.loads(path.read_text())
    shard = good["shards"][0]
    bad = [
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        json.dumps({**good, "schema": 2}),
        json.dumps({**good, "shards": []}),
        json.dumps({**good, "examples": 51}),
        json.dumps({**good, "vocabulary_size": "many"}),
        json.dumps({**good, "settings": {"max_seq_length": 40, "speed": 3}}),
        json.dumps({**good, "settings": {**good["settings"], "max_seq_length": "40"}}),
        json.dumps({**good, "settings": {**good["settings"], "dupe_factor": 0}}),
        json.dumps({**good, "shards": [{**shard, "name": "../../etc/passwd"}]}),
        json.dumps({**good, "shards": [{**shard, "examples": -1}]}),
        json.dumps({**good, "shards": [{**shard, "bytes": True}]}),
        json.dumps({**good, "shards": [{**shard, "more": 1}]}),
        json.dumps({**good, "shards": [3]}),
        json.dumps({**good, "shards": [{**shard, "examples": 10**30}]}),
        json.dumps({**good, "shards": [shard, shard], "examples": 14}),
        json.dumps({**good, "vocabulary_size": 0}),
        json.dumps({**good, "vocabulary_md5": "../x"}),
        json.dumps({**good, "settings": {**good["settings"], "max_seq_length": 40.5}}),
        json.dumps({**good, "settings": 3}),
        json.dumps({**good, "origin": 3}),
        json.dumps({**good, "origin": {"texts": [{"bytes": 1}], "operations": []}}),
        json.dumps({**good, "origin": {"texts": [], "operations": [3]}}),
    ]
    for content in bad:
        path.write_text(content)
        with pytest.raises(InputError, match=r"manifest\.json is not"):
            read_manifest(tmp_path)
    for content, words in (("[]", "its top is no object"), ("{}", "key 'schema' is missing")):
        path.write_text(content)
        with pytest.raises(InputError, match=f"of schema 1 .{words}"):
            read_manifest(tmp_path)
    write_manifest(manifest)
    assert read_manifest(tmp_path).settings == ExampleSettings(**asdict(manifest.settings))
    path.unlink()
    with pytest.raises(InputError, match=r"manifest\.json is missing"):
        read_manifest(tmp_path)


def test_another_shard_of_the_same_size_is_noticed(tmp_path: Path) -> None:
    manifest, rows = make_data(tmp_path)
    name = manifest.shards[0].name
    rows[0].truth[0] ^= 1
    other = write_rows(tmp_path, 0, rows[:7], "H")
    assert other.name == name and other.bytes == manifest.shards[0].bytes
    with pytest.raises(InputError, match="is not the shard that manifest"):
        ShardSet.open(read_manifest(tmp_path)).sample(0)


def test_no_flipped_byte_reaches_the_trainer_as_an_impossible_batch(tmp_path: Path) -> None:
    manifest, _ = make_data(tmp_path)
    path = tmp_path / manifest.shards[2].name
    whole = path.read_bytes()
    start = read_description(path)[1]
    refused = 0
    for place in range(start, start + 16 * 30):
        content = bytearray(whole)
        content[place] ^= 0x80
        path.write_bytes(content)
        try:
            batch = ShardSet.open(manifest).gather(np.arange(8, 38))
        except InputError as error:
            assert "verify" in str(error)
            refused += 1
            continue
        assert len(batch.input_ids) == batch.cu_seqlens[-1] == len(batch.segment_ids)
        assert 0 <= batch.masked_positions.min() <= batch.masked_positions.max()
        assert batch.masked_positions.max() < len(batch.input_ids)
        assert batch.input_ids.max() < VOCABULARY > batch.masked_ids.max()
        assert batch.next_sentence_labels.max() <= 1
    assert refused > 100


def test_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        allow_open_files(300)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
        allow_open_files(10)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 300
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_damaged_count_is_refused_where_it_is_all_that_is_asked_for(tmp_path: Path) -> None:
    """Example 7 alone, the only one of its shard: no neighbour's length betrays the damage."""
    manifest, _ = make_data(tmp_path)
    path = tmp_path / manifest.shards[1].name
    whole, start = path.read_bytes(), read_description(path)[1]
    for name in ("tokens", "masked"):
        offset = start + {"tokens": 8, "masked": 12}[name]
        for value in (0, 41, 65_535):
            content = bytearray(whole)
            content[offset : offset + 2] = value.to_bytes(2, "little")
            path.write_bytes(content)
            with pytest.raises(InputError, match="prepare_data verify"):
                ShardSet.open(manifest).sample(7)


def test_the_origin_is_kept_or_asked_of_the_shards(tmp_path: Path) -> None:
    manifest, _ = make_data(tmp_path)
    assert trace_origin(manifest) == Origin((UNKNOWN_TEXT,) * 4)
    origin = Origin((Text(3, "a" * 32),)).add("pick 10")
    changed = replace(manifest, origin=origin)
    write_manifest(changed)
    assert read_manifest(tmp_path) == changed
    assert trace_origin(changed) == Origin((Text(3, "a" * 32),), ("pick 10",))
