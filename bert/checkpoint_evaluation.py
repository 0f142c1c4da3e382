"""Losses and accuracy of a model on padded examples, in the reference's definitions.

The examples are those of an .npz file with the reference's seven features; padding is dropped
before the model sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bert.checkpoint_arrays import read_tables
from bert.model import Batch, BertForPretraining, Operations, pretraining_loss
from bert.model_config import ModelConfig
from harness.commands import InputError

FEATURES = (
    "input_ids",
    "input_mask",
    "segment_ids",
    "masked_lm_positions",
    "masked_lm_ids",
    "masked_lm_weights",
    "next_sentence_labels",
)
PREFIX = "in/"  # of the features in a file that holds outputs too
SEQUENCES_AT_A_TIME = 32
COUNT_EPSILON = 1e-5  # the reference adds it to the number of masked tokens

Features = dict[str, npt.NDArray[np.int64]]


def read_examples(path: Path, config: ModelConfig) -> Features:
    """Read the seven features of an .npz file and check that the model can take them.

    Returns (examples, length), (examples, predictions) and (examples, 1) arrays of int64. Raises
    InputError naming the feature and what is wrong with it; OSError where the file is unreadable.
    """
    features = read_tables(path, FEATURES, PREFIX)
    check_shapes(path, features, config)
    check_values(path, features, config)
    return features


def check_shapes(path: Path, features: Features, config: ModelConfig) -> None:
    """Raise InputError unless the features' shapes belong together and fit the model."""
    examples, length = features["input_ids"].shape
    predictions = features["masked_lm_ids"].shape[1]
    if length > config.positions:
        raise InputError(
            f"{path}: sequences of {length} tokens are longer than the model's {config.positions}"
        )
    columns = dict(zip(FEATURES, (length,) * 3 + (predictions,) * 3 + (1,), strict=True))
    for name, values in features.items():
        if values.shape != (examples, columns[name]):
            raise InputError(
                f"{path}: {name} has the shape {values.shape} instead of "
                f"{(examples, columns[name])}"
            )


def check_values(path: Path, features: Features, config: ModelConfig) -> None:
    """Raise InputError unless every number is one that the model has a row for."""
    limits = {
        "input_ids": config.vocabulary_size,
        "input_mask": 2,
        "segment_ids": config.segments,
        "masked_lm_positions": features["input_ids"].shape[1],
        "masked_lm_ids": config.vocabulary_size,
        "masked_lm_weights": 2,
        "next_sentence_labels": 2,
    }
    for name, limit in limits.items():
        values = features[name]
        if values.size and not 0 <= values.min() <= values.max() < limit:
            raise InputError(f"{path}: {name} holds a number that is not from 0 to {limit - 1}")
    mask = features["input_mask"]
    if not mask[:, 0].all():
        raise InputError(f"{path}: input_mask leaves out the first token of an example")
    masked = features["masked_lm_weights"] > 0
    if not np.take_along_axis(mask, features["masked_lm_positions"], 1)[masked].all():
        raise InputError(f"{path}: masked_lm_positions points at padding")
    if not masked.any():
        raise InputError(f"{path}: masked_lm_weights counts no token")


def drop_padding(features: Features) -> Batch:
    """Make the model's batch of padded examples: tokens of input_mask 0 are left out."""
    kept = features["input_mask"] > 0
    rows, columns = np.nonzero(kept)
    lengths = kept.sum(axis=1)
    cu_seqlens = np.concatenate(([0], np.cumsum(lengths)))
    # Where a kept token stands in the flat run; a mask may have holes.
    places = np.cumsum(kept).reshape(kept.shape) - 1
    masked_rows, masked_columns = np.nonzero(features["masked_lm_weights"] > 0)
    positions = features["masked_lm_positions"][masked_rows, masked_columns]
    arrays: dict[str, npt.NDArray[Any]] = {
        "input_ids": features["input_ids"][rows, columns],
        "segment_ids": features["segment_ids"][rows, columns],
        "position_ids": columns,
        "cu_seqlens": cu_seqlens.astype(np.int32),
        "masked_positions": places[masked_rows, positions],
        "masked_ids": features["masked_lm_ids"][masked_rows, masked_columns],
        "next_sentence_labels": features["next_sentence_labels"][:, 0],
    }
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Batch(longest_sequence=int(lengths.max()), **tensors)


@dataclass
class Sums:
    """Sums over the examples met so far."""

    masked_lm_loss: float = 0.0
    next_sentence_loss: float = 0.0
    correct: int = 0
    examples: int = 0
    masked_tokens: int = 0


@torch.no_grad()
def evaluate_examples(
    model: BertForPretraining, operations: Operations, features: Features
) -> dict[str, float | int]:
    """Return losses and accuracy of all examples as one batch, as `evaluate --json` prints them.

    model: in evaluation mode, so that it drops nothing; operations: those of the loss. The model
    sees some sequences at a time, so that memory stays bounded, and the sums are joined:
    masked_lm_loss = sum of the masked tokens' losses / (their number + 1e-5), next_sentence_loss =
    mean over the examples, loss = their sum, masked_lm_accuracy = share of masked tokens whose
    likeliest word is the true one. Source: mlcommons/training bert run_pretraining.py.
    """
    sums = Sums()
    for first in range(0, len(features["input_ids"]), SEQUENCES_AT_A_TIME):
        stretch = slice(first, first + SEQUENCES_AT_A_TIME)
        batch = drop_padding({name: values[stretch] for name, values in features.items()})
        output = model(batch)
        _, masked_lm_loss, next_sentence_loss = pretraining_loss(
            output, batch.masked_ids, batch.next_sentence_labels, operations
        )
        examples, masked = len(batch.next_sentence_labels), len(batch.masked_ids)
        sums.masked_lm_loss += masked_lm_loss.item() * (masked + COUNT_EPSILON)
        sums.next_sentence_loss += next_sentence_loss.item() * examples
        sums.correct += int((output.masked_lm_logits.argmax(1) == batch.masked_ids).sum())
        sums.examples += examples
        sums.masked_tokens += masked
    masked_lm_loss_mean = sums.masked_lm_loss / (sums.masked_tokens + COUNT_EPSILON)
    next_sentence_loss_mean = sums.next_sentence_loss / sums.examples
    return {
        "masked_lm_loss": masked_lm_loss_mean,
        "next_sentence_loss": next_sentence_loss_mean,
        "loss": masked_lm_loss_mean + next_sentence_loss_mean,
        "masked_lm_accuracy": sums.correct / sums.masked_tokens,
        "examples": sums.examples,
        "masked_tokens": sums.masked_tokens,
    }
