"""The global shuffle: all examples of a data set in one random order, so that reading it straight
through yields examples of all texts.

Two passes. The first cuts the data set into runs and writes each with its examples in the order of
the result; the second makes the result's shards, for each of which every run holds one stretch.
All reading and writing is in long stretches, and memory is bounded by the size of a run and of a
group of shards, whatever the size of the data set. An interrupted call is continued by the same
call: runs and shards that are there, undamaged and of the same origin are kept.

Source of the order: the "global sample shuffle" of NVIDIA's submissions (training_results_v4.0,
bert input_preprocessing), whose first rows have a published digest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bert.manifest import (
    MANIFEST_NAME,
    Manifest,
    Shard,
    trace_origin,
    write_manifest,
)
from bert.permutation import Numbers, copy_records, count_sources, invert, make_permutation
from bert.prepare_data_parts import describe_shard, lock_folder
from bert.prepare_data_shuffle_plan import RUNS_FOLDER, Plan, Stretch, check_disk, plan_shuffle
from bert.prepare_data_threads import run_tasks
from bert.shard_file import (
    INDEX_ENTRY,
    Layout,
    count_numbers,
    find_layout,
    hash_content,
    read_description,
    read_examples,
    read_index,
    write_blocks,
)
from bert.shard_maker import find_shard
from harness.commands import InputError
from harness.progress import Progress

Offsets = npt.NDArray[np.int64]


def shuffle_data(
    source: Manifest, folder: Path, seed: int, shards: int | None, workers: int
) -> Manifest:
    """Write a data set's examples in the order of random.Random(seed).shuffle into a folder.

    Row j of the result is row p[j] of the source, p being list(range(examples)) after the shuffle.
    Memory: 8 bytes an example, and for each worker at most about 1 GiB. Disk: twice the source,
    half of it given back at the end. Raises InputError where the source is damaged, the folder
    holds other data or the disk is too small; OSError where a file cannot be written.
    """
    plan = plan_shuffle(source, folder, seed, shards)
    folder.mkdir(parents=True, exist_ok=True)
    if os.path.realpath(folder) == os.path.realpath(source.folder):
        raise InputError(f"{folder} is both input and output: name another folder for the output")
    with lock_folder(folder):
        clear_leftovers(plan)
        # A manifest stands only beside shards that are all there and all as it says.
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        kept = reuse_files(plan, "shuffled", plan.shards, workers)
        if None in kept:
            make_shards(plan, kept, workers)
        entries = tuple(shard for shard in kept if shard is not None)
        result = Manifest(
            folder,
            source.settings,
            source.vocabulary_size,
            source.vocabulary_md5,
            entries,
            trace_origin(source).add(f"shuffle {seed}"),
        )
        write_manifest(result)
        if (folder / RUNS_FOLDER).is_dir():
            shutil.rmtree(folder / RUNS_FOLDER)
    return result


def clear_leftovers(plan: Plan) -> None:
    """Clear what an interrupted call left half-written. Raises InputError for other data."""
    wanted = {stretch.path for stretch in (*plan.shards, *plan.runs)}
    for path in sorted([*plan.folder.glob("*.shard"), *plan.folder.glob(f"{RUNS_FOLDER}/*.shard")]):
        if path not in wanted:
            raise InputError(f"{path} is of other data: name an empty folder for the output")
    leftovers = (".*.shard.*.part", f".{MANIFEST_NAME}.*.part", f"{RUNS_FOLDER}/.*.shard.*.part")
    for leftover in leftovers:
        for path in plan.folder.glob(leftover):
            path.unlink()


def reuse_files(
    plan: Plan, kind: str, stretches: Sequence[Stretch], workers: int
) -> list[Shard | None]:
    """Return the entries of finished files of the same origin; None where one must be made."""
    kept: list[Shard | None] = [None] * len(stretches)
    tasks = [
        partial(find_shard, stretch.path, plan.describe_origin(kind, stretch))
        for stretch in stretches
    ]
    found = [stretch.bytes if stretch.path.exists() else 0 for stretch in stretches]
    progress, done = Progress("check what is there", sum(found) // 1000, "kB"), 0
    for number, description in run_tasks(tasks, workers):
        if description is not None:
            kept[number] = describe_shard(stretches[number].path, description)
        done += found[number]
        progress.update(done // 1000)
    progress.end()
    return kept


def make_shards(plan: Plan, kept: list[Shard | None], workers: int) -> None:
    """Make the shards that are None in `kept`, and fill in their entries."""
    (plan.folder / RUNS_FOLDER).mkdir(exist_ok=True)
    runs = reuse_files(plan, "run", plan.runs, workers)
    check_disk(plan, runs, kept)
    permutation = make_permutation(plan.source.examples, plan.seed)
    missing = [number for number, run in enumerate(runs) if run is None]
    if missing:
        places = invert(permutation)
        tasks = [partial(make_run, plan, number, places) for number in missing]
        size = sum(plan.runs[number].bytes for number in missing)
        work_through("shuffle, 1st pass of 2", tasks, size, workers)
        del tasks, places  # 4 bytes an example that the second pass does without
    merge = plan_merge(plan, permutation, kept)
    wanted = [g for g, (first, last) in enumerate(plan.groups) if None in kept[first:last]]
    size = sum(shard.bytes for shard, entry in zip(plan.shards, kept, strict=True) if entry is None)
    tasks = [partial(merge.make_group, group) for group in wanted]
    work_through("shuffle, 2nd pass of 2", tasks, size, workers)


def work_through(
    label: str, tasks: Sequence[Callable[[], int]], size_bytes: int, workers: int
) -> None:
    """Do tasks that return how many of `size_bytes` bytes each was, and show how far it is."""
    progress, done = Progress(label, size_bytes // 1000, "kB"), 0
    for finished, (_, size) in enumerate(run_tasks(tasks, workers), 1):
        done += size
        progress.update(done // 1000, f"{finished}/{len(tasks)} tasks")
    progress.finish(done // 1000)


def plan_merge(plan: Plan, permutation: Numbers, kept: list[Shard | None]) -> Merge:
    """Find which rows of which run every group of shards consists of."""
    ends = np.asarray([run.last for run in plan.runs], dtype=np.int64)
    edges = [plan.shards[first].first for first, _ in plan.groups] + [plan.source.examples]
    counts = count_sources(permutation, np.asarray(edges, dtype=np.int64), ends)
    return Merge(plan, permutation, ends, np.cumsum(counts, axis=0) - counts, counts, kept)


def make_run(plan: Plan, number: int, places: Numbers) -> int:
    """Write one run: its rows in the order of their places in the result. Returns its bytes."""
    run, (shard_number, shard_row) = plan.runs[number], plan.shards_of_runs[number]
    shard = plan.source.shards[shard_number]
    path = plan.source.folder / shard.name
    description, start = read_description(path)
    whole = description["sha256"] == shard.sha256 and description["examples"] == shard.examples
    # Of several runs of one shard the first looks at all of it.
    if whole and run.first == shard_row:
        whole = hash_content(path, start) == shard.sha256
    if not whole:
        raise InputError(
            f"{path} is not the shard that {MANIFEST_NAME} names: delete it and run the same "
            "create again"
        )
    layout = find_layout(path, description, start)
    index, records = read_examples(layout, run.first - shard_row, run.last - shard_row)
    order = np.argsort(places[run.first : run.last])
    starts = (index["start"] - index["start"][0]).astype(np.int64)[order]
    index = index[order]
    lengths = count_numbers(index)
    index["start"] = np.cumsum(lengths) - lengths
    sorted_records = np.empty_like(records)
    copy_records(records, starts, lengths, sorted_records, index["start"].astype(np.int64))
    del records
    write_blocks(run.path, index, [sorted_records], plan.describe_origin("run", run))
    return run.bytes


@dataclass(frozen=True)
class Merge:
    """The second pass; offsets, counts (groups, runs): which rows of a run a group consists of.

    kept: the entries of the shards, None where one must be made; filled in as they are.
    """

    plan: Plan
    permutation: Numbers
    ends: Offsets
    offsets: Offsets
    counts: Offsets
    kept: list[Shard | None]

    def make_group(self, group: int) -> int:
        """Write the shards of one group that are not there. Returns their bytes."""
        first, last = self.plan.groups[group]
        stretches = self.plan.shards[first:last]
        begin = stretches[0].first
        index, records = self._gather(group, begin, stretches[-1].last)
        made = 0
        for number, stretch in enumerate(stretches, first):
            if self.kept[number] is not None:
                continue
            part = index[stretch.first - begin : stretch.last - begin].copy()
            low = int(part["start"][0])
            high = int(part["start"][-1]) + int(count_numbers(part[-1:])[0])
            part["start"] -= part["start"][0]
            origin = self.plan.describe_origin("shuffled", stretch)
            description = write_blocks(stretch.path, part, [records[low:high]], origin)
            self.kept[number] = describe_shard(stretch.path, description)
            made += stretch.bytes
        return made

    def _gather(
        self, group: int, first: int, last: int
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return index and records of rows first ... last - 1 of the result."""
        sources = np.searchsorted(self.ends, self.permutation[first:last], side="right")
        order = np.argsort(sources, kind="stable")  # rows by run, in each run as they stand there
        stretches = [
            (self._find_run(run), int(self.offsets[group, run]), int(self.counts[group, run]))
            for run in np.flatnonzero(self.counts[group]).tolist()
        ]
        index = np.empty(last - first, INDEX_ENTRY)
        index[order] = np.concatenate(
            [read_index(layout, offset, offset + count) for layout, offset, count in stretches]
        )
        lengths = count_numbers(index)
        starts = np.cumsum(lengths) - lengths
        records = np.empty(int(lengths.sum()), stretches[0][0].item)
        done = 0
        for layout, offset, count in stretches:
            part, numbers = read_examples(layout, offset, offset + count)
            rows, done = order[done : done + count], done + count
            if layout.item != records.dtype or not np.array_equal(
                count_numbers(part), lengths[rows]
            ):
                raise InputError(
                    f"{layout.path} does not fit the other runs: delete its folder and run the "
                    "same shuffle again"
                )
            begins = (part["start"] - part["start"][0]).astype(np.int64)
            copy_records(numbers, begins, lengths[rows], records, starts[rows])
        index["start"] = starts
        return index, records

    def _find_run(self, number: int) -> Layout:
        path = self.plan.runs[number].path
        return find_layout(path, *read_description(path))
