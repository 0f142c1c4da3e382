"""Pre-training examples: what they depend on, and those of one text in memory.

`bert/example_maker.py` makes them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt

from harness.commands import InputError

SHORTEST_SEQUENCE, LONGEST_SEQUENCE = 5, 65_535


@dataclass(frozen=True)
class ExampleSettings:
    """What the examples of a text depend on beside the text and the vocabulary.

    The defaults are those of the closed division. Raises InputError naming the setting.
    """

    max_seq_length: int = 512
    max_predictions_per_seq: int = 76
    dupe_factor: int = 10
    masked_lm_prob: float = 0.15
    short_seq_prob: float = 0.1
    seed: int = 12345

    def __post_init__(self) -> None:
        limits = {
            "max_seq_length": (SHORTEST_SEQUENCE, LONGEST_SEQUENCE),
            "max_predictions_per_seq": (1, LONGEST_SEQUENCE),
            "dupe_factor": (1, 1_000_000),
            "masked_lm_prob": (0.0, 1.0),
            "short_seq_prob": (0.0, 1.0),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} must be from {low} to {high}, not {value}")


@dataclass
class Examples:
    """The examples of one text, one after the other, un-padded.

    payload: arrays of one size, uint16 or uint32; for each example its input ids, masked positions
    and masked ids, all in one array; ends: where each example ends, counted over all arrays; the
    other columns hold one number for each example; order: the order in which they are written.
    """

    payload: list[npt.NDArray[Any]]
    ends: array[int] = field(default_factory=lambda: array("Q"))
    tokens: array[int] = field(default_factory=lambda: array("H"))
    first_segment: array[int] = field(default_factory=lambda: array("H"))
    masked: array[int] = field(default_factory=lambda: array("H"))
    next_sentence_label: array[int] = field(default_factory=lambda: array("B"))
    order: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.ends)
