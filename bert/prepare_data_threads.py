"""Tasks done by some threads at a time: for work that lets go of the interpreter while it lasts.

Reading, writing, hashing and the compiled loops do; what is pure Python needs processes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

T = TypeVar("T")


def run_tasks(tasks: Sequence[Callable[[], T]], workers: int) -> Iterator[tuple[int, T]]:
    """Yield the number and the result of each task as it ends; at most `workers` run at a time.

    The first exception of a task is raised here; tasks that have not begun by then never begin.
    """
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(task): number for number, task in enumerate(tasks)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def run_in_order(tasks: Iterable[Callable[[], T]], workers: int) -> Iterator[T]:
    """Yield the result of each task in the order of the tasks; at most `workers` run at a time.

    At most twice as many results wait to be taken, so that memory is bounded. The first exception,
    in that order, is raised here; tasks that have not begun by then never begin.
    """
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(task))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
