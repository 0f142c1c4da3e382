"""The global shuffle: Python's own order of all rows, the same bytes however it is made."""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from bert import prepare_data_shuffle, prepare_data_shuffle_plan
from bert.manifest import Manifest, read_manifest
from bert.prepare_data import main
from bert.prepare_data_parts import create_data, lock_folder
from bert.prepare_data_shuffle import shuffle_data
from bert.prepare_data_shuffle_plan import plan_shards, plan_shuffle
from bert.prepare_data_verification import verify_data
from bert.shards import ShardSet
from harness.commands import InputError
from tests.bert.small_data import SMALL, hash_files, run, write_texts, write_vocabulary


@pytest.fixture(name="source")
def make_source(tmp_path: Path) -> Manifest:
    """Three texts, of different sizes."""
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 3, 20)
    texts[1].write_text(texts[1].read_text()[:400])
    return create_data(texts, vocab, tmp_path / "source", SMALL, 1)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make runs so small that a shard becomes several, and groups so small that there are some."""
    monkeypatch.setattr(prepare_data_shuffle_plan, "RUN_BYTES", 4_000)
    monkeypatch.setattr(prepare_data_shuffle_plan, "GROUP_BYTES", 12_000)


def read_rows(manifest: Manifest) -> list[object]:
    with ShardSet.open(manifest) as shards:
        samples = [shards.sample(number) for number in range(len(shards))]
    return [[part.tolist() for part in s[:4]] + [s.next_sentence_label] for s in samples]


def shuffle_rows(source: Manifest, seed: int) -> list[object]:
    rows = read_rows(source)
    random.Random(seed).shuffle(rows)
    return rows


@pytest.mark.parametrize(("seed", "shards", "workers"), [(24, None, 1), (24, 1, 2), (7, 11, 3)])
def test_the_order_is_pythons_shuffle_of_all_rows(
    source: Manifest, tmp_path: Path, seed: int, shards: int | None, workers: int
) -> None:
    result = shuffle_data(source, tmp_path / "out", seed, shards, workers)
    assert result == read_manifest(tmp_path / "out")
    assert verify_data(result) == []
    assert len(result.shards) == (shards or 3)
    assert read_rows(result) == shuffle_rows(source, seed)
    assert result.origin is not None and result.origin.operations == (f"shuffle {seed}",)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *(shard.name for shard in result.shards),
        "manifest.json",
    ]


@pytest.mark.usefixtures("small_pieces")
def test_small_pieces_make_the_same_rows(source: Manifest, tmp_path: Path) -> None:
    plan = plan_shuffle(source, tmp_path / "out", 24, 13)
    assert len(plan.runs) > 2 * len(source.shards) and 3 < len(plan.groups) < 13
    result = shuffle_data(source, tmp_path / "out", 24, 13, 2)
    assert verify_data(result) == []
    assert read_rows(result) == shuffle_rows(source, 24)


def test_pieces_and_workers_change_no_byte(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffle_data(source, tmp_path / "one", 24, 5, 1)
    monkeypatch.setattr(prepare_data_shuffle_plan, "RUN_BYTES", 7_000)
    monkeypatch.setattr(prepare_data_shuffle_plan, "GROUP_BYTES", 1)
    shuffle_data(source, tmp_path / "two", 24, 5, 3)
    assert hash_files(tmp_path / "one") == hash_files(tmp_path / "two")


def test_large_vocabularies_have_numbers_of_four_bytes(tmp_path: Path) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 2)
    with open(vocab, "a") as file:
        file.writelines(f"extra{number}\n" for number in range(70_000))
    source = create_data(texts, vocab, tmp_path / "source", SMALL, 1)
    result = shuffle_data(source, tmp_path / "out", 3, 2, 1)
    assert read_rows(result) == shuffle_rows(source, 3)
    with ShardSet.open(result) as shards:
        assert shards.get_file(0).records.dtype == np.dtype("<u4")


@pytest.mark.parametrize(("examples", "shards"), [(156_726_829, 4320), (5, 4), (4, 4), (9, 2)])
def test_shards_are_as_large_as_published(
    source: Manifest, tmp_path: Path, examples: int, shards: int
) -> None:
    """Only the first ones have a row less; of Wikipedia, 2,771 of 4,320 (NVIDIA)."""
    shard = replace(source.shards[0], examples=examples)
    stretches = plan_shards(replace(source, shards=(shard,)), tmp_path, shards)
    sizes = [stretch.last - stretch.first for stretch in stretches]
    assert sum(sizes) == examples and sizes == sorted(sizes)
    assert set(sizes) <= {sizes[-1] - 1, sizes[-1]} and sizes[0] > 0
    if shards == 4320:
        assert (sizes.count(36_279), sizes.count(36_280)) == (2771, 1549)


class Interrupted(Exception):
    """The end of a call, at a moment of the test's choosing."""


class Interruption(NamedTuple):
    """Lets so many files be written, then ends the call."""

    monkeypatch: pytest.MonkeyPatch

    def after(self, files: int) -> list[Path]:
        written: list[Path] = []
        write = prepare_data_shuffle.write_blocks

        def write_some(path: Path, *rest: object) -> object:
            if len(written) == files:
                raise Interrupted
            written.append(path)
            return write(path, *rest)  # type: ignore[arg-type]

        self.monkeypatch.setattr(prepare_data_shuffle, "write_blocks", write_some)
        return written


@pytest.mark.usefixtures("small_pieces")
def test_an_interrupted_call_keeps_what_it_made(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shuffle_data(source, tmp_path / "whole", 24, 5, 1)
    runs = len(plan_shuffle(source, tmp_path, 24, 5).runs)
    out, made = tmp_path / "out", 0
    for files in (1, runs - 3, 3):  # in the first pass, at its end, in the second
        with monkeypatch.context() as context:
            written = Interruption(context).after(files)
            with pytest.raises(Interrupted):
                shuffle_data(source, out, 24, 5, 1)
        made += files
        assert len(written) == files and all(path.exists() for path in written)
        assert not (out / "manifest.json").exists()
        assert len([*out.glob("*.shard"), *out.glob(".runs/*.shard")]) == made
    (out / ".00004-shuffled.shard.99.part").write_bytes(b"half")
    (out / ".runs" / ".00001-run.shard.99.part").write_bytes(b"half")
    shuffle_data(source, out, 24, 5, 1)
    assert hash_files(out) == hash_files(tmp_path / "whole")
    with monkeypatch.context() as context:
        written = Interruption(context).after(0)
        shuffle_data(source, out, 24, 5, 1)  # nothing is left to make
    assert hash_files(out) == hash_files(tmp_path / "whole")


def test_what_was_made_of_something_else_is_made_anew(source: Manifest, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shuffle_data(source, out, 24, 3, 1)
    assert read_rows(shuffle_data(source, out, 25, 3, 1)) == shuffle_rows(source, 25)
    path = out / "00001-shuffled.shard"
    path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    assert read_rows(shuffle_data(source, out, 25, 3, 1)) == shuffle_rows(source, 25)
    with pytest.raises(InputError, match=r"00002-shuffled\.shard is of other data"):
        shuffle_data(source, out, 25, 2, 1)


def test_a_damaged_source_is_named_and_nothing_is_said_to_be_whole(
    source: Manifest, tmp_path: Path
) -> None:
    path = source.folder / source.shards[2].name
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"00002-part-2\.txt\.shard is not the shard"):
        shuffle_data(source, tmp_path / "out", 24, 3, 2)
    assert not list((tmp_path / "out").glob("*.shard"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_disk_is_looked_at_before(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(prepare_data_shuffle_plan.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"has 0\.0 GB free and needs \d"):
        shuffle_data(source, tmp_path / "out", 24, 3, 1)
    assert not list(tmp_path.glob("out/**/*.shard"))


def test_numbers_of_shards_that_cannot_be(
    source: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=rf"from 1 .* to {source.examples} .* not 0"):
        shuffle_data(source, tmp_path / "out", 24, 0, 1)
    with pytest.raises(InputError, match=f"not {source.examples + 1}"):
        shuffle_data(source, tmp_path / "out", 24, source.examples + 1, 1)
    monkeypatch.setattr(prepare_data_shuffle_plan, "LARGEST_SHARD_BYTES", source.bytes // 5)
    with pytest.raises(InputError, match="must be from 6 "):
        shuffle_data(source, tmp_path / "out", 24, 5, 1)
    assert len(plan_shuffle(source, tmp_path, 24, None).shards) == 6
    assert not (tmp_path / "out").exists()


def test_one_call_at_a_time_and_never_into_the_source(source: Manifest, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="both input and output"):
        shuffle_data(source, source.folder, 24, 3, 1)
    (tmp_path / "out").mkdir()
    with lock_folder(tmp_path / "out"), pytest.raises(InputError, match="another call"):
        shuffle_data(source, tmp_path / "out", 24, 3, 1)
    assert verify_data(read_manifest(source.folder)) == []


def test_the_command(source: Manifest, tmp_path: Path) -> None:
    done = run("shuffle", source.folder, tmp_path / "out", "--shards", "4", "--workers", "2")
    assert f"{source.examples} examples" in done.stderr and "2nd pass" in done.stderr
    assert read_rows(read_manifest(tmp_path / "out")) == shuffle_rows(source, 24)
    for options in (["--seed", "-1"], ["--workers", "0"], ["--workers", "9999"]):
        with pytest.raises(InputError, match=options[0]):
            main(["shuffle", str(source.folder), str(tmp_path / "other"), *options])
    assert not (tmp_path / "other").exists()
