"""Sizes of BERT and the reading of bert_config.json."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from bert.model_config import ModelConfig, read_bert_config
from harness.commands import InputError

LARGE = ModelConfig(30522, 1024, 24, 16, 4096, 512, 2, 0.1, 0.1)

GOOGLE = {
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "max_position_embeddings": 512,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "type_vocab_size": 2,
    "vocab_size": 30522,
}


def test_reads_the_shipped_configuration(tmp_path: Path) -> None:
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps(GOOGLE))
    assert read_bert_config(path) == LARGE
    # How weights were drawn that a checkpoint brings changes nothing.
    path.write_text(json.dumps(GOOGLE | {"initializer_range": 0.05}))
    assert read_bert_config(path) == LARGE


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"initializer_range": -0.02}, "initializer_range"),
        ({"initializer_range": "0.02"}, "initializer_range"),
        ({"num_attention_heads": 7}, "heads"),
        ({"num_hidden_layers": 24.0}, "num_hidden_layers"),
        ({"vocab_size": "30522"}, "vocab_size"),
        ({"type_vocab_size": True}, "type_vocab_size"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"hidden_size": 1 << 40}, "hidden_size must be at most 1048576"),
        ({"num_hidden_layers": 1025}, "layers must be at most 1024"),
        ({"vocab_size": 10**30}, "vocab_size must be at most 1048576"),
        ({"vocab_size": "x" * 5000}, "vocab_size must be a positive whole number, not 'xxx"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob"),
        ({"attention_probs_dropout_prob": None}, "attention_probs_dropout_prob"),
        ({"hidden_sise": 1024}, "hidden_sise"),
        ({"a\nb" * 2000: 1}, "is unknown"),
        ({"hidden_act": [["gelu"] * 50] * 50}, "hidden_act"),
    ],
)
def test_a_wrong_configuration_is_refused_by_key(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps(GOOGLE | change))
    with pytest.raises(InputError, match=named) as caught:
        read_bert_config(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700


@pytest.mark.parametrize("key", sorted(GOOGLE))
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps({k: v for k, v in GOOGLE.items() if k != key}))
    with pytest.raises(InputError, match=key):
        read_bert_config(path)


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": NaN}', b" " * (1 << 21)]
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bert_config.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bert_config\.json"):
        read_bert_config(path)


def test_a_key_that_is_there_twice_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bert_config.json"
    path.write_text(json.dumps(GOOGLE)[:-1] + ', "hidden_size": 512}')
    with pytest.raises(InputError, match="key 'hidden_size' is there twice"):
        read_bert_config(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("layers", 0), ("heads", 3), ("vocabulary_size", 1.5), ("dropout", -0.1), ("dropout", True)],
)
def test_impossible_sizes_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(LARGE, **{field: value})
