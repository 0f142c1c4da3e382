"""What is said of a data set: counts, lengths beside published ones, a picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bert import prepare_data_information
from bert.manifest import Manifest
from bert.prepare_data import main
from bert.prepare_data_information import (
    compare_lengths,
    count_lengths,
    describe_data,
    draw_lengths,
)
from bert.prepare_data_parts import create_data
from bert.published_data import PublishedLength, read_published_data
from bert.shard_file import ALIGNMENT_BYTES
from bert.shards import ShardSet
from harness.commands import InputError
from tests.bert.small_data import SMALL, write_texts, write_vocabulary


@pytest.fixture(name="manifest")
def make_manifest(tmp_path: Path) -> Manifest:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path)
    return create_data(texts, vocab, tmp_path / "out", SMALL, 1)


def test_lengths_are_counted(manifest: Manifest) -> None:
    counts, random_next = count_lengths(manifest)
    with ShardSet.open(manifest) as shards:
        samples = [shards.sample(number) for number in range(len(shards))]
    assert random_next == sum(sample.next_sentence_label for sample in samples)
    lengths = [len(sample.input_ids) for sample in samples]
    assert counts.tolist() == np.bincount(lengths, minlength=33).tolist()


def test_workers_and_stretches_change_nothing(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for workers, examples in (("1", 1 << 20), ("3", 5)):
        monkeypatch.setattr(prepare_data_information, "READ_EXAMPLES", examples)
        assert main(["info", str(manifest.folder), "--json", "--workers", workers]) == 0
        said.append(capsys.readouterr().out)
    assert len(manifest.shards) > 1 and said[0] == said[1]
    with pytest.raises(InputError, match="--workers must be from 1"):
        main(["info", str(manifest.folder), "--workers", "0"])


def test_another_shard_than_the_manifests_is_refused(manifest: Manifest) -> None:
    shard = manifest.shards[0]
    other = replace(manifest, shards=(replace(shard, examples=shard.examples + 1),))
    with pytest.raises(InputError, match=f"{shard.name} is not the shard that"):
        count_lengths(other, 2)


def test_lengths_beyond_the_longest_are_damage(manifest: Manifest) -> None:
    path = manifest.folder / manifest.shards[0].name
    content = bytearray(path.read_bytes())
    content[ALIGNMENT_BYTES + 9] = 200
    path.write_bytes(content)
    with pytest.raises(InputError, match="prepare_data verify"):
        count_lengths(manifest)


def test_shares_stand_beside_published_ones() -> None:
    counts = np.zeros(11, dtype=np.int64)
    counts[[5, 10]] = 30, 10
    published = (PublishedLength(5, 9, 60.0, 40.0), PublishedLength(10, 10, 40.0, 60.0))
    short, long = compare_lengths(counts, published)
    assert (short["sequences_percent"], short["tokens_percent"]) == (75, 60)
    assert (long["sequences_percent"], long["tokens_percent"]) == (25, 40)
    assert (long["first"], long["last"], long["published_tokens_percent"]) == (10, 10, 60.0)
    assert compare_lengths(counts[:10], published) == []


@pytest.mark.parametrize(
    ("name", "beginning"), [("lengths.svg", b"<?xml"), ("lengths.png", b"\x89PNG")]
)
def test_a_picture_is_drawn(manifest: Manifest, name: str, beginning: bytes) -> None:
    path = manifest.folder / name
    assert main(["info", str(manifest.folder), "--picture", str(path)]) == 0
    content = path.read_bytes()
    assert content.startswith(beginning)
    draw_lengths(describe_data(manifest), path)
    assert path.read_bytes() == content  # the same data make the same picture


def test_a_picture_with_published_shares(manifest: Manifest, tmp_path: Path) -> None:
    description = describe_data(manifest)
    counts = np.ones(513, dtype=np.int64)
    description["length_shares"] = compare_lengths(counts, read_published_data().lengths)
    draw_lengths(description, tmp_path / "lengths.svg")
    assert b"385" in (tmp_path / "lengths.svg").read_bytes()


def test_another_ending_is_refused(manifest: Manifest) -> None:
    path = manifest.folder / "lengths.gif"
    with pytest.raises(InputError, match=r"lengths\.gif: a picture ends in \.svg or \.png"):
        main(["info", str(manifest.folder), "--picture", str(path)])
    assert not path.exists()


def test_a_picture_that_cannot_be_written_is_refused_before_the_counting(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "bert.prepare_data_information.describe_data", lambda *_: pytest.fail("counted")
    )
    path = manifest.folder / "nowhere" / "lengths.svg"
    with pytest.raises(InputError, match=r"may not write to .*nowhere: name another place"):
        main(["info", str(manifest.folder), "--picture", str(path)])
