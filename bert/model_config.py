"""Sizes of BERT: from our configuration, or from the bert_config.json of the shipped checkpoint.

Also names the operations that it computes with. Read without torch, so that a configuration can be
checked where no rank runs.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from bert.model import Twice
    from harness.optimizers.flat_lamb import FlatLAMB

INITIALIZER_RANGE = 0.02

# key of bert_config.json -> our field
GOOGLE_KEYS = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_size",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate_size",
    "max_position_embeddings": "positions",
    "type_vocab_size": "segments",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
}
LARGEST_FILE_BYTES = 1 << 20
# More than any BERT has: what is larger is a mistake, and would take memory or time without end.
LARGEST_SIZE = 1 << 20
MOST_LAYERS = 1 << 10
# "gelu" means the tanh form in the reference, which the model computes whatever the file says. The
# range is that of weights before they are trained: a checkpoint brings all of them.
GOOGLE_CONSTANTS = {"hidden_act": "gelu", "initializer_range": INITIALIZER_RANGE}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network and its two dropout probabilities.

    BERT-large: vocabulary 30522, hidden 1024, 24 layers, 16 heads, intermediate 4096, positions
    512, segments 2, dropout and attention_dropout 0.1. Raises ValueError naming the field.
    """

    vocabulary_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    positions: int
    segments: int
    dropout: float
    attention_dropout: float

    def __post_init__(self) -> None:
        for name, kind in self.__annotations__.items():
            check_size(name, getattr(self, name), kind)
        if self.hidden_size % self.heads:
            raise ValueError(
                f"heads must divide hidden_size, but {self.heads} does not divide "
                f"{self.hidden_size}"
            )


@dataclass(frozen=True)
class Operations:
    """What a step is computed with: see harness.ops for the definitions."""

    embedding: Callable[..., Twice]
    linear: Callable[..., Tensor]
    query_key_value: Callable[..., tuple[Tensor, Tensor, Tensor]]
    varlen_attention: Callable[..., Tensor]
    feed_forward: Callable[..., Tensor]
    bias_gelu: Callable[..., Tensor]
    layer_norm: Callable[..., Tensor]
    dropout_add_layer_norm: Callable[..., Twice]
    vocabulary_logits: Callable[..., Tensor]
    masked_cross_entropy: Callable[..., Tensor]
    lamb: Callable[..., FlatLAMB]


def check_size(name: str, value: object, kind: str) -> None:
    """Raise ValueError, calling the value by name, unless it is fit for a field of that kind."""
    if kind == "int":
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a positive whole number, not {reprlib.repr(value)}")
        largest = MOST_LAYERS if name == "layers" else LARGEST_SIZE
        if value > largest:
            raise ValueError(f"{name} must be at most {largest}, not {reprlib.repr(value)}")
    elif not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number from 0 to below 1, not {reprlib.repr(value)}")


def make_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a dictionary of a JSON object. Raises ValueError where a key is there twice."""
    content: dict[str, object] = {}
    for key, value in pairs:
        if key in content:
            raise ValueError(f"key {reprlib.repr(key)} is there twice")
        content[key] = value
    return content


def read_bert_config(path: Path | str) -> ModelConfig:
    """Read Google's bert_config.json: every key it must have and no other.

    Raises InputError naming file and key; OSError where the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST_FILE_BYTES + 1)
        if len(text) > LARGEST_FILE_BYTES:
            raise ValueError(f"it has more than {LARGEST_FILE_BYTES} bytes")
        content = json.loads(text.decode("utf-8"), object_pairs_hook=make_object)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not sound JSON ({error}): give a bert_config.json") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object: give a bert_config.json")
    expected = [*GOOGLE_KEYS, *GOOGLE_CONSTANTS]
    for key in expected:
        if key not in content:
            raise InputError(f"{path}: key {key!r} is missing: give a complete bert_config.json")
    for key in content:
        if key not in expected:
            raise InputError(
                f"{path}: key {reprlib.repr(key)} is unknown: the keys are {', '.join(expected)}"
            )
    if content["hidden_act"] != GOOGLE_CONSTANTS["hidden_act"]:
        raise InputError(
            f"{path}: key 'hidden_act' is {reprlib.repr(content['hidden_act'])}, but the model has "
            f"'gelu' alone: give the bert_config.json that belongs to the checkpoint"
        )
    try:
        check_size("initializer_range", content["initializer_range"], "float")
        for key, field in GOOGLE_KEYS.items():
            check_size(key, content[key], ModelConfig.__annotations__[field])
        return ModelConfig(**{field: content[key] for key, field in GOOGLE_KEYS.items()})
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
