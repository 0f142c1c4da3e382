"""BERT's inputs: each sample once a pass over all ranks, nothing touched early, no thread left."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bert.data import EvaluationInput, TrainingInput, make_batch
from bert.model import Batch
from bert.shards import FlatBatch, Manifest, ShardSet, read_manifest
from harness.commands import InputError

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


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def check_equal(batch: Batch, flat: FlatBatch) -> None:
    """A batch holds exactly the flat arrays, in the types that the model takes."""
    for name in ("input_ids", "segment_ids", "position_ids", "cu_seqlens", "masked_positions",
                 "masked_ids", "next_sentence_labels"):  # fmt: skip
        tensor, array = getattr(batch, name), getattr(flat, name)
        assert np.array_equal(tensor.numpy(), array), name
        assert tensor.dtype == (torch.int32 if name == "cu_seqlens" else torch.int64)
    assert batch.longest_sequence == int(np.diff(flat.cu_seqlens).max())


@pytest.mark.parametrize(("world_size", "local_batch"), [(1, 4), (3, 2), (4, 16), (5, 7)])
def test_each_sample_once_a_pass_over_all_ranks(
    manifest: Manifest, world_size: int, local_batch: int
) -> None:
    inputs = [make_input(manifest, rank, world_size, local_batch) for rank in range(world_size)]
    samples, passes = manifest.examples, 3
    steps = -(-passes * samples // (world_size * local_batch))
    order = np.concatenate([part.indices(m) for m in range(steps) for part in inputs])
    firsts = []
    for number in range(passes):
        one_pass = order[number * samples : (number + 1) * samples]
        assert sorted(one_pass) == list(range(samples))
        firsts.append(one_pass.tolist())
    assert firsts[0] != firsts[1] != firsts[2] != firsts[0]
    assert max(Counter(order.tolist()).values()) <= passes + 1


def test_batches_are_the_shards_samples_in_that_order(manifest: Manifest) -> None:
    for rank in range(3):
        training, order = make_input(manifest, rank, 3), make_input(manifest, rank, 3)
        training.open()
        with ShardSet.open(manifest) as shards:
            # Past the end of the first pass, where a batch goes across both.
            for micro_batch in range(manifest.examples // 12 + 3):
                check_equal(training.next(), shards.gather(order.indices(micro_batch)))
        training.close()


def test_the_seed_decides_the_order(manifest: Manifest) -> None:
    one = TrainingInput(manifest, 0, 1, 16, 1, 2, CPU)
    same = TrainingInput(manifest, 0, 1, 16, 1, 2, CPU)
    other = TrainingInput(manifest, 0, 1, 16, 2, 2, CPU)
    first = one.indices(0)
    assert np.array_equal(first, same.indices(0))
    assert not np.array_equal(first, other.indices(0))


def test_nothing_is_opened_before_open(removable: Manifest) -> None:
    threads = threading.active_count()
    training = make_input(removable)
    evaluation = EvaluationInput(removable, 0, 1, 8, CPU)
    training.indices(0)
    assert list_open_shards(removable) == set()
    assert threading.active_count() == threads
    training.open()
    training.next()
    assert list_open_shards(removable) != set()
    training.close()
    assert next(evaluation.epoch()).cu_seqlens.numel() == 9


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

    def gather_or_fail(shards: ShardSet, numbers: Any) -> FlatBatch:
        done["batches"] += 1
        if done["batches"] > batches:
            raise error
        return gather(shards, numbers)

    monkeypatch.setattr(ShardSet, "gather", gather_or_fail)


@pytest.mark.parametrize("error", [InputError("shard 3 is broken"), MemoryError("no more")])
def test_an_error_in_the_thread_reaches_next(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    fail_after(3, error, monkeypatch)
    training = make_input(manifest)
    training.open()
    for _ in range(3):
        assert training.next().cu_seqlens.numel() == 5
    with pytest.raises(type(error), match=str(error)):
        training.next()
    training.close()


def list_input_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "_make_batches" in thread.name]


def test_close_ends_the_thread(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    training = make_input(manifest)
    training.open()
    wait_for(training._ready.full)  # it now waits for room in the queue
    assert len(list_input_threads()) == 1
    training.close()
    assert list_input_threads() == []
    training.close()  # again: nothing happens

    opened = make_input(manifest)
    opened.open()
    opened.next()
    opened.close()
    assert list_input_threads() == []

    make_input(manifest).close()  # never opened

    fail_after(0, InputError("broken"), monkeypatch)
    failed = make_input(manifest)
    failed.open()
    failed.close()
    assert list_input_threads() == []


@pytest.mark.parametrize("prefetch", [1, 3])
def test_no_more_batches_are_made_ahead_than_asked_for(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, prefetch: int
) -> None:
    made: list[int] = []
    gather = ShardSet.gather
    monkeypatch.setattr(
        ShardSet, "gather", lambda shards, numbers: (made.append(1), gather(shards, numbers))[1]
    )
    training = make_input(manifest, prefetch=prefetch)
    training.open()
    for taken in range(3):
        # `prefetch` wait in the queue, one more in the thread's hand.
        wait_for(lambda taken=taken: len(made) == taken + prefetch + 1)
        time.sleep(0.05)
        assert len(made) == taken + prefetch + 1
        training.next()
    training.close()


@pytest.mark.parametrize(("world_size", "local_batch"), [(1, 8), (3, 4), (4, 64), (7, 5)])
def test_evaluation_gives_each_sample_to_one_rank(
    small_data: Path, world_size: int, local_batch: int
) -> None:
    manifest = read_manifest(small_data / "bert" / "eval")
    inputs = [
        EvaluationInput(manifest, rank, world_size, local_batch, CPU) for rank in range(world_size)
    ]
    stretches = [range(part.first, part.last) for part in inputs]
    assert [number for stretch in stretches for number in stretch] == list(range(manifest.examples))
    counts = [len(stretch) for stretch in stretches]
    assert max(counts) - min(counts) <= 1 and counts == sorted(counts, reverse=True)
    with ShardSet.open(manifest) as shards:
        for part, stretch in zip(inputs, stretches, strict=True):
            first = stretch.start
            for batch in part.epoch():
                count = batch.next_sentence_labels.numel()
                assert count == min(local_batch, stretch.stop - first)
                check_equal(batch, shards.gather(np.arange(first, first + count)))
                first += count
            assert first == stretch.stop


def test_more_ranks_than_samples_leave_some_without(small_data: Path) -> None:
    manifest = read_manifest(small_data / "bert" / "eval")
    world_size = manifest.examples + 2
    inputs = [EvaluationInput(manifest, rank, world_size, 4, CPU) for rank in range(world_size)]
    assert [part.last - part.first for part in inputs] == [1] * manifest.examples + [0, 0]
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
    assert sum(b.next_sentence_labels.numel() for b in batches) == removable.examples


def test_a_batch_counts_the_longest_sequence_itself() -> None:
    flat = FlatBatch(
        input_ids=np.arange(7),
        segment_ids=np.zeros(7, np.int64),
        position_ids=np.array([0, 1, 0, 1, 2, 3, 0]),
        cu_seqlens=np.array([0, 2, 6, 7], np.int32),
        masked_positions=np.array([1, 6]),
        masked_ids=np.array([5, 9]),
        masked_counts=np.array([1, 0, 1], np.int32),
        next_sentence_labels=np.array([0, 1, 1]),
    )
    batch = make_batch(flat, CPU)
    assert batch.longest_sequence == 4
    check_equal(batch, flat)
