"""All examples of a data set, numbered through, read a sample at a time."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bert.manifest import (
    MANIFEST_NAME,
    Manifest,
    Shard,
    check_size,
    name_shard,
    read_manifest,
    write_manifest,
)
from bert.shard_file import ShardFile, read_index
from harness.commands import InputError

__all__ = [
    "MANIFEST_NAME",
    "FlatBatch",
    "Manifest",
    "Sample",
    "Shard",
    "ShardSet",
    "allow_open_files",
    "check_size",
    "count_up",
    "name_shard",
    "read_manifest",
    "write_manifest",
]

SPARE_FILES = 256
OPENING_THREADS = 16  # opening a file is waiting for the disk


class Sample(NamedTuple):
    """One example, un-padded: input_ids, segment_ids (L,); masked_* (M,); all int64."""

    input_ids: npt.NDArray[np.int64]
    segment_ids: npt.NDArray[np.int64]
    masked_lm_positions: npt.NDArray[np.int64]
    masked_lm_ids: npt.NDArray[np.int64]
    next_sentence_label: int


class FlatBatch(NamedTuple):
    """Examples one after the other, un-padded: T tokens, B sequences, M masked tokens.

    input_ids, segment_ids, position_ids: (T,) int64; cu_seqlens: (B + 1,) int32, where each
    sequence begins, then T; masked_positions: (M,) int64 indices into the T tokens; masked_ids:
    (M,) int64; masked_counts: (B,) int32; next_sentence_labels: (B,) int64, 1 = random second half.
    """

    input_ids: npt.NDArray[np.int64]
    segment_ids: npt.NDArray[np.int64]
    position_ids: npt.NDArray[np.int64]
    cu_seqlens: npt.NDArray[np.int32]
    masked_positions: npt.NDArray[np.int64]
    masked_ids: npt.NDArray[np.int64]
    masked_counts: npt.NDArray[np.int32]
    next_sentence_labels: npt.NDArray[np.int64]


def count_up(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For lengths n, m, ... return 0..n-1, 0..m-1, ... as one flat array."""
    ends = np.cumsum(lengths)
    return np.arange(int(ends[-1])) - np.repeat(ends - lengths, lengths)


class ShardSet:
    """All examples of a data set, numbered from 0 in the order of its shards.

    A shard is opened and mapped when an example of it is first asked for; nothing is read before.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._files: list[ShardFile | None] = [None] * len(manifest.shards)
        counts = [shard.examples for shard in manifest.shards]
        self._ends = np.cumsum(np.asarray(counts, dtype=np.int64))
        allow_open_files(len(manifest.shards) + SPARE_FILES)

    @classmethod
    def open(cls, manifest: Manifest) -> ShardSet:
        return cls(manifest)

    def __enter__(self) -> ShardSet:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the mapped shards; they are mapped anew when they are asked for again."""
        self._files = [None] * len(self.manifest.shards)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def get_file(self, number: int) -> ShardFile:
        """Return shard `number`, mapped. Raises InputError where it is not the manifest's."""
        file = self._files[number]
        if file is None:
            shard = self.manifest.shards[number]
            file = ShardFile(self.manifest.folder / shard.name)
            if file.description["sha256"] != shard.sha256 or len(file) != shard.examples:
                raise InputError(
                    f"{file.path} is not the shard that {MANIFEST_NAME} names: delete it and run "
                    "the same create again"
                )
            self._files[number] = file
        return file

    def open_files(self, stretches: Sequence[tuple[int, int]]) -> None:
        """Map the shards that examples first ... last - 1 of each stretch lie in, some at a time.

        Raises InputError as get_file.
        """
        numbers: set[int] = set()
        for first, last in stretches:
            low, high = np.searchsorted(self._ends, (first, last - 1), side="right")
            numbers.update(range(int(low), int(high) + 1))
        missing = sorted(number for number in numbers if self._files[number] is None)
        if missing:
            with ThreadPoolExecutor(OPENING_THREADS) as pool:
                list(pool.map(self.get_file, missing))

    def sample(self, number: int) -> Sample:
        """Return example `number`, reading no other. Raises IndexError, InputError."""
        batch = self.gather([number])
        return Sample(
            batch.input_ids,
            batch.segment_ids,
            batch.masked_positions,
            batch.masked_ids,
            int(batch.next_sentence_labels[0]),
        )

    def gather(
        self,
        indices: Sequence[int] | npt.NDArray[np.int64],
        entries: npt.NDArray[Any] | None = None,
    ) -> FlatBatch:
        """Return the examples of these numbers, in that order.

        indices: (B,), at least one; the same number may come twice; entries: (B,) INDEX_ENTRY, what
        read_entries said of them, where it was asked. Raises IndexError where there is no such
        example, InputError where a shard is damaged.
        """
        numbers = np.asarray(indices, dtype=np.int64)
        if not numbers.size or numbers.min() < 0 or numbers.max() >= len(self):
            raise IndexError(f"examples are numbered from 0 to {len(self) - 1}, not {indices}")
        entries, records = self.find(numbers, entries)
        self.check_entries(numbers, entries)
        tokens, masked = entries["tokens"].astype(np.int64), entries["masked"].astype(np.int64)
        flat, lengths = np.concatenate(records), tokens + 2 * masked
        starts = np.cumsum(lengths) - lengths
        cu_seqlens = np.concatenate(([0], np.cumsum(tokens)))
        positions = count_up(tokens)
        masks = count_up(masked) + np.repeat(starts + tokens, masked)
        masked_positions = flat[masks].astype(np.int64)
        batch = FlatBatch(
            input_ids=flat[positions + np.repeat(starts, tokens)].astype(np.int64),
            segment_ids=(positions >= np.repeat(entries["first_segment"], tokens)).astype(np.int64),
            position_ids=positions,
            cu_seqlens=cu_seqlens.astype(np.int32),
            masked_positions=masked_positions + np.repeat(cu_seqlens[:-1], masked),
            masked_ids=flat[masks + np.repeat(masked, masked)].astype(np.int64),
            masked_counts=masked.astype(np.int32),
            next_sentence_labels=entries["next_sentence_label"].astype(np.int64),
        )
        highest = max(batch.input_ids.max(), batch.masked_ids.max())
        outside = (masked_positions >= np.repeat(tokens, masked)).any()
        if highest >= self.manifest.vocabulary_size or outside:
            raise self._damage(numbers)
        return batch

    def check_entries(self, numbers: npt.NDArray[np.int64], entries: npt.NDArray[Any]) -> None:
        """Raise InputError where an index entry is one that no example of the data set has.

        numbers: (B,), whose entries they are, at least one; entries: (B,) INDEX_ENTRY.
        """
        tokens, masked = entries["tokens"], entries["masked"]
        if (
            tokens.min() < 1
            or tokens.max() > self.manifest.max_seq_length
            or masked.min() < 1
            or masked.max() > self.manifest.max_predictions_per_seq
            or entries["next_sentence_label"].max() > 1
        ):
            raise self._damage(numbers)

    def cut(self, first: int, last: int) -> Iterator[tuple[ShardFile, int, int]]:
        """Yield the shards that examples first ... last - 1 lie in, and which of its own each has.

        A shard's own are numbered from 0, (file, its first, the one behind its last).
        """
        while first < last:
            shard = int(np.searchsorted(self._ends, first, side="right"))
            end = min(last, int(self._ends[shard]))
            file = self.get_file(shard)
            start = int(self._ends[shard]) - len(file)
            yield file, first - start, end - start
            first = end

    def read_entries(self, first: int, last: int) -> npt.NDArray[Any]:
        """Read the index entries of examples first ... last - 1, (last - first,) INDEX_ENTRY.

        Raises InputError where a shard is damaged or shorter than it was.
        """
        parts = [read_index(file.layout, low, high) for file, low, high in self.cut(first, last)]
        entries = np.concatenate(parts)
        self.check_entries(np.arange(first, last), entries)
        return entries

    def read_index_ahead(self, first: int, last: int) -> None:
        """Ask the system to bring the index of examples first ... last - 1 into memory."""
        for file, low, high in self.cut(first, last):
            file.read_ahead(low, high)

    def read_records_ahead(self, first: int, entries: npt.NDArray[Any]) -> None:
        """Ask the system to bring the records of the examples from `first` on into memory.

        entries: what read_entries said of them.
        """
        done = 0
        for file, low, high in self.cut(first, first + len(entries)):
            file.read_records_ahead(entries[done : done + high - low])
            done += high - low

    def find(
        self, numbers: npt.NDArray[np.int64], known: npt.NDArray[Any] | None = None
    ) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
        """Return index entries (B,) and records of the examples, visiting each shard once.

        known: the entries, where they have been read.
        """
        shards = np.searchsorted(self._ends, numbers, side="right")
        order = np.argsort(shards, kind="stable")
        cuts = np.flatnonzero(np.diff(shards[order])) + 1
        entries: npt.NDArray[Any] | None = None
        records: list[npt.NDArray[Any]] = [np.empty(0)] * len(numbers)
        for places in np.split(order, cuts):
            shard = int(shards[places[0]])
            file = self.get_file(shard)
            if known is not None:
                found = known[places]
            else:
                found = file.index[numbers[places] - (self._ends[shard] - len(file))]
            if entries is None:
                entries = np.empty(len(numbers), found.dtype)
            entries[places] = found
            for place, record in zip(places.tolist(), file.get_records(found), strict=True):
                records[place] = record
        if entries is None:
            raise IndexError("no example was asked for")
        return entries, records

    def _damage(self, numbers: npt.NDArray[np.int64]) -> InputError:
        shards = sorted(set(np.searchsorted(self._ends, numbers, side="right").tolist()))
        names = ", ".join(self.manifest.shards[shard].name for shard in shards[:3])
        return InputError(
            f"{self.manifest.folder}: a shard is damaged, one of {names}: run "
            f"python -m bert.prepare_data verify {self.manifest.folder}"
        )


def allow_open_files(count: int) -> None:
    """Raise this process's limit of open files to `count`, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        if wanted > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
