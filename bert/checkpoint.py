"""The starting checkpoint: converted from TensorFlow, kept as .safetensors, evaluated.

python -m bert.checkpoint convert|evaluate; --help tells each one's options. Only the trained
variables are taken over: a run starts with empty optimizer state at step 0, as the reference does.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bert.checkpoint_evaluation import evaluate_examples, read_examples
from bert.model import BertForPretraining, Operations
from bert.model_config import ModelConfig, read_bert_config
from bert.tensorflow_checkpoint import TensorflowCheckpoint
from harness.commands import GOOD, InputError, Parser, run_command
from harness.files import write_atomically
from harness.ops import resolve_operations
from harness.progress import Progress

# Ours -> TensorFlow's, for what a module's name begins with; the first that fits counts.
MODULE_NAMES = (
    (r"embeddings\.(word|position|token_type)", r"bert/embeddings/\1_embeddings"),
    (r"embeddings\.layer_norm", r"bert/embeddings/LayerNorm"),
    (r"encoder\.(\d+)\.attention\.(query|key|value)", r"bert/encoder/layer_\1/attention/self/\2"),
    (r"encoder\.(\d+)\.attention\.output", r"bert/encoder/layer_\1/attention/output/dense"),
    (r"encoder\.(\d+)\.attention\.layer_norm", r"bert/encoder/layer_\1/attention/output/LayerNorm"),
    (r"encoder\.(\d+)\.feed_forward\.intermediate", r"bert/encoder/layer_\1/intermediate/dense"),
    (r"encoder\.(\d+)\.feed_forward\.output", r"bert/encoder/layer_\1/output/dense"),
    (r"encoder\.(\d+)\.feed_forward\.layer_norm", r"bert/encoder/layer_\1/output/LayerNorm"),
    (r"pooler", r"bert/pooler/dense"),
    (r"masked_lm\.transform", r"cls/predictions/transform/dense"),
    (r"masked_lm\.layer_norm", r"cls/predictions/transform/LayerNorm"),
    (r"masked_lm", r"cls/predictions"),
    (r"next_sentence", r"cls/seq_relationship"),
)
# What an optimizer keeps beside the variables: not restored, so not asked for and not refused.
OPTIMIZER_VARIABLES = frozenset({"global_step", "beta1_power", "beta2_power"})
OPTIMIZER_SLOT = re.compile(r"(.+)/(?:LAMB|LAMB_1|Adam|Adam_1|adam_m|adam_v)")
FLOAT = "<f4"


def name_in_tensorflow(name: str) -> tuple[str, bool]:
    """Return TensorFlow's name of a parameter of ours, and whether its matrix lies transposed.

    Source: mlcommons/training bert modeling.py; dense kernels are (in, out) there.
    """
    module, _, leaf = name.rpartition(".")
    for pattern, replacement in MODULE_NAMES:
        match = re.fullmatch(pattern, module)
        if match:
            scope = match.expand(replacement)
            break
    else:
        raise ValueError(f"{name} is no parameter of BERT")
    if scope.endswith("_embeddings"):
        return scope, False
    if scope.endswith("/LayerNorm"):
        return f"{scope}/{'gamma' if leaf == 'weight' else 'beta'}", False
    if scope == "cls/seq_relationship":
        return f"{scope}/output_{'weights' if leaf == 'weight' else 'bias'}", False
    if scope == "cls/predictions":
        return f"{scope}/{leaf}", False
    return f"{scope}/{'kernel' if leaf == 'weight' else 'bias'}", leaf == "weight"


def plain_operations() -> Operations:
    """Return the operations in plain PyTorch, which define what every other must compute."""
    names = Operations.__dataclass_fields__
    return resolve_operations(Operations, dict.fromkeys(names, "torch"))


def build_shapes(config: ModelConfig) -> BertForPretraining:
    """Build the trainer's model without numbers: shapes alone."""
    with torch.device("meta"):
        return BertForPretraining(config, plain_operations())


def check_names(what: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    """Raise InputError, naming the first few, where names are missing or too many."""
    for problem, names in (
        ("lacks", sorted(set(wanted) - set(found))),
        ("has, beside what the model has,", sorted(set(found) - set(wanted))),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InputError(
                f"{what} {problem} {', '.join(names[:3])}{more}: give the checkpoint and the "
                "bert_config.json that belong together"
            )


def check_shape(what: str, name: str, found: Sequence[int], wanted: Sequence[int]) -> None:
    """Raise InputError where a tensor is not of the model's shape."""
    if tuple(found) != tuple(wanted):
        raise InputError(
            f"{what}: {name} has the shape {tuple(found)} instead of {tuple(wanted)}: give the "
            "checkpoint and the bert_config.json that belong together"
        )


def read_tensorflow_state(prefix: Path | str, config: ModelConfig) -> dict[str, Tensor]:
    """Read the trained variables of a TensorFlow checkpoint under our names, fp32, in our shapes.

    Raises InputError where one is missing, unknown, mis-shaped, not fp32, not finite or damaged.
    """
    checkpoint = TensorflowCheckpoint(prefix)
    shapes = {name: p.shape for name, p in build_shapes(config).named_parameters()}
    names = {name: name_in_tensorflow(name) for name in shapes}
    trained = {name for name, _ in names.values()}
    found = []
    for name in checkpoint.variables:
        slot = OPTIMIZER_SLOT.fullmatch(name)
        if name not in OPTIMIZER_VARIABLES and not (slot and slot[1] in trained):
            found.append(name)
    check_names(str(prefix), found, sorted(trained))
    for name, (source, transposed) in names.items():
        variable = checkpoint.variables[source]
        wanted = tuple(shapes[name])
        check_shape(str(prefix), source, variable.shape, wanted[::-1] if transposed else wanted)
        if variable.dtype != FLOAT:
            raise InputError(f"{prefix}: {source} is of type {variable.dtype}, not fp32")
    state = {}
    progress = Progress("read", len(names), "variables")
    for name, (source, transposed) in names.items():
        values = checkpoint.read(source)
        if not np.isfinite(values).all():
            raise InputError(f"{prefix}: {source} holds numbers that are not finite")
        # A transposed view of the mapped numbers would be kept as it lies: copy it into order.
        state[name] = torch.from_numpy(np.ascontiguousarray(values.T if transposed else values))
        progress.update(len(state))
    return state


def write_state(
    path: Path | str, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors and texts about them as .safetensors, whole or not at all. Raises OSError."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    with write_atomically(path, "wb") as file:
        try:
            save_file(tensors, file.name, {"format": "pt", **(metadata or {})})
        except SafetensorError as error:
            raise OSError(f"{path} could not be written: {error}") from error


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Read the tensors of a .safetensors file. Raises InputError where it is none, OSError."""
    os.stat(path)  # the library's own complaint would not name the file
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a sound .safetensors file ({error}): make it anew with "
            "python -m bert.checkpoint convert"
        ) from None


def read_checkpoint(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Read a converted checkpoint, or a TensorFlow one by its prefix, for a model of this size.

    Raises InputError where a tensor is missing, too many, mis-shaped or not fp32.
    """
    if path.suffix != ".safetensors":
        return read_tensorflow_state(path, config)
    state = read_state(path)
    shapes = {name: p.shape for name, p in build_shapes(config).named_parameters()}
    check_names(str(path), list(state), list(shapes))
    for name, tensor in state.items():
        check_shape(str(path), name, tensor.shape, shapes[name])
        if tensor.dtype != torch.float32:
            raise InputError(f"{path}: {name} is of type {tensor.dtype}, not torch.float32")
    return state


def load_model(path: Path, config: ModelConfig) -> BertForPretraining:
    """Make the model of a checkpoint, for evaluation: fp32, on the CPU, without dropout."""
    model = build_shapes(config)
    model.load_state_dict(read_checkpoint(path, config), assign=True)
    return model.eval()


def make_parser() -> Parser:
    """Describe the command line."""
    parser = Parser("python -m bert.checkpoint", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    convert = commands.add_parser("convert", help="TensorFlow checkpoint to .safetensors")
    evaluate = commands.add_parser("evaluate", help="losses and accuracy on padded examples")
    for command in (convert, evaluate):
        command.add_argument(
            "--checkpoint", type=Path, required=True, help="TensorFlow PREFIX, or .safetensors"
        )
        command.add_argument("--config", type=Path, required=True, help="bert_config.json")
    convert.add_argument("--output", type=Path, required=True, help=".safetensors to write")
    evaluate.add_argument("--examples", type=Path, required=True, help=".npz of padded features")
    evaluate.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    options = make_parser().parse_args(arguments)
    config = read_bert_config(options.config)
    if options.command == "convert":
        if options.output.suffix != ".safetensors":
            raise InputError(f"--output must end in .safetensors, but {options.output} does not")
        state = read_tensorflow_state(options.checkpoint, config)
        write_state(options.output, state, {"converted_from": options.checkpoint.name})
        return GOOD
    examples = read_examples(options.examples, config)
    model = load_model(options.checkpoint, config)
    result = evaluate_examples(model, plain_operations(), examples)
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:20} {value}")
    return GOOD


if __name__ == "__main__":
    run_command(main)
