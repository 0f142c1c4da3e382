"""What is wrong with the examples of a shard: every number is looked at, a block at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bert.shard_file import BLOCK_EXAMPLES, Layout, count_numbers, read_examples, read_index


def find_faults(
    layout: Layout, max_seq_length: int, max_predictions: int, vocabulary: int
) -> list[str]:
    """Read the whole shard and say in a sentence each what is wrong with its examples.

    Of faults of one kind the first is named. Memory: some MB, however large the shard.
    """
    faults: dict[str, int] = {}
    numbers = tokens = 0
    for first in range(0, layout.examples, BLOCK_EXAMPLES):
        index = read_index(layout, first, min(first + BLOCK_EXAMPLES, layout.examples))
        lengths = count_numbers(index)
        ends = numbers + np.cumsum(lengths)
        if not np.array_equal(index["start"].astype(np.int64), ends - lengths):
            return [f"{layout.path}: the index does not match the records"]
        found = check_index(index, max_seq_length, max_predictions)
        can_be_read = index["tokens"].all() and index["masked"].all() and ends[-1] <= layout.numbers
        if can_be_read:
            block = read_examples(layout, first, first + len(index))[1]
            found |= check_content(block, index, vocabulary)
        for sentence, example in found.items():
            faults.setdefault(sentence, first + example)
        numbers, tokens = int(ends[-1]), tokens + int(index["tokens"].sum(dtype=np.int64))
    if (numbers, tokens) != (layout.numbers, layout.tokens):
        return [f"{layout.path}: the records are longer or shorter than the index says"]
    return [f"{layout.path}: {fault} (example {example})" for fault, example in faults.items()]


def check_index(
    index: npt.NDArray[Any], max_seq_length: int, max_predictions: int
) -> dict[str, int]:
    """Return what is wrong with index entries: sentences, each with the first it is true of."""
    tokens, masked = index["tokens"].astype(np.int64), index["masked"]
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
    return {sentence: int(np.argmax(wrong)) for sentence, wrong in checks.items() if wrong.any()}


def check_content(
    records: npt.NDArray[Any], index: npt.NDArray[Any], vocabulary: int
) -> dict[str, int]:
    """Return what is wrong with records that lie one after the other, as check_index does.

    records: flat; index: (B,) their entries, each with at least one token and one masked.
    """
    tokens, masked = index["tokens"].astype(np.int64), index["masked"].astype(np.int64)
    lengths = tokens + 2 * masked
    ids = np.cumsum(lengths) - lengths
    positions, truth = ids + tokens, ids + tokens + masked
    # Of every record three stretches: input ids, masked positions, masked ids.
    highest = np.maximum.reduceat(records, np.stack((ids, positions, truth), 1).ravel())
    highest_ids, highest_position, highest_truth = highest.reshape(-1, 3).T
    # How often a number is not above the one before it, counted up to each number.
    falls = np.cumsum(np.concatenate(([False], records[1:] <= records[:-1])), dtype=np.int64)
    unsorted = falls[truth - 1] != falls[positions]
    unknown = np.maximum(highest_ids, highest_truth) >= vocabulary
    checks = {
        "a token is not in the vocabulary": unknown,
        "wrong masked positions": (highest_position >= tokens) | unsorted,
    }
    return {sentence: int(np.argmax(wrong)) for sentence, wrong in checks.items() if wrong.any()}
