"""The ring: batches in order, memory of its own reused, errors handed on, no thread left."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bert.batch_ring import BatchRing, Made
from bert.budget import NOT_LISTED, Budgets, plan_budgets
from bert.config import Config
from bert.examples import ExampleSettings
from bert.probe import fit_lengths, make_synthetic_sequences
from harness.config import load_config

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
CONFIG: Config = load_config(ROOT / "bert" / "configs" / "demo.toml", Config)
BUDGETS: Budgets = plan_budgets(
    4, 1, 30.0, ExampleSettings(max_seq_length=64, max_predictions_per_seq=10)
)


def make(tokens: int) -> Made:
    """Four sequences of so many tokens together, and their budget."""
    lengths = fit_lengths(np.full(4, 30), tokens, 64)
    number, budget = BUDGETS.choose(tokens, tokens)
    return make_synthetic_sequences(CONFIG, lengths), number, budget


def count(made: list[int], tokens: int = 120) -> Iterator[Made]:
    """Endless batches that note when they are made."""
    for number in itertools.count():
        made.append(number)
        yield make(tokens)


def wait_until(made: list[int], number: int) -> None:
    deadline = time.monotonic() + 600
    while len(made) < number:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(0.05)
    assert len(made) == number


def list_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "bert input"]


@pytest.mark.parametrize("slots", [2, 5])
def test_as_many_are_made_ahead_as_there_are_other_slots(slots: int) -> None:
    made: list[int] = []
    ring = BatchRing(slots, BUDGETS, CPU)
    ring.start(lambda: count(made))
    wait_until(made, slots)
    ring.next()  # one of them is in use, the others are ahead
    wait_until(made, slots)
    ring.next()
    wait_until(made, slots + 1)
    ring.close()
    assert list_threads() == []


def test_batches_come_in_order_out_of_the_same_memory() -> None:
    ring = BatchRing(3, BUDGETS, CPU)
    sizes = [60 + 7 * number % 90 for number in range(30)]
    ring.start(lambda: map(make, sizes))
    addresses = set()
    for size in sizes:
        batch, (flat, number, budget) = ring.next(), make(size)
        assert batch.budget == number and batch.shape == budget
        assert np.array_equal(batch.input_ids[:size], flat.input_ids)
        addresses.add(batch.storage.data_ptr())
    ring.close()
    assert len(addresses) == 3


def test_a_batch_in_use_is_not_written_over() -> None:
    ring = BatchRing(2, BUDGETS, CPU)
    ring.start(lambda: map(make, itertools.cycle([60, 150])))
    for _ in range(10):
        batch = ring.next()
        before = batch.storage.clone()
        time.sleep(0.005)
        assert torch.equal(batch.storage, before)
    ring.close()


def test_a_batch_larger_than_all_listed_finds_room() -> None:
    few = Budgets(4, BUDGETS.fillers, BUDGETS.spacing, BUDGETS.settings, BUDGETS.listed[:2])
    large = 256

    def make_large() -> Iterator[Made]:
        for tokens in (large, few.listed[0].tokens, large):
            number, budget = few.choose(tokens, tokens)
            yield make(tokens)[0], number, budget

    ring = BatchRing(1, few, CPU)
    ring.start(make_large)
    assert [ring.next().budget for _ in range(3)] == [NOT_LISTED, 0, NOT_LISTED]
    ring.close()


def test_an_error_comes_after_the_batches_before_it_and_stays() -> None:
    def fail() -> Iterator[Made]:
        yield make(100)
        yield make(100)
        raise MemoryError("no more")

    ring = BatchRing(4, BUDGETS, CPU)
    ring.start(fail)
    ring.next(), ring.next()
    for _ in range(2):
        with pytest.raises(MemoryError, match="no more"):
            ring.next()
    ring.close()
    assert list_threads() == []


def test_closing_is_possible_at_any_time() -> None:
    BatchRing(2, BUDGETS, CPU).close()  # never started
    ring = BatchRing(2, BUDGETS, CPU)
    ring.start(lambda: count([]))
    ring.close()
    ring.close()
    assert list_threads() == []
