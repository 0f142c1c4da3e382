"""Gain of leaving padding out: BERT's training step on the same sequences, un-padded and padded.

`python -m perf.bert_padding` trains a small BERT of 512 positions on the CPU, forward, backward and
update, with sequence lengths as in Wikipedia. What carries over to a GPU is the number of tokens
that are not computed, not the seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from bert.config import Config
from bert.model import Batch, ModelConfig
from bert.probe import make_synthetic_batch
from bert.step import TrainingStep
from harness.commands import GOOD, Parser, run_command
from harness.config import load_config
from perf.comparison import Comparison, add_common_options, check_positive, measure_in_turns

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "bert" / "configs" / "demo.toml"
MAX_SEQUENCE_LENGTH = 512
MODEL = ModelConfig(
    vocabulary_size=1000,
    hidden_size=128,
    layers=2,
    heads=2,
    intermediate_size=512,
    positions=MAX_SEQUENCE_LENGTH,
    segments=2,
    dropout=0.1,
    attention_dropout=0.1,
)


def make_config() -> Config:
    """The demonstration's configuration with a small model of 512 positions."""
    config = load_config(CONFIG, Config)
    shape = dataclasses.replace(config.input, max_sequence_length=MAX_SEQUENCE_LENGTH)
    return dataclasses.replace(config, model=MODEL, input=shape)


def pad_batch(batch: Batch, length: int) -> Batch:
    """Fill every sequence with tokens 0 up to `length`: the work of a step that keeps padding.

    The padding is computed like any other token; the mask that a padded step needs besides is left
    out, to the peer's advantage. What is predicted is the same.
    """
    starts = batch.cu_seqlens[:-1].long()
    lengths = batch.cu_seqlens.diff().long()
    sequences = torch.arange(len(lengths))
    owner = torch.repeat_interleave(sequences, lengths)
    place = owner * length + torch.arange(len(owner)) - starts[owner]

    def spread(tokens: torch.Tensor) -> torch.Tensor:
        padded = torch.zeros(len(lengths) * length, dtype=tokens.dtype)
        padded[place] = tokens
        return padded

    return dataclasses.replace(
        batch,
        input_ids=spread(batch.input_ids),
        segment_ids=spread(batch.segment_ids),
        position_ids=torch.arange(length).repeat(len(lengths)),
        cu_seqlens=(torch.arange(len(lengths) + 1) * length).to(torch.int32),
        longest_sequence=length,
        masked_positions=place[batch.masked_positions],
    )


def compare(sequences: int, rounds: int) -> Comparison:
    """Measure both steps on one batch of `sequences` sequences."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = make_config()
    cpu = torch.device("cpu")
    step = TrainingStep(config, cpu, 0, 1, None, [config.optimizer.base_learning_rate])
    batch = make_synthetic_batch(config, sequences, cpu)
    padded = pad_batch(batch, MAX_SEQUENCE_LENGTH)

    def run(taken: Batch) -> None:
        step.run(lambda _: taken)

    turns = measure_in_turns(lambda: run(batch), lambda: run(padded), rounds)
    tokens, all_tokens = batch.input_ids.numel(), padded.input_ids.numel()
    return turns.compare(
        what="bert step, un-padded",
        peer_name=f"the same step, padded to {MAX_SEQUENCE_LENGTH}",
        per="sequence",
        count=sequences,
        how=f"getrusage, {rounds} turns of {sequences} sequences: {tokens:,} tokens against "
        f"{all_tokens:,} ({all_tokens / tokens:.3f} times as many), one thread, fp32",
    )


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = Parser(prog="python -m perf.bert_padding", description=__doc__)
    parser.add_argument("--sequences", type=int, default=32, help="sequences a step")
    add_common_options(parser, rounds=7)
    options = parser.parse_args(arguments)
    check_positive(options, "sequences", "rounds")
    compare(options.sequences, options.rounds).show(options.json)
    return GOOD


if __name__ == "__main__":
    run_command(main)
