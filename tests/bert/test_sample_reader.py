"""Samples in their order: numbers and index entries are right, and little is read early."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bert import order as order_module
from bert.order import SampleOrder
from bert.sample_reader import SampleReader
from bert.shards import Manifest, ShardSet
from harness.commands import InputError
from perf.bert_shards import make_shards


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return make_shards(tmp_path_factory.mktemp("made"), 500, 7)


@pytest.fixture(autouse=True)
def _sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_module, "BLOCK_SAMPLES", 16)
    monkeypatch.setattr(order_module, "WINDOW_BLOCKS", 5)


@pytest.mark.parametrize("count", [1, 33, 80, 200, 700])
def test_entries_are_those_of_the_orders_samples(manifest: Manifest, count: int) -> None:
    order = SampleOrder(manifest.examples, 3)
    with ShardSet.open(manifest) as shards:
        reader = SampleReader(shards, SampleOrder(manifest.examples, 3))
        for first in range(0, 1500, count):
            numbers, entries = reader.look_up(first, count)
            assert np.array_equal(numbers, order(first, count))
            expected, _ = shards.find(numbers)
            assert np.array_equal(entries, expected)
            by_entries = shards.gather(numbers, entries)
            for one, other in zip(by_entries, shards.gather(numbers), strict=True):
                assert np.array_equal(one, other)


def test_no_more_than_two_windows_are_held_and_the_next_is_read_bit_by_bit(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    read_entries = ShardSet.read_entries
    monkeypatch.setattr(
        ShardSet,
        "read_entries",
        lambda shards, first, last: (read.append(first), read_entries(shards, first, last))[1],
    )
    with ShardSet.open(manifest) as shards:
        reader = SampleReader(shards, SampleOrder(manifest.examples, 3))
        reader.look_up(0, 16)
        assert len(read) == 5 + 1  # its own window, and a fifth of the next
        for first in range(16, 320, 16):
            before = len(read)
            reader.look_up(first, 16)
            assert len(read) - before <= 2
            assert len(reader._windows) <= 2
        # Four of the seven windows are used, the fifth is read ahead: each block once.
        assert sorted(read) == sorted(set(read)) and 25 <= len(read) <= 27


def test_damage_is_told_before_anything_is_shared_out(tmp_path: Path) -> None:
    manifest = make_shards(tmp_path, 100, 2)
    with ShardSet.open(manifest) as shards:
        layout = shards.get_file(1).layout
    with open(layout.path, "r+b") as file:
        file.seek(layout.index_start + 8)
        file.write((60_000).to_bytes(2, "little"))
    reader = SampleReader(ShardSet.open(manifest), SampleOrder(100, 1))
    with pytest.raises(InputError, match=r"a shard is damaged, one of .*00001-made"):
        reader.look_up(0, 100)
