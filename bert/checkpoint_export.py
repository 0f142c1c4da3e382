"""The checkpoint as a folder that transformers' BertForPreTraining loads, for a second opinion.

What is written needs nothing of transformers; who loads it computes with code that is not ours.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bert.checkpoint_file import write_tensors
from bert.checkpoint_names import name_in_transformers
from bert.checkpoint_weights import WEIGHTS_FILE, Weights
from bert.model import LAYER_NORM_EPS
from bert.model_config import INITIALIZER_RANGE, ModelConfig
from bert.vocabulary import read_vocabulary
from harness.commands import InputError
from harness.files import write_atomically

SPECIAL_PIECES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def make_transformers_config(config: ModelConfig) -> dict[str, object]:
    """Return the content of transformers' config.json for a model of these sizes.

    "gelu_new" is its name of the tanh form. Source: huggingface/transformers
    configuration_bert.py, activations.py.
    """
    return {
        "architectures": ["BertForPreTraining"],
        "model_type": "bert",
        "torch_dtype": "float32",
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.positions,
        "type_vocab_size": config.segments,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "hidden_act": "gelu_new",
        "layer_norm_eps": LAYER_NORM_EPS,
        "initializer_range": INITIALIZER_RANGE,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    }


def check_vocabulary(path: Path, config: ModelConfig) -> None:
    """Raise InputError unless the vocabulary has a piece for each row of the word embedding."""
    vocabulary = read_vocabulary(path)
    if len(vocabulary) != config.vocabulary_size:
        raise InputError(
            f"{path} has {len(vocabulary)} word pieces, the model {config.vocabulary_size}: give "
            "the vocab.txt that belongs to the checkpoint"
        )
    for piece in SPECIAL_PIECES.values():
        if piece not in vocabulary.ids:
            raise InputError(f"{path} has no line {piece}: give the vocab.txt of the checkpoint")


def export_weights(
    weights: Weights, config: ModelConfig, folder: Path, vocabulary: Path | None = None
) -> None:
    """Write config.json and model.safetensors, and with a vocabulary the tokenizer's files.

    The folder appears whole or not at all. Raises InputError where it is there already, where the
    vocabulary does not belong to the model or a weight is damaged; OSError.
    """
    if vocabulary is not None:
        check_vocabulary(vocabulary, config)
    with make_folder(folder) as unfinished:
        shapes = {name_in_transformers(name): shape for name, shape in weights.shapes.items()}
        ours = {name_in_transformers(name): name for name in weights.shapes}
        write_tensors(unfinished / WEIGHTS_FILE, shapes, lambda name: weights.read(ours[name]))
        write_json(unfinished / "config.json", make_transformers_config(config))
        if vocabulary is not None:
            with write_atomically(unfinished / "vocab.txt", "wb") as file:
                file.write(vocabulary.read_bytes())
            settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
            lengths = {"model_max_length": config.positions}
            write_json(unfinished / "tokenizer_config.json", settings | lengths | SPECIAL_PIECES)


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write a JSON document as a person reads it. Raises OSError."""
    with write_atomically(path) as file:
        file.write(json.dumps(content, indent=2) + "\n")


@contextmanager
def make_folder(folder: Path) -> Iterator[Path]:
    """Make a folder under a temporary name; it takes its own when the block ends well.

    On any error nothing is left. Raises InputError where the folder is there already, OSError.
    """
    if folder.exists() or folder.is_symlink():
        raise InputError(f"{folder} is there already: name a new folder, or remove that one first")
    folder = folder.absolute()
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        unfinished.mkdir()
    except OSError as error:
        error.filename = str(folder)  # the name that the user knows
        raise
    try:
        yield unfinished
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
