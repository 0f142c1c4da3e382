"""Damaged shards and manifests are refused in one sentence, or read as what a trainer can take."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from random import Random

import pytest

from bert.shard_file import MAGIC, read_description
from harness.commands import InputError
from tests.fuzz import bert_shards
from tests.fuzz.loop import Damaged

EXECUTIONS = 1500


def test_damage_at_random() -> None:
    """The fuzzer's first executions; `python -m tests.fuzz.bert_shards` goes on for longer."""
    run_some()


def run_some() -> None:
    """In this process and without the fuzzer's clock, which would end the process after a while."""
    execute = bert_shards.make_fuzzer()
    for number in range(EXECUTIONS):
        execute(Random(1 << 40 | number), number)


def test_the_fuzzer_finds_what_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one check taken out of the reader it fails within the same executions."""
    monkeypatch.setattr("bert.shards.ShardSet._damage", lambda *_: KeyError("not refused"))
    with pytest.raises(Damaged):
        run_some()


def test_damaged_descriptions_keep_a_right_checksum(tmp_path: Path) -> None:
    """So that the damage reaches what lies behind the checksum."""
    files = bert_shards.make_set(tmp_path / "set", "<u2")
    path, content = next(iter(files.items()))
    reached = 0
    for number in range(50):
        damaged = bert_shards.damage_description(Random(number), content)
        length = int.from_bytes(damaged[16:20], "little")
        text = damaged[24 : 24 + length]
        assert damaged.startswith(MAGIC) and damaged[20:24] == zlib.crc32(text).to_bytes(
            4, "little"
        )
        path.write_bytes(damaged)
        try:
            read_description(path)
        except InputError:
            continue
        reached += json.loads(text) != json.loads(content[24 : content.index(b"\n}\n") + 3])
    assert reached > 0
