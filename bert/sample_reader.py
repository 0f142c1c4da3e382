"""What the order asks for next, read before it is needed: lengths at once, records ahead.

All ranks of a step know the lengths of all its sequences, from the index of the shards, a window of
the order at a time. While one window is used, the next one's index and records are brought into
memory block by block, in the system's page cache, which all ranks of a node share.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from bert.order import SampleOrder, Window
from bert.shards import ShardSet

BLOCKS_AT_ONCE = 16


class WindowReader:
    """One window of the order: its index entries, read a block at a time."""

    def __init__(self, shards: ShardSet, window: Window) -> None:
        self.window = window
        self._shards = shards
        self._entries: list[npt.NDArray[Any]] = []
        self._records = 0
        self._table: tuple[npt.NDArray[np.int64], npt.NDArray[Any]] | None = None

    def read_index(self, blocks: int) -> None:
        """Read the index of the first `blocks` blocks, those that have not been read."""
        missing = self.window.blocks[len(self._entries) : blocks].tolist()
        self._shards.open_files(missing)
        for first, last in missing:
            self._shards.read_index_ahead(first, last)
        self._entries += [self._shards.read_entries(first, last) for first, last in missing]

    def read_records_ahead(self, blocks: int) -> None:
        """Ask for the records of the first `blocks` blocks, those not asked for, index read."""
        for number in range(self._records, min(blocks, len(self._entries))):
            first = int(self.window.blocks[number, 0])
            self._shards.read_records_ahead(first, self._entries[number])
            self._records = number + 1
        if self._table is not None and self._records == len(self.window.blocks):
            self._entries = []  # the table has them

    def read_more_records_ahead(self) -> None:
        """Ask for the records of some more blocks: all at once would hold up what is needed now."""
        self.read_records_ahead(self._records + BLOCKS_AT_ONCE)

    def look_up(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """Sample numbers (N,) and index entries (N,) INDEX_ENTRY in the order's sequence."""
        if self._table is None:
            self.read_index(len(self.window.blocks))
            entries = np.concatenate(self._entries)[self.window.places]
            self._table = self.window.samples, entries
        return self._table


class SampleReader:
    """Samples in their order: which come next, and how long they are."""

    def __init__(self, shards: ShardSet, order: SampleOrder) -> None:
        self.shards, self.order = shards, order
        self._windows: list[WindowReader] = []

    def look_up(self, first: int, count: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any]]:
        """Numbers (count,) int64 and index entries (count,) of positions first ... of the order.

        count: at least one. Raises InputError where a shard is damaged.
        """
        numbers, entries, position = [], [], first
        while position < first + count:
            reader = self._find(position)
            found_numbers, found_entries = reader.look_up()
            low = position - reader.window.first
            high = min(first + count, reader.window.end) - reader.window.first
            numbers.append(found_numbers[low:high])
            entries.append(found_entries[low:high])
            position = reader.window.first + high
        self._read_ahead(reader, position)
        return np.concatenate(numbers), np.concatenate(entries)

    def _find(self, position: int) -> WindowReader:
        """The window that a position is in."""
        for known in self._windows:
            if known.window.first <= position < known.window.end:
                return known
        self._windows.append(WindowReader(self.shards, self.order.window(position)))
        return self._windows[-1]

    def _read_ahead(self, reader: WindowReader, position: int) -> None:
        """Read as much of the next window as is used of this one up to a position."""
        self._windows = [known for known in self._windows if known.window.end > position]
        reader.read_more_records_ahead()
        window = reader.window
        if len(window.places) == self.order.samples:
            return  # the whole data set is one window, and has been read
        following = self._find(window.end)
        used = (position - window.first) / len(window.places)
        blocks = math.ceil(used * len(following.window.blocks))
        following.read_index(blocks)
        following.read_records_ahead(blocks)
