"""Tasks by threads: in order or as they end, the first failure raised, a bounded number waiting."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from bert.prepare_data_threads import run_in_order, run_tasks


def make_task(number: int) -> Callable[[], int]:
    def task() -> int:
        if number == 13:
            raise ValueError("13")
        return number

    return task


@pytest.mark.parametrize("workers", [1, 4])
def test_results_come_in_order(workers: int) -> None:
    later, numbers = threading.Event(), []

    def wait_for_the_next() -> int:
        assert workers == 1 or later.wait(600)
        return 0

    def go_on() -> int:
        later.set()
        return 1

    tasks = [wait_for_the_next, go_on, *(make_task(number) for number in range(2, 12))]
    for number in run_in_order(tasks, workers):
        numbers.append(number)
    assert numbers == list(range(12))


def test_tasks_are_taken_as_results_are() -> None:
    taken = []

    def give_tasks() -> Iterator[Callable[[], int]]:
        for number in range(12):
            taken.append(number)
            yield make_task(number)

    results = run_in_order(give_tasks(), 2)
    assert next(results) == 0 and len(taken) == 5
    assert next(results) == 1 and len(taken) == 6
    assert list(results) == list(range(2, 12))


@pytest.mark.parametrize("workers", [1, 4])
def test_a_failure_is_raised_in_its_place(workers: int) -> None:
    results, numbers = run_in_order(map(make_task, range(20)), workers), []
    with pytest.raises(ValueError, match="13"):
        for number in results:
            numbers.append(number)
    assert numbers == list(range(13))


def test_results_come_with_their_numbers() -> None:
    tasks = [make_task(number) for number in range(12)]
    assert sorted(run_tasks(tasks, 3)) == [(number, number) for number in range(12)]
    with pytest.raises(ValueError, match="13"):
        list(run_tasks([make_task(13)], 3))
