"""Checkpoints that fit the model, and those that do not: every difference is named."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bert.checkpoint_names import name_in_transformers
from bert.checkpoint_weights import MOST_NAMED, list_shapes, list_some, open_weights
from harness.commands import InputError
from tests.bert.checkpoint_files import TINY, Bundle, make_variables


def make_state() -> dict[str, torch.Tensor]:
    return {name: torch.full(shape, 0.5) for name, shape in list_shapes(TINY).items()}


def test_each_difference_from_the_model_is_named(tmp_path: Path) -> None:
    variables = make_variables(TINY)
    del variables["bert/pooler/dense/bias"], variables["cls/predictions/output_bias"]
    variables["bert/extra"] = np.zeros(3, np.float32)
    layer = "bert/encoder/layer_0"
    # Of the shape that a weight of ours would have, were it not transposed.
    variables[f"{layer}/output/dense/kernel"] = np.zeros((8, 16), np.float32)
    variables["cls/seq_relationship/output_bias"] = np.zeros(2, np.int64)
    prefix = Bundle(tmp_path).write(variables)
    with pytest.raises(InputError) as caught:
        open_weights(prefix, TINY)
    assert str(caught.value) == (
        f"{prefix} has 29 tensors and does not fit the model's 30: it lacks "
        "bert/pooler/dense/bias, cls/predictions/output_bias; the model has no bert/extra; of "
        f"another shape are {layer}/output/dense/kernel (8, 16) instead of (16, 8); not fp32 are "
        "cls/seq_relationship/output_bias <i8; give the checkpoint and the configuration that "
        "belong together"
    )


def test_sizes_that_belong_to_another_checkpoint(tmp_path: Path) -> None:
    prefix = Bundle(tmp_path).write(make_variables(TINY))
    for change, reason in (
        ({"layers": 2}, "it lacks bert/encoder/layer_1/attention/output/LayerNorm/beta, "),
        ({"intermediate_size": 8}, r"intermediate/dense/bias \(16,\) instead of \(8,\)"),
        ({"vocabulary_size": 31}, r"word_embeddings \(30, 8\) instead of \(31, 8\)"),
        ({"positions": 13}, "position_embeddings"),
        ({"segments": 1}, "token_type_embeddings"),
        ({"hidden_size": 10}, "of another shape are .* and 7 more; give"),
    ):
        with pytest.raises(InputError, match=reason):
            open_weights(prefix, dataclasses.replace(TINY, **change))
    prefix = Bundle(tmp_path).write(make_variables(dataclasses.replace(TINY, layers=3)))
    with pytest.raises(
        InputError, match=r"has 62 tensors .* the model has no .* and 12 more; give"
    ):
        open_weights(prefix, TINY)


def test_as_many_names_as_a_reader_takes_in() -> None:
    names = [f"n{number}" for number in range(MOST_NAMED + 3)]
    assert list_some(names[:2]) == "n0, n1"
    assert list_some(names[:MOST_NAMED]) == ", ".join(names[:MOST_NAMED])
    assert list_some(names) == f"{', '.join(names[:MOST_NAMED])} and 3 more"


def test_numbers_that_are_not_finite(tmp_path: Path) -> None:
    variables = make_variables(TINY)
    variables["bert/pooler/dense/kernel"][3, 4] = np.inf
    weights = open_weights(Bundle(tmp_path).write(variables), TINY)
    with pytest.raises(InputError, match="bert/pooler/dense/kernel holds numbers that are not"):
        weights.read("pooler.weight")
    state = make_state()
    state["pooler.weight"][1, 1] = float("nan")
    save_file(state, tmp_path / "state.safetensors")
    with pytest.raises(InputError, match=r"pooler\.weight holds numbers that are not finite"):
        open_weights(tmp_path / "state.safetensors", TINY).read("pooler.weight")


@pytest.mark.parametrize("in_folder", [False, True])
def test_names_of_transformers_are_known(tmp_path: Path, in_folder: bool) -> None:
    state = {name: torch.randn(shape) for name, shape in list_shapes(TINY).items()}
    path = tmp_path / "model.safetensors"
    save_file({name_in_transformers(name): tensor for name, tensor in state.items()}, path)
    weights = open_weights(tmp_path if in_folder else path, TINY)
    assert list(weights) == list(state) and len(weights) == 30
    assert all(torch.equal(weights.read(name), state[name]) for name in state)


def test_states_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    good = make_state()
    missing = {name: tensor for name, tensor in good.items() if name != "pooler.bias"}
    for state, reason in (
        (missing, "it lacks pooler.bias;"),
        ({**good, "extra": torch.zeros(1)}, "the model has no extra;"),
        ({**good, "pooler.bias": torch.zeros(9)}, "pooler.bias (9,) instead of (8,);"),
        ({**good, "pooler.bias": torch.zeros(8).half()}, "not fp32 are pooler.bias F16;"),
        ({}, f"has 0 tensors and does not fit the model's 30: it lacks {min(good)}"),
    ):
        save_file(state, path)
        with pytest.raises(InputError, match=re.escape(reason)):
            open_weights(path, TINY)


def write_header(header: object, padding: int = 0) -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return len(text).to_bytes(8, "little") + text + bytes(padding)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        b"\xff" * 7 + b"\x7f" + b"{}",
        (1 << 27).to_bytes(8, "little") + b" " * 99,
        b"\x02" + bytes(7) + b"{]",
        b"text",
        write_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        write_header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, 12),
        write_header({"a": {"dtype": "F32", "shape": [1 << 62], "data_offsets": [0, 8]}}, 8),
        write_header({"a": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}}, 8),
        write_header(
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            },
            8,
        ),
        write_header(b'{"a":' * 5000),
    ],
)
def test_files_that_are_no_state(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{path} is not a sound .safetensors file")):
        open_weights(path, TINY)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        open_weights(tmp_path / "none.safetensors", TINY)
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.safetensors"):
        open_weights(tmp_path / "folder.safetensors", TINY)
    with pytest.raises(InputError, match="is missing: give the checkpoint's common beginning"):
        open_weights(tmp_path, TINY)
