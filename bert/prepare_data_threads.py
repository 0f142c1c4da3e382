"""Tasks done by some threads at a time: for work that lets go of the interpreter while it lasts.

Reading, writing, hashing and the compiled loops do; what is pure Python needs processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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
