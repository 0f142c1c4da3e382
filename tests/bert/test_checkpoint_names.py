"""Names of the weights, against a table of their own written from the reference's graph."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bert.checkpoint_export import make_transformers_config
from bert.checkpoint_names import belongs_to_optimizer, name_in_tensorflow, name_in_transformers
from bert.checkpoint_weights import list_shapes
from bert.model_config import ModelConfig
from tests.bert.checkpoint_files import LARGE, TINY


def list_variables(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The reference's variables with TensorFlow's shapes: kernels are (in, out)."""
    hidden, wide = (c.hidden_size,), (c.intermediate_size,)
    square, norm = hidden * 2, ("gamma", "beta")
    variables = {
        "bert/embeddings/word_embeddings": (c.vocabulary_size, *hidden),
        "bert/embeddings/position_embeddings": (c.positions, *hidden),
        "bert/embeddings/token_type_embeddings": (c.segments, *hidden),
        "bert/pooler/dense/kernel": square,
        "bert/pooler/dense/bias": hidden,
        "cls/predictions/transform/dense/kernel": square,
        "cls/predictions/transform/dense/bias": hidden,
        "cls/predictions/output_bias": (c.vocabulary_size,),
        "cls/seq_relationship/output_weights": (2, *hidden),
        "cls/seq_relationship/output_bias": (2,),
    }
    norms = ["bert/embeddings/LayerNorm", "cls/predictions/transform/LayerNorm"]
    for number in range(c.layers):
        layer = f"bert/encoder/layer_{number}"
        for name in ("self/query", "self/key", "self/value", "output/dense"):
            variables[f"{layer}/attention/{name}/kernel"] = square
            variables[f"{layer}/attention/{name}/bias"] = hidden
        variables[f"{layer}/intermediate/dense/kernel"] = hidden + wide
        variables[f"{layer}/intermediate/dense/bias"] = wide
        variables[f"{layer}/output/dense/kernel"] = wide + hidden
        variables[f"{layer}/output/dense/bias"] = hidden
        norms += [f"{layer}/attention/output/LayerNorm", f"{layer}/output/LayerNorm"]
    return variables | {f"{scope}/{name}": hidden for scope in norms for name in norm}


@pytest.mark.parametrize("config", [LARGE, dataclasses.replace(TINY, layers=3)])
def test_names_shapes_and_transpositions(config: ModelConfig) -> None:
    found = {}
    for ours, shape in list_shapes(config).items():
        name, transposed = name_in_tensorflow(ours)
        assert transposed == name.endswith("/kernel")
        found[name] = shape[::-1] if transposed else shape
    assert found == list_variables(config)
    assert len(found) == 16 * config.layers + 14


def test_a_module_finds_its_own_variable() -> None:
    for ours, theirs in (
        ("embeddings.token_type.weight", "bert/embeddings/token_type_embeddings"),
        ("encoder.7.attention.key.weight", "bert/encoder/layer_7/attention/self/key/kernel"),
        (
            "encoder.11.attention.layer_norm.weight",
            "bert/encoder/layer_11/attention/output/LayerNorm/gamma",
        ),
        ("encoder.0.feed_forward.layer_norm.bias", "bert/encoder/layer_0/output/LayerNorm/beta"),
        ("encoder.3.feed_forward.output.bias", "bert/encoder/layer_3/output/dense/bias"),
        ("next_sentence.weight", "cls/seq_relationship/output_weights"),
        ("masked_lm.output_bias", "cls/predictions/output_bias"),
    ):
        assert name_in_tensorflow(ours)[0] == theirs
    for name in ("encoder.0.router.weight", "cls.weight", "weight"):
        with pytest.raises(ValueError, match="no parameter of BERT"):
            name_in_tensorflow(name)


def test_names_and_shapes_are_those_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.BertForPreTraining(
            transformers.BertConfig(**make_transformers_config(LARGE))
        )
    theirs = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert {name_in_transformers(n): shape for n, shape in list_shapes(LARGE).items()} == theirs


def test_what_an_optimizer_keeps() -> None:
    trained = frozenset({"a/kernel"})
    for name in ("global_step", "beta1_power", "a/kernel/LAMB_1", "a/kernel/adam_v"):
        assert belongs_to_optimizer(name, trained)
    for name in ("a/kernel", "b/kernel/LAMB", "a/kernel/LAMB/LAMB", "a/kernel/momentum", "LAMB"):
        assert not belongs_to_optimizer(name, trained)
