"""One shard: the examples of one text in a file, un-padded, each found without reading the others.

    magic       16 bytes    "bert-shard 1", and bytes that a text transfer would change
    length       4 bytes    of the description; little-endian, as every number here
    crc32        4 bytes    of the description
    description  JSON       counts, what the examples were made from, where the sections lie
    index       16 bytes an example, from a multiple of 4096 bytes: see INDEX_ENTRY
    records     for each example its input ids, masked positions and masked ids, from a multiple
                of 4096 bytes; 2 bytes a number, 4 where the vocabulary is larger than 65,536

One example is one stretch of the records, so that a sample drawn at random costs one place of the
disk. The description holds the SHA-256 of all that follows it.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bert.examples import Examples
from harness.commands import InputError
from harness.files import write_atomically

MAGIC = b"bert-shard 1\n\x1a\r\n"
PREFIX_BYTES = len(MAGIC) + 8
ALIGNMENT_BYTES = 4096
LARGEST_DESCRIPTION_BYTES = 1 << 20
COPY_BYTES = 1 << 22
BLOCK_EXAMPLES = 4096
ADVISED_BYTES = 1 << 17
ITEM_BYTES = {"<u2": 2, "<u4": 4}
# start: where the record begins, counted in numbers, not bytes; second segment: from first_segment.
INDEX_ENTRY = np.dtype(
    [
        ("start", "<u8"),
        ("tokens", "<u2"),
        ("first_segment", "<u2"),
        ("masked", "<u2"),
        ("next_sentence_label", "u1"),
        ("reserved", "u1"),
    ]
)


def align(size_bytes: int) -> int:
    """Round up to where a section may begin."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def order_examples(examples: Examples) -> tuple[npt.NDArray[Any], list[npt.NDArray[Any]]]:
    """Return the index (examples,) INDEX_ENTRY and the records, both in the order of the text's."""
    order = np.asarray(examples.order, dtype=np.int64)
    blocks = [block.astype(f"<u{block.itemsize}", copy=False) for block in examples.payload]
    index = np.zeros(len(order), INDEX_ENTRY)
    for name in ("tokens", "first_segment", "masked", "next_sentence_label"):
        values = getattr(examples, name)
        index[name] = np.frombuffer(values, dtype=values.typecode)[order]
    lengths = count_numbers(index)
    index["start"] = np.cumsum(lengths) - lengths
    starts = np.frombuffer(examples.ends, dtype=np.uint64).astype(np.int64)[order] - lengths
    numbers, starts = np.divmod(starts, len(blocks[0]))
    places = zip(numbers.tolist(), starts.tolist(), (starts + lengths).tolist(), strict=True)
    return index, [blocks[number][start:end] for number, start, end in places]


def write_shard(
    path: Path,
    index: npt.NDArray[Any],
    records: list[npt.NDArray[Any]],
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Write a shard whole or not at all, and return its description.

    index: (examples,) INDEX_ENTRY; records: one array of <u2 or <u4 for each example; origin: what
    the description says of where the examples come from. Raises OSError.
    """
    blocks = [
        np.concatenate(records[first : first + BLOCK_EXAMPLES])
        for first in range(0, len(records), BLOCK_EXAMPLES)
    ]
    return write_blocks(path, index, blocks, origin)


def write_blocks(
    path: Path,
    index: npt.NDArray[Any],
    blocks: list[npt.NDArray[Any]],
    origin: dict[str, Any],
) -> dict[str, Any]:
    """Write a shard as write_shard does, its records given as arrays of many records each."""
    item = blocks[0].dtype
    index_bytes = index.tobytes()
    gap = bytes(align(len(index_bytes)) - len(index_bytes))
    digest = hashlib.sha256(index_bytes + gap)
    for block in blocks:
        digest.update(block.data.cast("B"))
    description = {
        "format": "one shard of BERT pre-training examples, un-padded",
        "version": 1,
        "examples": len(index),
        "tokens": int(index["tokens"].sum(dtype=np.int64)),
        "masked_tokens": int(index["masked"].sum(dtype=np.int64)),
        **origin,
        "index": {
            "bytes": len(index_bytes),
            "entry": [[name, INDEX_ENTRY[name].str] for name in INDEX_ENTRY.names or ()],
        },
        "records": {
            "bytes": sum(block.nbytes for block in blocks),
            "number": item.str,
            "of_each_example": ["input_ids", "masked_lm_positions", "masked_lm_ids"],
        },
        "sha256": digest.hexdigest(),
    }
    content = json.dumps(description, indent=1, sort_keys=True).encode() + b"\n"
    if len(content) > LARGEST_DESCRIPTION_BYTES:
        raise ValueError(f"{path}: its description of {len(content)} bytes could not be read again")
    head = MAGIC + len(content).to_bytes(4, "little") + zlib.crc32(content).to_bytes(4, "little")
    head += content
    with write_atomically(path, "wb") as file:
        file.write(head + bytes(align(len(head)) - len(head)) + index_bytes + gap)
        for block in blocks:
            file.write(block.data.cast("B"))
    return description


def read_description(path: Path) -> tuple[dict[str, Any], int]:
    """Return the checked description of a shard and where its index begins, in bytes.

    Raises InputError naming the file where it is no shard, damaged, or shorter or longer than its
    description says; OSError where it cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(PREFIX_BYTES)
        if len(prefix) < PREFIX_BYTES or not prefix.startswith(MAGIC):
            raise InputError(f"{path} is not a shard of version 1: make it anew with create")
        length = int.from_bytes(prefix[-8:-4], "little")
        content = file.read(length) if length <= LARGEST_DESCRIPTION_BYTES else b""
    if len(content) != length or zlib.crc32(content) != int.from_bytes(prefix[-4:], "little"):
        raise InputError(f"{path}: the description is damaged: make the shard anew with create")
    try:
        description = json.loads(content)
        check_description(description)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not the description of a shard ({error!s:.300}): make it anew with create"
        ) from None
    start = align(PREFIX_BYTES + length)
    wanted = start + align(description["index"]["bytes"]) + description["records"]["bytes"]
    if size != wanted:
        raise InputError(f"{path} has {size} bytes instead of {wanted}: make it anew with create")
    return description, start


def check_description(description: Any) -> None:
    """Raise KeyError, TypeError or ValueError unless the counts of a description agree."""
    index, records = description["index"], description["records"]
    counts = [description[name] for name in ("examples", "tokens", "masked_tokens")]
    counts += [index["bytes"], records["bytes"]]
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("a count is not a whole number")
    examples, tokens, masked_tokens, index_bytes, record_bytes = counts
    numbers = tokens + 2 * masked_tokens
    if (
        index_bytes != examples * INDEX_ENTRY.itemsize
        or index_bytes == 0
        or record_bytes != numbers * ITEM_BYTES.get(records["number"], 0)
    ):
        raise ValueError("its counts contradict each other")
    if type(description["sha256"]) is not str:
        raise ValueError("it has no checksum")


class Layout(NamedTuple):
    """Where the sections of a shard lie, in bytes.

    numbers: how many the records are; tokens: how many of these are input ids; item: their type.
    """

    path: Path
    examples: int
    index_start: int
    records_start: int
    numbers: int
    tokens: int
    item: np.dtype[Any]


def find_layout(path: Path, description: dict[str, Any], start: int) -> Layout:
    """Return the layout that read_description's answer means."""
    item = np.dtype(description["records"]["number"])
    numbers = description["records"]["bytes"] // item.itemsize
    records_start = start + align(description["index"]["bytes"])
    examples, tokens = description["examples"], description["tokens"]
    return Layout(path, examples, start, records_start, numbers, tokens, item)


def count_numbers(index: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Return how many numbers the record of each index entry has, (examples,)."""
    return index["tokens"].astype(np.int64) + 2 * index["masked"].astype(np.int64)


def read_index(layout: Layout, first: int = 0, last: int | None = None) -> npt.NDArray[Any]:
    """Read index entries first ... last - 1 of a shard: in one go, not page by page.

    Raises InputError where the file has become shorter, OSError where it cannot be read.
    """
    last = layout.examples if last is None else last
    place = layout.index_start + first * INDEX_ENTRY.itemsize
    return _read_array(layout.path, INDEX_ENTRY, place, last - first)


def read_examples(
    layout: Layout, first: int, last: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Read examples first ... last - 1: their index entries, and their records as one flat array.

    Raises InputError where the records do not lie one after the other; OSError.
    """
    index = read_index(layout, first, last)
    if not len(index):
        return index, np.empty(0, layout.item)
    lengths = count_numbers(index)
    begin, total = int(index["start"][0]), int(lengths.sum())
    expected = np.cumsum(lengths) - lengths + index["start"][0].astype(np.int64)
    if begin + total > layout.numbers or not np.array_equal(
        index["start"].astype(np.int64), expected
    ):
        raise InputError(
            f"{layout.path}: the index does not match the records: make it anew with create"
        )
    place = layout.records_start + begin * layout.item.itemsize
    return index, _read_array(layout.path, layout.item, place, total)


def _read_array(path: Path, item: np.dtype[Any], place: int, count: int) -> npt.NDArray[Any]:
    with open(path, "rb", buffering=0) as file:
        file.seek(place)
        array = np.fromfile(file, item, count)
    if len(array) != count:
        raise InputError(f"{path} has become shorter while it was read: make it anew with create")
    return array


def hash_content(path: Path, start: int) -> str:
    """Return the SHA-256 of a shard from its index to its end."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(start)
        while block := file.read(COPY_BYTES):
            digest.update(block)
    return digest.hexdigest()


class ShardFile:
    """A shard, mapped into memory: what is not touched is not read.

    index: (examples,) INDEX_ENTRY; records: flat array of numbers, see INDEX_ENTRY's start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.description, start = read_description(path)
        self.layout = layout = find_layout(path, self.description, start)
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(memory, "madvise"):
            memory.madvise(mmap.MADV_RANDOM)  # reading ahead would read other examples
        self._memory = memory
        self.index = np.frombuffer(memory, INDEX_ENTRY, layout.examples, start)
        self.records = np.frombuffer(memory, layout.item, layout.numbers, layout.records_start)

    def __len__(self) -> int:
        return len(self.index)

    def get_records(self, entries: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the record of each index entry, views of the mapped file.

        Raises InputError where an entry points outside the records.
        """
        starts, lengths = entries["start"], count_numbers(entries)
        # Unsigned until it is known to be small: 2^64 - 1 must not become -1.
        if (starts > len(self.records)).any() or (
            starts.astype(np.int64) + lengths > len(self.records)
        ).any():
            raise InputError(
                f"{self.path}: the index does not match the records: run "
                f"python -m bert.prepare_data verify {self.path.parent}"
            )
        first = starts.astype(np.int64)
        pairs = zip(first.tolist(), (first + lengths).tolist(), strict=True)
        return [self.records[start:end] for start, end in pairs]

    def read_ahead(self, first: int, last: int) -> None:
        """Ask the system to bring the index entries of examples first ... last - 1 into memory."""
        size = INDEX_ENTRY.itemsize
        self._advise(self.layout.index_start + first * size, (last - first) * size)

    def read_records_ahead(self, entries: npt.NDArray[Any]) -> None:
        """Ask the system to bring the records of neighbouring index entries into memory."""
        item, last = self.layout.item.itemsize, entries[-1:]
        first = min(int(entries["start"][0]), len(self.records))
        end = min(int(last["start"][0]) + int(count_numbers(last)[0]), len(self.records))
        self._advise(self.layout.records_start + first * item, max(0, end - first) * item)

    def _advise(self, start: int, size: int) -> None:
        if not hasattr(mmap, "MADV_WILLNEED"):
            return
        end, start = start + size, start - start % mmap.PAGESIZE
        # In pieces, because Linux reads no more at once than its limit of reading ahead.
        for place in range(start, end, ADVISED_BYTES):
            piece = min(ADVISED_BYTES, end - place)
            self._memory.madvise(mmap.MADV_WILLNEED, place, piece)

    def iterate_records(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the record of each example in order."""
        for first in range(0, len(self), BLOCK_EXAMPLES):
            yield from self.get_records(self.index[first : first + BLOCK_EXAMPLES])
