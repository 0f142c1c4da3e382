"""The settings of examples: what is refused, and how the defaults are the closed division's."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from bert.examples import Examples, ExampleSettings
from harness.commands import InputError


def test_defaults_are_those_of_the_closed_division() -> None:
    assert dataclasses.asdict(ExampleSettings()) == {
        "max_seq_length": 512,
        "max_predictions_per_seq": 76,
        "dupe_factor": 10,
        "masked_lm_prob": 0.15,
        "short_seq_prob": 0.1,
        "seed": 12345,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_seq_length": 4},
        {"max_seq_length": 65_536},
        {"max_predictions_per_seq": 0},
        {"dupe_factor": 0},
        {"masked_lm_prob": float("nan")},
        {"masked_lm_prob": -0.1},
        {"short_seq_prob": 1.5},
        {"seed": -1},
        {"seed": 2**63},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(wrong))} must be from"):
        ExampleSettings(**wrong)


def test_examples_are_as_many_as_their_ends() -> None:
    examples = Examples([np.array([1, 2, 3], np.uint16)])
    assert len(examples) == 0
    examples.ends.append(3)
    assert len(examples) == 1
