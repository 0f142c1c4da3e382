"""BERT's input alone: the trainer's thread against DALI's parallel external source, same batches.

`python -m perf.bert_input` lets both make one rank's batches (96 of 3,072 sequences, filled up to
the budget, in one stretch of memory) from the same shards, which are in memory. The work of making
a batch is the same code; what differs is who runs it and how a batch gets to the step.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from nvidia.dali import fn
from nvidia.dali.pipeline import Pipeline

from bert.data import TrainingInput
from bert.shards import Manifest
from bert.static_batch import count_bytes, fill_arrays, view_arrays
from harness.commands import GOOD, Parser, run_command
from perf.bert_shards import make_shards
from perf.comparison import check_positive, read_cpu_seconds

RANKS, SEQUENCES, PREFETCH = 32, 96, 4
CPU = torch.device("cpu")
Next = Callable[[], int]


@dataclass(frozen=True)
class Rate:
    """One way of making batches: medians over the rounds."""

    name: str
    batches_per_second: float
    cpu_milliseconds: float


def make_input(manifest: Manifest) -> TrainingInput:
    """The input of rank 0."""
    return TrainingInput(manifest, 0, RANKS, SEQUENCES, 1, PREFETCH, CPU)


class Source:
    """What DALI's worker calls: the storage of the next batch, (bytes,) uint8."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.batches: Iterator | None = None

    def __call__(self, info: object) -> np.ndarray:
        if self.batches is None:
            self.batches = make_input(self.manifest)._make_batches()
        flat, _, budget = next(self.batches)
        storage = torch.empty(count_bytes(budget), dtype=torch.uint8)
        fill_arrays(flat, budget, view_arrays(storage, budget))
        return storage.numpy()


@contextmanager
def run_thread(manifest: Manifest) -> Iterator[Next]:
    """Ours: a thread and a ring of buffers."""
    training = make_input(manifest)
    training.open()
    yield lambda: training.next().shape.tokens
    training.close()


@contextmanager
def run_dali(manifest: Manifest) -> Iterator[Next]:
    """DALI: one worker process, shared memory, as many batches ahead."""
    pipeline = Pipeline(
        batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=PREFETCH,
        py_num_workers=1, py_start_method="fork",
    )  # fmt: skip
    with pipeline:
        pipeline.set_outputs(
            fn.external_source(
                source=Source(manifest), parallel=True, batch=False, prefetch_queue_depth=PREFETCH
            )
        )
    pipeline.build()
    yield lambda: len(pipeline.run()[0].at(0))


def read_children_cpu_seconds() -> float:
    """Processor seconds of this process's living children so far."""
    ticks = os.sysconf("SC_CLK_TCK")
    children: set[str] = set()
    for file in Path("/proc/self/task").glob("*/children"):
        children.update(file.read_text().split())
    seconds = 0.0
    for child in children:
        fields = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()
        seconds += (int(fields[11]) + int(fields[12])) / ticks
    return seconds


def measure(name: str, take: Next, batches: int, rounds: int) -> Rate:
    """Take batches as fast as they come; the first rounds' start is not counted."""
    for _ in range(2 * PREFETCH):
        take()
    rates, costs = [], []
    for _ in range(rounds):
        cpu = read_cpu_seconds() + read_children_cpu_seconds()
        start = time.perf_counter()
        for _ in range(batches):
            take()
        rates.append(batches / (time.perf_counter() - start))
        cpu = read_cpu_seconds() + read_children_cpu_seconds() - cpu
        costs.append(1000 * cpu / batches)
    return Rate(name, median(rates), median(costs))


def compare(manifest: Manifest, batches: int, rounds: int) -> list[Rate]:
    """Measure one after the other; DALI first, whose worker is forked from this process."""
    with run_dali(manifest) as take:
        dali = measure("DALI, parallel external source", take, batches, rounds)
    with run_thread(manifest) as take:
        ours = measure("thread and ring of buffers", take, batches, rounds)
    return [ours, dali]


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = Parser(prog="python -m perf.bert_input", description=__doc__)
    parser.add_argument("--examples", type=int, default=300_000, help="of the data set made here")
    parser.add_argument("--batches", type=int, default=200, help="batches a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    check_positive(options, "examples", "batches", "rounds")
    with tempfile.TemporaryDirectory() as folder:
        manifest = make_shards(Path(folder), options.examples, 20)
        rates = compare(manifest, options.batches, options.rounds)
    if options.json:
        print(json.dumps([asdict(rate) for rate in rates], indent=1))
        return GOOD
    for rate in rates:
        print(
            f"{rate.name:32}  {rate.batches_per_second:7.1f} batches/s, "
            f"{rate.cpu_milliseconds:6.2f} ms of CPU a batch of {SEQUENCES} sequences"
        )
    return GOOD


if __name__ == "__main__":
    run_command(main)
