"""What an order of samples costs to read: by windows, against one shuffle of all samples.

`python -m perf.bert_order` makes a data set, lets the system forget it, and reads what the ranks of
one node need of every step: with ours the lengths of all the step's sequences and the node's own
samples, with the peer (one permutation of all samples) the node's own samples alone.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bert.balance import share_out
from bert.order import SampleOrder
from bert.sample_reader import SampleReader
from bert.shards import Manifest, ShardSet
from harness.commands import GOOD, InputError, Parser, run_command
from perf.bert_shards import drop_pages, make_shards
from perf.comparison import check_positive, read_cpu_seconds

RANKS, NODE_RANKS, SEQUENCES = 32, 8, 96
WIKIPEDIA_SAMPLES = 156_726_829


@dataclass(frozen=True)
class Reading:
    """What was read for one node: per sample of its own, and until the first rank's first batch."""

    order: str
    samples: int
    cpu_microseconds: float
    wall_microseconds: float
    bytes_read: float
    first_batch_seconds: float
    order_seconds: float
    order_megabytes: float


def read_disk_bytes() -> int:
    """Bytes that this process has had read from a disk. Raises InputError where it is not told."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError as error:
        raise InputError(f"this system does not tell what is read: {error}") from None
    (line,) = (line for line in lines if line.startswith("read_bytes:"))
    return int(line.split()[1])


def read_by_windows(manifest: Manifest) -> Iterator[int]:
    """Read the batches of the node's ranks in turn, by the trainer's order."""
    shards = ShardSet.open(manifest)
    reader = SampleReader(shards, SampleOrder(manifest.examples, 1))
    position = 0
    while True:
        numbers, entries = reader.look_up(position, RANKS * SEQUENCES)
        shares = share_out(entries["tokens"].astype(np.int64), RANKS)
        for share in shares[:NODE_RANKS]:
            shards.gather(numbers[share], entries[share])
            yield len(share)
        position += RANKS * SEQUENCES


def shuffle_all(samples: int) -> np.ndarray:
    """One permutation of all samples, (samples,) uint32."""
    numbers = np.arange(samples, dtype=np.uint32)
    np.random.Generator(np.random.PCG64(1)).shuffle(numbers)
    return numbers


def read_shuffled(manifest: Manifest) -> Iterator[int]:
    """Read the batches of the node's ranks in turn, by one permutation of all samples."""
    shards = ShardSet.open(manifest)
    numbers = shuffle_all(manifest.examples).astype(np.int64)
    for first in range(0, manifest.examples, RANKS * SEQUENCES):
        for rank in range(NODE_RANKS):
            start = first + rank * SEQUENCES
            shards.gather(numbers[start : start + SEQUENCES])
            yield SEQUENCES


def measure(
    name: str,
    manifest: Manifest,
    steps: int,
    read: Callable[[Manifest], Iterator[int]],
    order: Callable[[], int],
) -> Reading:
    """Read `steps` steps with nothing in memory; `order` makes Wikipedia's and tells its bytes."""
    drop_pages(manifest)
    batches = read(manifest)
    bytes_before, cpu, start = read_disk_bytes(), read_cpu_seconds(), time.perf_counter()
    samples = next(batches)
    first = time.perf_counter() - start
    samples += sum(next(batches) for _ in range(steps * NODE_RANKS - 1))
    wall, cpu = time.perf_counter() - start, read_cpu_seconds() - cpu
    bytes_read = read_disk_bytes() - bytes_before
    begin = time.perf_counter()
    size = order()
    return Reading(
        name, samples, 1e6 * cpu / samples, 1e6 * wall / samples, bytes_read / samples, first,
        time.perf_counter() - begin, size / 1e6,
    )  # fmt: skip


def make_windows() -> int:
    """Make Wikipedia's first window; return the bytes that two windows, as are held, take."""
    window = SampleOrder(WIKIPEDIA_SAMPLES, 1).window(0)
    entries = 16 * len(window.places)
    return 2 * (window.places.nbytes + window.samples.nbytes + entries)


def compare(manifest: Manifest, steps: int) -> list[Reading]:
    """Measure both orders on one data set."""
    return [
        measure("by windows", manifest, steps, read_by_windows, make_windows),
        measure(
            "one shuffle of all", manifest, steps, read_shuffled,
            lambda: shuffle_all(WIKIPEDIA_SAMPLES).nbytes,
        ),
    ]  # fmt: skip


def show(readings: list[Reading]) -> None:
    """Print a table."""
    for reading in readings:
        print(
            f"{reading.order:18}  {reading.cpu_microseconds:6.1f} us CPU, "
            f"{reading.wall_microseconds:7.1f} us wall, {reading.bytes_read:7.0f} bytes read a "
            f"sample of {reading.samples:,}; first batch after {reading.first_batch_seconds:.3f} s;"
            f" order of Wikipedia {reading.order_seconds:.3f} s, {reading.order_megabytes:.1f} MB"
        )


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = Parser(prog="python -m perf.bert_order", description=__doc__)
    parser.add_argument("--examples", type=int, default=800_000, help="of the data set made here")
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--steps", type=int, default=85, help="global batches of 3072")
    parser.add_argument("--folder", type=Path, help="where to make it (default: a temporary one)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    check_positive(options, "examples", "shards", "steps")
    if options.examples < options.steps * RANKS * SEQUENCES:
        raise InputError(
            f"--examples {options.examples} are not enough for --steps {options.steps}"
        )
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        readings = compare(
            make_shards(Path(folder), options.examples, options.shards), options.steps
        )
    if options.json:
        print(json.dumps([asdict(reading) for reading in readings], indent=1))
    else:
        show(readings)
    return GOOD


if __name__ == "__main__":
    run_command(main)
