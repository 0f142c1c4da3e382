"""What is wrong with the examples of a shard: every number is looked at, a block at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bert.shard_file import BLOCK_EXAMPLES, Layout, count_numbers, read_examples, read_index


def find_faults(
    layout: Layout, max_seq_length: int, max_predictions: int, vocabulary: int
) -> list[str]:
    """Read the whole shard and say in a sentence each what is wrong with its examples."""
    index = read_index(layout)
    tokens, masked = index["tokens"].astype(np.int64), index["masked"].astype(np.int64)
    lengths = count_numbers(index)
    if not np.array_equal(index["start"].astype(np.int64), np.cumsum(lengths) - lengths):
        return [f"{layout.path}: the index does not match the records"]
    if lengths.sum() != layout.numbers:
        return [f"{layout.path}: the records are longer or shorter than the index says"]
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
    faults = [
        f"{layout.path}: {sentence} (example {int(np.argmax(wrong))})"
        for sentence, wrong in checks.items()
        if wrong.any()
    ]
    if (tokens < 1).any() or (masked < 1).any():
        return faults  # the contents cannot be told apart
    for first in range(0, len(index), BLOCK_EXAMPLES):
        last = min(first + BLOCK_EXAMPLES, len(index))
        block = read_examples(layout, first, last)[1]
        fault = find_content_fault(block, tokens[first:last], masked[first:last], vocabulary)
        if fault:
            sentence, example = fault
            return [*faults, f"{layout.path}: {sentence} (example {first + example})"]
    return faults


def find_content_fault(
    records: npt.NDArray[Any],
    tokens: npt.NDArray[np.int64],
    masked: npt.NDArray[np.int64],
    vocabulary: int,
) -> tuple[str, int] | None:
    """Return what is wrong with records that lie one after the other, and with which; or None.

    records: flat; tokens, masked: (B,), at least 1 each.
    """
    lengths = tokens + 2 * masked
    ids = np.cumsum(lengths) - lengths
    positions, truth = ids + tokens, ids + tokens + masked
    # Of every record three stretches: input ids, masked positions, masked ids.
    highest = np.maximum.reduceat(records, np.stack((ids, positions, truth), 1).ravel())
    highest_ids, highest_position, highest_truth = highest.reshape(-1, 3).T
    # How often a number is not above the one before it, counted up to each number.
    falls = np.cumsum(np.concatenate(([False], records[1:] <= records[:-1])), dtype=np.int64)
    unsorted = falls[truth - 1] != falls[positions]
    for sentence, wrong in (
        (
            "a token is not in the vocabulary",
            np.maximum(highest_ids, highest_truth) >= vocabulary,
        ),
        ("wrong masked positions", (highest_position >= tokens) | unsorted),
    ):
        if wrong.any():
            return sentence, int(np.argmax(wrong))
    return None
