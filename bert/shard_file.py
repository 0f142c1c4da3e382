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
from typing import Any

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
    payload = np.frombuffer(examples.payload, dtype=examples.payload.typecode)
    payload = payload.astype(f"<u{payload.itemsize}", copy=False)
    ends = np.frombuffer(examples.ends, dtype=np.uint64).astype(np.int64)[order]
    index = np.zeros(len(order), INDEX_ENTRY)
    for name in ("tokens", "first_segment", "masked", "next_sentence_label"):
        values = getattr(examples, name)
        index[name] = np.frombuffer(values, dtype=values.typecode)[order]
    lengths = index["tokens"].astype(np.int64) + 2 * index["masked"].astype(np.int64)
    index["start"] = np.cumsum(lengths) - lengths
    records = [
        payload[end - length : end]
        for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)
    ]
    return index, records


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
    item = records[0].dtype
    index_bytes = index.tobytes()
    gap = bytes(align(len(index_bytes)) - len(index_bytes))
    digest = hashlib.sha256(index_bytes + gap)
    blocks = [np.concatenate(records[i : i + 4096]) for i in range(0, len(records), 4096)]
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
        examples, index_bytes = description["examples"], description["index"]["bytes"]
        number, record_bytes = description["records"]["number"], description["records"]["bytes"]
        known = number in ITEM_BYTES and record_bytes % ITEM_BYTES[number] == 0
        if not (known and index_bytes == examples * INDEX_ENTRY.itemsize > 0):
            raise ValueError("its counts contradict each other")
        if type(description["sha256"]) is not str:
            raise ValueError("it has no checksum")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not the description of a shard ({error}): make it anew with create"
        ) from None
    start = align(PREFIX_BYTES + length)
    wanted = start + align(index_bytes) + record_bytes
    if size != wanted:
        raise InputError(f"{path} has {size} bytes instead of {wanted}: make it anew with create")
    return description, start


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
        records_start = start + align(self.description["index"]["bytes"])
        with open(path, "rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(memory, "madvise"):
            memory.madvise(mmap.MADV_RANDOM)  # reading ahead would read other examples
        examples = self.description["examples"]
        item = np.dtype(self.description["records"]["number"])
        count = self.description["records"]["bytes"] // item.itemsize
        self.index = np.frombuffer(memory, INDEX_ENTRY, examples, start)
        self.records = np.frombuffer(memory, item, count, records_start)

    def __len__(self) -> int:
        return len(self.index)

    def get_records(self, entries: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
        """Return the record of each index entry, views of the mapped file."""
        starts = entries["start"].astype(np.int64)
        lengths = entries["tokens"].astype(np.int64) + 2 * entries["masked"].astype(np.int64)
        pairs = zip(starts.tolist(), (starts + lengths).tolist(), strict=True)
        return [self.records[start:end] for start, end in pairs]

    def find_faults(self, max_seq_length: int, max_predictions: int, vocabulary: int) -> list[str]:
        """Read the whole shard and say in a sentence each what is wrong with its examples."""
        index, faults = self.index, []
        tokens, masked = index["tokens"].astype(np.int64), index["masked"].astype(np.int64)
        lengths = tokens + 2 * masked
        if not np.array_equal(index["start"], np.cumsum(lengths) - lengths):
            return [f"{self.path}: the index does not match the records"]
        if lengths.sum() != len(self.records):
            return [f"{self.path}: the records are longer or shorter than the index says"]
        checks = {
            f"a sequence is shorter than 5 or longer than {max_seq_length} tokens": (
                (tokens < 5) | (tokens > max_seq_length)
            ),
            f"an example masks no token or more than {max_predictions}": (
                (masked < 1) | (masked > max_predictions)
            ),
            "a second segment begins outside its sequence": (
                (index["first_segment"] < 3) | (index["first_segment"] > tokens - 2)
            ),
            "a next-sentence label is neither 0 nor 1": index["next_sentence_label"] > 1,
        }
        for sentence, wrong in checks.items():
            if wrong.any():
                faults.append(f"{self.path}: {sentence} (example {int(np.argmax(wrong))})")
        for number, record in enumerate(self.iterate_records()):
            ids, positions, truth = np.split(
                record, [int(tokens[number]), int(tokens[number] + masked[number])]
            )
            if max(ids.max(initial=0), truth.max(initial=0)) >= vocabulary:
                faults.append(f"{self.path}: a token is not in the vocabulary (example {number})")
                break
            if positions.max(initial=0) >= len(ids) or (positions[1:] <= positions[:-1]).any():
                faults.append(f"{self.path}: wrong masked positions (example {number})")
                break
        return faults

    def iterate_records(self) -> Iterator[npt.NDArray[Any]]:
        """Yield the record of each example in order."""
        for first in range(0, len(self), 4096):
            yield from self.get_records(self.index[first : first + 4096])
