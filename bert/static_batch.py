"""Batches whose shapes depend on their budget alone, each in one stretch of memory.

Real sequences come first, then those that fill up: tokens 0 that attend to each other alone, whose
next-sentence label is -1; masked places beyond the real ones have the label -1. None of it enters
a loss, a gradient or a count. One stretch of memory, so that a batch is copied in one go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bert.budget import Budget, Budgets
from bert.model import Batch
from bert.shards import FlatBatch

IGNORED_LABEL = -1
ALIGNMENT_BYTES = 256
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class StaticBatch(Batch):
    """A Batch in one stretch of memory.

    budget: its number among the listed budgets, or NOT_LISTED; shape: the budget itself; storage:
    (bytes,) uint8, which all the other tensors are views of.
    """

    budget: int
    shape: Budget
    storage: Tensor

    def copy_into(self, target: StaticBatch) -> None:
        """Copy all arrays into another batch of the same shape: one copy, on the current stream.

        Raises ValueError where the shapes differ.
        """
        if target.shape != self.shape:
            raise ValueError(f"a batch of {self.shape} does not fit into one of {target.shape}")
        target.storage.copy_(self.storage, non_blocking=True)


@lru_cache(maxsize=64)
def find_sections(budget: Budget) -> tuple[dict[str, tuple[int, int, str]], int]:
    """Where each array lies: (first byte, behind the last, numpy type), and the bytes in all."""
    lengths = {
        "input_ids": (budget.tokens, "int64"),
        "segment_ids": (budget.tokens, "int64"),
        "position_ids": (budget.tokens, "int64"),
        "masked_positions": (budget.masked, "int64"),
        "masked_ids": (budget.masked, "int64"),
        "next_sentence_labels": (budget.sequences, "int64"),
        "cu_seqlens": (budget.sequences + 1, "int32"),
    }
    sections, place = {}, 0
    for name, (length, kind) in lengths.items():
        end = place + length * np.dtype(kind).itemsize
        sections[name] = (place, end, kind)
        place = -(-end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return sections, place


def count_bytes(budget: Budget) -> int:
    """How much memory a batch takes."""
    return find_sections(budget)[1]


def view_arrays(storage: Tensor, budget: Budget) -> Arrays:
    """The arrays of a batch as numpy views of memory that the processor can reach."""
    sections, total = find_sections(budget)
    content = storage[:total].numpy()
    return {name: content[low:high].view(kind) for name, (low, high, kind) in sections.items()}


def view_batch(storage: Tensor, number: int, budget: Budget) -> StaticBatch:
    """The batch that lies in memory on any device."""
    sections, total = find_sections(budget)
    storage = storage[:total]
    tensors = {
        name: storage[low:high].view(getattr(torch, kind))
        for name, (low, high, kind) in sections.items()
    }
    return StaticBatch(
        longest_sequence=budget.longest_sequence,
        budget=number,
        shape=budget,
        storage=storage,
        **tensors,
    )


def fill_arrays(flat: FlatBatch, budget: Budget, arrays: Arrays) -> None:
    """Write un-padded sequences into the arrays of a budget and fill up what is left.

    Raises ValueError where they do not fit, or leave more tokens than the fillers can take.
    """
    tokens, masked = len(flat.input_ids), len(flat.masked_ids)
    sequences = len(flat.next_sentence_labels)
    fillers = -(-(budget.tokens - tokens) // budget.longest_sequence)
    if not (
        tokens <= budget.tokens
        and masked <= budget.masked
        and sequences + fillers <= budget.sequences
    ):
        raise ValueError(f"{sequences} sequences, {tokens} tokens, {masked} masked: not {budget}")
    for name in ("input_ids", "segment_ids", "position_ids"):
        arrays[name][:tokens] = getattr(flat, name)
    arrays["input_ids"][tokens:] = 0
    arrays["segment_ids"][tokens:] = 0
    left = np.arange(budget.tokens - tokens)
    arrays["position_ids"][tokens:] = left % budget.longest_sequence
    ends = arrays["cu_seqlens"]
    ends[: sequences + 1] = flat.cu_seqlens
    more = tokens + budget.longest_sequence * np.arange(1, budget.sequences - sequences + 1)
    ends[sequences + 1 :] = np.minimum(more, budget.tokens)
    arrays["masked_positions"][:masked] = flat.masked_positions
    # Places of their own, from the last token backwards: their gradients, all 0, do not collide.
    unused = budget.tokens - 1 - np.arange(budget.masked - masked)
    arrays["masked_positions"][masked:] = np.maximum(unused, 0)
    arrays["masked_ids"][:masked] = flat.masked_ids
    arrays["masked_ids"][masked:] = IGNORED_LABEL
    arrays["next_sentence_labels"][:sequences] = flat.next_sentence_labels
    arrays["next_sentence_labels"][sequences:] = IGNORED_LABEL


def make_static_batch(
    flat: FlatBatch, number: int, budget: Budget, device: torch.device
) -> StaticBatch:
    """A batch in memory of its own on a device. Raises ValueError where it does not fit."""
    storage = torch.empty(count_bytes(budget), dtype=torch.uint8)
    fill_arrays(flat, budget, view_arrays(storage, budget))
    return view_batch(storage.to(device), number, budget)


def check_static_batches(targets: Sequence[StaticBatch], budgets: Budgets) -> None:
    """Raise ValueError unless there is one batch for each listed budget, in order."""
    if [target.shape for target in targets] != list(budgets.listed):
        raise ValueError("there must be one static batch for each listed budget, in order")
