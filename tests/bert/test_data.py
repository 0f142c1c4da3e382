"""BERT's inputs: each sample once a pass over all ranks, nothing touched early, no thread left."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bert.budget import NOT_LISTED, Budget
from bert.config import Config
from bert.data import EvaluationInput, TrainingInput
from bert.model import Batch
from bert.order import SampleOrder
from bert.probe import make_synthetic_batches
from bert.shards import FlatBatch, Manifest, ShardSet, read_manifest
from bert.static_batch import StaticBatch, make_static_batch
from harness.commands import InputError
from harness.config import load_config
from perf.bert_shards import make_shards

ROOT = Path(__file__).resolve().parents[2]

CPU = torch.device("cpu")


@pytest.fixture
def manifest(small_data: Path) -> Manifest:
    return read_manifest(small_data / "bert" / "train")


@pytest.fixture
def removable(small_data: Path, tmp_path: Path) -> Manifest:
    """A copy of the data that a test may damage."""
    shutil.copytree(small_data / "bert" / "train", tmp_path / "train")
    return read_manifest(tmp_path / "train")


def make_input(
    manifest: Manifest, rank: int = 0, world_size: int = 1, local_batch: int = 4, prefetch: int = 2
) -> TrainingInput:
    return TrainingInput(manifest, rank, world_size, local_batch, 5, prefetch, CPU)


def list_open_shards(manifest: Manifest) -> set[str]:
    """The data set's shards that this process has mapped."""
    maps = Path("/proc/self/maps").read_text()
    paths = [str(manifest.folder / shard.name) for shard in manifest.shards]
    return {path for path in paths if path in maps}


def check_same(batch: StaticBatch, other: StaticBatch) -> None:
    """Two batches hold the same, whatever lies between their arrays."""
    assert (batch.budget, batch.shape) == (other.budget, other.shape)
    for field in fields(Batch):
        one, two = getattr(batch, field.name), getattr(other, field.name)
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(two)), field.name


def count_sequences(batch: Batch) -> int:
    """How many sequences of a batch are real."""
    return int((batch.next_sentence_labels >= 0).sum())


def cut_sequences(batch: Batch) -> list[bytes]:
    """The real sequences of a batch, each with what is to be predicted of it, as bytes."""
    ends = batch.cu_seqlens.tolist()
    found = []
    for number in range(count_sequences(batch)):
        low, high = ends[number], ends[number + 1]
        asked = (batch.masked_positions >= low) & (batch.masked_positions < high)
        asked &= batch.masked_ids >= 0
        parts = [batch.input_ids[low:high], batch.segment_ids[low:high]]
        parts += [batch.masked_positions[asked] - low, batch.masked_ids[asked]]
        parts.append(batch.next_sentence_labels[number : number + 1])
        found.append(b"/".join(part.numpy().tobytes() for part in parts))
    return found


def cut_samples(shards: ShardSet, numbers: np.ndarray) -> list[bytes]:
    """The same of samples, each read alone."""
    whole = Budget(64, 16, 1, 64)
    return [
        text
        for number in numbers.tolist()
        for flat in [shards.gather([number])]
        for text in cut_sequences(
            make_static_batch(flat, 0, replace(whole, tokens=len(flat.input_ids)), CPU)
        )
    ]


@pytest.mark.parametrize(("world_size", "local_batch"), [(1, 64), (2, 32), (4, 16)])
def test_the_ranks_batches_are_the_steps_samples_whatever_the_number_of_ranks(
    manifest: Manifest, world_size: int, local_batch: int
) -> None:
    """1, 2 and 4 ranks: the union of a step is the order's, each datum once a pass."""
    inputs = [make_input(manifest, rank, world_size, local_batch) for rank in range(world_size)]
    order = SampleOrder(manifest.examples, 5)
    for part in inputs:
        part.open()
    seen: list[bytes] = []
    with ShardSet.open(manifest) as shards:
        # Past the end of the first pass, where a step goes across both.
        for step in range(manifest.examples // 64 + 2):
            batches = [part.next() for part in inputs]
            assert [count_sequences(batch) for batch in batches] == [local_batch] * world_size
            assert len({batch.budget for batch in batches}) == 1  # all ranks, the same shape
            found = [text for batch in batches for text in cut_sequences(batch)]
            assert sorted(found) == sorted(cut_samples(shards, order(64 * step, 64)))
            seen += found
            tokens = [int(batch.cu_seqlens[local_batch]) for batch in batches]
            assert max(tokens) - min(tokens) <= 32
        every = Counter(cut_samples(shards, np.arange(manifest.examples)))
    assert not every - Counter(seen)
    for part in inputs:
        part.close()


def test_the_same_seed_gives_the_same_batches(manifest: Manifest) -> None:
    one, same = make_input(manifest, 1, 3), make_input(manifest, 1, 3)
    one.open(), same.open()
    for _ in range(10):
        check_same(one.next(), same.next())
    one.close(), same.close()


def test_batches_can_be_copied_where_a_graph_reads_them(manifest: Manifest) -> None:
    config = load_config(ROOT / "bert" / "configs" / "demo.toml", Config)
    one, same = make_input(manifest, 0, 1, 16), make_input(manifest, 0, 1, 16)
    targets = make_synthetic_batches(config, one.budgets, CPU)
    addresses = [target.storage.data_ptr() for target in targets]
    one.open(), same.open()
    for _ in range(20):
        batch, wanted = one.next_into(targets), same.next()
        assert batch is targets[wanted.budget]
        check_same(batch, wanted)
    assert [target.storage.data_ptr() for target in targets] == addresses
    with pytest.raises(ValueError, match="one static batch for each"):
        one.next_into(targets[1:])
    one.close(), same.close()


def test_a_batch_of_no_listed_budget_is_given_as_it_is(manifest: Manifest) -> None:
    training = make_input(manifest, 0, 1, 16)
    config = load_config(ROOT / "bert" / "configs" / "demo.toml", Config)
    listed = training.budgets.listed[-1:]  # far too large for any batch of these
    training.budgets = replace(training.budgets, listed=listed, fillers=0)
    targets = make_synthetic_batches(config, training.budgets, CPU)
    training.open()
    batch = training.next_into(targets)
    assert batch.budget == NOT_LISTED and batch is not targets[0]
    assert count_sequences(batch) == 16
    training.close()


def test_more_masked_tokens_than_the_settings_allow_are_refused(manifest: Manifest) -> None:
    settings = replace(manifest.settings, masked_lm_prob=0.0)
    training = TrainingInput(replace(manifest, settings=settings), 0, 1, 16, 5, 2, CPU)
    training.open()
    with pytest.raises(InputError, match=r"the masked_lm_prob 0\.0 of its manifest"):
        training.next()
    training.close()


def test_the_seed_decides_the_order(manifest: Manifest) -> None:
    first = SampleOrder(manifest.examples, 1)(0, 16)
    one, other = (TrainingInput(manifest, 0, 1, 16, seed, 2, CPU) for seed in (1, 2))
    assert np.array_equal(first, one.order(0, 16))
    assert not np.array_equal(first, other.order(0, 16))


def test_nothing_is_opened_before_open(removable: Manifest) -> None:
    threads = threading.active_count()
    training = make_input(removable)
    evaluation = EvaluationInput(removable, 0, 1, 8, CPU)
    training.order(0, 4)
    assert list_open_shards(removable) == set()
    assert threading.active_count() == threads
    training.open()
    training.next()
    assert list_open_shards(removable) != set()
    training.close()
    assert count_sequences(next(evaluation.epoch())) in (7, 8)


def test_data_that_vanishes_is_told_where_the_batch_is_asked_for(removable: Manifest) -> None:
    training = make_input(removable)
    for shard in removable.shards:
        (removable.folder / shard.name).unlink()
    training.open()
    with pytest.raises((InputError, OSError)) as caught:
        training.next()
    assert removable.shards[0].name in str(caught.value)
    training.close()


def fail_after(batches: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reading fail after some batches."""
    gather, done = ShardSet.gather, Counter[str]()

    def gather_or_fail(shards: ShardSet, *asked: Any) -> FlatBatch:
        done["batches"] += 1
        if done["batches"] > batches:
            raise error
        return gather(shards, *asked)

    monkeypatch.setattr(ShardSet, "gather", gather_or_fail)


@pytest.mark.parametrize("error", [InputError("shard 3 is broken"), MemoryError("no more")])
def test_an_error_in_the_thread_reaches_next(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    fail_after(3, error, monkeypatch)
    training = make_input(manifest)
    training.open()
    for _ in range(3):
        assert count_sequences(training.next()) == 4
    with pytest.raises(type(error), match=str(error)):
        training.next()
    training.close()


def test_close_ends_the_thread(manifest: Manifest) -> None:
    threads = threading.active_count()
    for batches in (0, 1):
        training = make_input(manifest)
        training.open()
        for _ in range(batches):
            training.next()
        training.close()
        training.close()  # again: nothing happens
        assert threading.active_count() == threads
    make_input(manifest).close()  # never opened


@pytest.mark.parametrize(("world_size", "local_batch"), [(1, 8), (3, 4), (4, 64), (7, 5)])
def test_evaluation_gives_each_sample_to_one_rank(
    small_data: Path, world_size: int, local_batch: int
) -> None:
    manifest = read_manifest(small_data / "bert" / "eval")
    inputs = [
        EvaluationInput(manifest, rank, world_size, local_batch, CPU) for rank in range(world_size)
    ]
    batches = [list(part.epoch()) for part in inputs]
    counts = [sum(map(count_sequences, part)) for part in batches]
    assert sum(counts) == manifest.examples
    assert max(counts) - min(counts) <= 1 and counts == sorted(counts, reverse=True)
    assert max(count_sequences(batch) for part in batches for batch in part) <= local_batch
    with ShardSet.open(manifest) as shards:
        wanted = cut_samples(shards, np.arange(manifest.examples))
    found = [text for part in batches for batch in part for text in cut_sequences(batch)]
    assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("world_size", [16, 32])
def test_ten_thousand_samples_have_one_shape_and_ragged_ranks(
    tmp_path: Path, world_size: int
) -> None:
    manifest = make_shards(tmp_path, 10_000, 1)
    inputs = [EvaluationInput(manifest, rank, world_size, 157, CPU) for rank in range(world_size)]
    seen = 0
    for part in inputs:
        batches = list(part.epoch())
        assert {batch.budget for batch in batches} == {0}
        assert len({batch.storage.numel() for batch in batches}) == 1
        count = sum(map(count_sequences, batches))
        assert count in ({625} if world_size == 16 else {312, 313})
        seen += count
    assert seen == 10_000
    (budget,) = inputs[0].budgets.listed
    assert budget.tokens * len(batches) * world_size / manifest.tokens < 1.01


def test_more_ranks_than_samples_leave_some_without(small_data: Path) -> None:
    manifest = read_manifest(small_data / "bert" / "eval")
    world_size = manifest.examples + 2
    inputs = [EvaluationInput(manifest, rank, world_size, 4, CPU) for rank in range(world_size)]
    counts = [sum(map(count_sequences, part.epoch())) for part in inputs]
    assert counts == [1] * manifest.examples + [0, 0]
    assert list(inputs[-1].epoch()) == []


def test_the_second_evaluation_reads_nothing(
    removable: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = EvaluationInput(removable, 1, 2, 8, CPU)
    first = list(evaluation.epoch())
    assert len(first) > 1
    for shard in removable.shards:
        (removable.folder / shard.name).unlink()
    fail_after(0, AssertionError("read again"), monkeypatch)
    monkeypatch.setattr(ShardSet, "open", lambda manifest: pytest.fail("opened again"))
    second = list(evaluation.epoch())
    assert [id(batch) for batch in second] == [id(batch) for batch in first]


def test_an_evaluation_that_fails_half_way_is_not_taken_for_whole(
    removable: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = EvaluationInput(removable, 0, 1, 8, CPU)
    with monkeypatch.context() as patch:
        fail_after(1, InputError("broken"), patch)
        with pytest.raises(InputError, match="broken"):
            list(evaluation.epoch())
    batches = list(evaluation.epoch())
    assert sum(map(count_sequences, batches)) == removable.examples
