"""What a global shuffle makes of what, cut so that every piece fits into memory."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bert.manifest import Manifest, Shard, name_shard
from harness.commands import InputError

RUN_BYTES = 1 << 28
GROUP_BYTES = 1 << 28
LARGEST_SHARD_BYTES = 1 << 29
RUNS_FOLDER = ".runs"
SPARE_BYTES = 1 << 14  # of each file, for its description and the gaps between its sections


@dataclass(frozen=True)
class Stretch:
    """Rows first ... last - 1, and the file that holds them; bytes: about as large."""

    path: Path
    first: int
    last: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """What is made of what: runs of the source's rows, shards of the result's.

    shards_of_runs: for each run the number of its shard and the shard's first row in the source;
    groups: shards that are made together, as numbers (first, last + 1).
    """

    source: Manifest
    folder: Path
    seed: int
    runs: tuple[Stretch, ...]
    shards_of_runs: tuple[tuple[int, int], ...]
    shards: tuple[Stretch, ...]
    groups: tuple[tuple[int, int], ...]

    def describe_origin(self, kind: str, stretch: Stretch) -> dict[str, Any]:
        """Say what a run or shard is made of; two equal answers mean two equal files."""
        names = "\n".join(shard.sha256 for shard in self.source.shards)
        return {
            "settings": asdict(self.source.settings),
            "vocabulary": {
                "size": self.source.vocabulary_size,
                "md5": self.source.vocabulary_md5,
            },
            kind: {
                "seed": self.seed,
                "rows": [stretch.first, stretch.last],
                "source_examples": self.source.examples,
                "source_sha256": hashlib.sha256(names.encode()).hexdigest(),
            },
        }


def plan_shuffle(source: Manifest, folder: Path, seed: int, shards: int | None) -> Plan:
    """Cut source and result into stretches that fit into memory.

    shards: how many files to make; None for as many as the source has.

    Raises InputError where so few shards would be too large, or so many partly empty.
    """
    fewest = -(-source.bytes // LARGEST_SHARD_BYTES)
    if shards is None:
        shards = max(len(source.shards), fewest)
    if not fewest <= shards <= source.examples:
        raise InputError(
            f"--shards must be from {fewest} (a shard has at most "
            f"{LARGEST_SHARD_BYTES >> 20} MiB) to {source.examples} (an example each) for "
            f"{source.folder}, not {shards}"
        )
    runs, shards_of_runs, row = [], [], 0
    for number, shard in enumerate(source.shards):
        pieces = min(-(-shard.bytes // RUN_BYTES), shard.examples)
        edges = [row + shard.examples * piece // pieces for piece in range(pieces + 1)]
        for first, last in itertools.pairwise(edges):
            path = folder / RUNS_FOLDER / name_shard(len(runs), "run")
            runs.append(Stretch(path, first, last, shard.bytes * (last - first) // shard.examples))
            shards_of_runs.append((number, row))
        row += shard.examples
    made = plan_shards(source, folder, shards)
    group = max(1, GROUP_BYTES * shards // source.bytes)
    groups = [(first, min(first + group, shards)) for first in range(0, shards, group)]
    return Plan(
        source, folder, seed, tuple(runs), tuple(shards_of_runs), tuple(made), tuple(groups)
    )


def plan_shards(source: Manifest, folder: Path, shards: int) -> list[Stretch]:
    """Deal the rows to the shards: the first ones may have one row less than the others.

    With 4,320 shards these are the published ones (training_results_v4.0, NVIDIA, bert).
    """
    rows = -(-source.examples // shards)
    short = shards * rows - source.examples
    stretches, first = [], 0
    for number in range(shards):
        last = first + rows - (number < short)
        size = source.bytes * (last - first) // source.examples
        stretches.append(Stretch(folder / name_shard(number, "shuffled"), first, last, size))
        first = last
    return stretches


def check_disk(plan: Plan, runs: Sequence[Shard | None], shards: Sequence[Shard | None]) -> None:
    """Raise InputError unless what is still to be written fits onto the disk."""
    pairs = [*zip(plan.runs, runs, strict=True), *zip(plan.shards, shards, strict=True)]
    needed = sum(stretch.bytes + SPARE_BYTES for stretch, entry in pairs if entry is None)
    free = shutil.disk_usage(plan.folder).free
    if free < needed:
        raise InputError(
            f"{plan.folder} has {free / 1e9:.1f} GB free and needs {needed / 1e9:.1f} GB "
            "(twice the data set, half of it given back at the end): free some or name another one"
        )
