"""The starting checkpoint: converted from TensorFlow, kept as .safetensors, exported, evaluated.

python -m bert.checkpoint convert|export|evaluate; --help tells each one's options. Only the
trained variables are taken over: a run starts with empty optimizer state at step 0, as the
reference does.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from bert.checkpoint_evaluation import evaluate_examples, read_examples
from bert.checkpoint_export import export_weights
from bert.checkpoint_file import write_tensors
from bert.checkpoint_weights import (
    build_shapes,
    open_tensorflow_weights,
    open_weights,
    plain_operations,
)
from bert.model import BertForPretraining
from bert.model_config import ModelConfig, read_bert_config
from harness.commands import GOOD, InputError, Parser, run_command


def read_checkpoint(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Read a checkpoint of any form that open_weights knows, for a model of this size.

    Raises InputError where a tensor is missing, too many, mis-shaped, not fp32 or not finite.
    """
    weights = open_weights(path, config)
    return {name: weights.read(name) for name in weights}


def write_state(
    path: Path | str, state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write fp32 tensors and texts about them as .safetensors, whole or not at all.

    Raises ValueError where one is not fp32, OSError.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    write_tensors(path, shapes, state.__getitem__, metadata)


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
    export = commands.add_parser("export", help="to a folder that transformers loads")
    evaluate = commands.add_parser("evaluate", help="losses and accuracy on padded examples")
    forms = "TensorFlow PREFIX, .safetensors, or a folder that export made"
    for command in (convert, export, evaluate):
        command.add_argument(
            "--checkpoint",
            type=Path,
            required=True,
            help="TensorFlow PREFIX" if command is convert else forms,
        )
        command.add_argument("--config", type=Path, required=True, help="bert_config.json")
    convert.add_argument("--output", type=Path, required=True, help=".safetensors to write")
    export.add_argument("--hf", type=Path, required=True, metavar="DIR", help="folder to make")
    export.add_argument("--vocab", type=Path, help="vocab.txt, for transformers' BertTokenizer")
    evaluate.add_argument("--examples", type=Path, required=True, help=".npz of padded features")
    evaluate.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit status."""
    options = make_parser().parse_args(arguments)
    config = read_bert_config(options.config)
    if options.command == "convert":
        convert(options, config)
    elif options.command == "export":
        export_weights(open_weights(options.checkpoint, config), config, options.hf, options.vocab)
    else:
        evaluate(options, config)
    return GOOD


def convert(options: argparse.Namespace, config: ModelConfig) -> None:
    """Write a TensorFlow checkpoint's trained variables as .safetensors, one after the other."""
    if options.output.suffix != ".safetensors":
        raise InputError(f"--output must end in .safetensors, but {options.output} does not")
    weights = open_tensorflow_weights(options.checkpoint, config)
    origin = {"converted_from": options.checkpoint.name}
    write_tensors(options.output, weights.shapes, weights.read, origin)


def evaluate(options: argparse.Namespace, config: ModelConfig) -> None:
    """Print losses and accuracy of a checkpoint on examples."""
    examples = read_examples(options.examples, config)
    model = load_model(options.checkpoint, config)
    result = evaluate_examples(model, plain_operations(), examples)
    if not all(map(math.isfinite, result.values())):
        raise InputError(
            f"{options.checkpoint}: the losses on {options.examples} are not finite: give a "
            "checkpoint that has not diverged"
        )
    if options.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:20} {value}")


if __name__ == "__main__":
    run_command(main)
