"""The rate of BERT's training step on synthetic sequences of Wikipedia's lengths."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch

from bert.budget import Budgets, plan_one_budget
from bert.config import Config
from bert.examples import ExampleSettings
from bert.model import Batch
from bert.shards import FlatBatch
from bert.static_batch import StaticBatch, make_static_batch
from bert.step import TrainingStep
from harness.commands import GOOD, InputError
from harness.config import load_config
from harness.rank_probe import describe_ranks, probe_ranks
from harness.step_profile import describe_profile, make_profile_folder, profile_steps
from harness.throughput import choose_device, measure_steps

# Share of sequences by length, of 512 (Wikipedia: graphcore/examples, packedBERT/histograms.py).
LENGTH_EDGES = (5, 65, 129, 193, 257, 385, 512, 513)
LENGTH_SHARES = (0.176, 0.194, 0.114, 0.083, 0.117, 0.082, 0.234)
FULL_LENGTH = 512
MASKED_SHARE = 0.15


def draw_lengths(sequences: int, max_sequence_length: int, seed: int) -> np.ndarray:
    """Draw sequence lengths (N,) int64 as in Wikipedia, scaled to the longest sequence."""
    generator = np.random.default_rng(seed)
    shares = np.array(LENGTH_SHARES) / sum(LENGTH_SHARES)
    classes = generator.choice(len(shares), size=sequences, p=shares)
    low, high = np.array(LENGTH_EDGES[:-1])[classes], np.array(LENGTH_EDGES[1:])[classes]
    lengths = generator.integers(low, high) * max_sequence_length // FULL_LENGTH
    return np.clip(lengths, min(5, max_sequence_length), max_sequence_length)


def fit_lengths(lengths: np.ndarray, tokens: int, max_sequence_length: int) -> np.ndarray:
    """Lengthen or shorten sequences (N,) by nearly equal amounts until they have `tokens` tokens.

    No length leaves 1 ... max_sequence_length; the total lies in between what that allows.
    """
    while missing := tokens - int(lengths.sum()):
        change = np.zeros_like(lengths)
        growing = missing > 0
        able = np.flatnonzero(lengths < max_sequence_length if growing else lengths > 1)
        if not len(able):
            break
        each, more = divmod(abs(missing), len(able))
        change[able] = each
        change[able[:more]] += 1
        lengths = np.clip(lengths + (change if growing else -change), 1, max_sequence_length)
    return lengths


def make_synthetic_sequences(config: Config, lengths: np.ndarray) -> FlatBatch:
    """Make sequences (N,) of random tokens, 15 % of each sequence's to be predicted."""
    generator = np.random.default_rng(0)
    cu_seqlens = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    tokens, vocabulary = int(cu_seqlens[-1]), config.model.vocabulary_size
    masked = np.round(lengths * MASKED_SHARE).astype(np.int64)
    masked = np.clip(masked, 1, config.input.max_predictions_per_sequence)
    positions = [
        start + np.sort(generator.choice(length, size=count, replace=False))
        for start, length, count in zip(cu_seqlens[:-1], lengths, masked, strict=True)
    ]
    within = np.concatenate([np.arange(length) for length in lengths])
    return FlatBatch(
        input_ids=generator.integers(0, vocabulary, tokens),
        segment_ids=(within > np.repeat(lengths // 2, lengths)).astype(np.int64),
        position_ids=within,
        cu_seqlens=cu_seqlens,
        masked_positions=np.concatenate(positions),
        masked_ids=generator.integers(0, vocabulary, int(masked.sum())),
        masked_counts=masked.astype(np.int32),
        next_sentence_labels=generator.integers(0, 2, len(lengths)),
    )


def make_synthetic_batch(config: Config, sequences: int, device: torch.device) -> Batch:
    """Make a batch of random sequences of Wikipedia's lengths, not filled up."""
    lengths = draw_lengths(sequences, config.input.max_sequence_length, seed=0)
    flat = make_synthetic_sequences(config, lengths)
    fields = flat._asdict()
    del fields["masked_counts"]
    tensors = {name: torch.from_numpy(array).to(device) for name, array in fields.items()}
    return Batch(longest_sequence=int(lengths.max()), **tensors)


def make_synthetic_batches(
    config: Config, budgets: Budgets, device: torch.device
) -> list[StaticBatch]:
    """Make one batch for each listed budget, nearly full, in memory of its own.

    What a graph is captured with: `TrainingInput.next_into` copies real batches into them.
    """
    longest = config.input.max_sequence_length
    drawn = draw_lengths(budgets.sequences, longest, seed=0)
    batches = []
    for number, budget in enumerate(budgets.listed):
        lengths = fit_lengths(drawn, budget.tokens - budgets.spacing // 2, longest)
        flat = make_synthetic_sequences(config, lengths)
        batches.append(make_static_batch(flat, number, budget, device))
    return batches


def make_probe_batch(config: Config, device: torch.device) -> StaticBatch:
    """Make one micro-batch of Wikipedia's lengths, filled up as a run's batches are."""
    sequences, longest = config.batch.local_batch_size, config.input.max_sequence_length
    tokens = int(draw_lengths(sequences, longest, seed=0).sum())
    settings = ExampleSettings(
        max_seq_length=longest,
        max_predictions_per_seq=config.input.max_predictions_per_sequence,
    )
    budgets = plan_one_budget(sequences, 1, tokens, settings)
    (batch,) = make_synthetic_batches(config, budgets, device)
    return batch


def make_step(
    config: Config, device: torch.device, rank: int, world_size: int
) -> tuple[Callable[[], None], Callable[[], None], dict[str, Any]]:
    """Make a prepared step on the same synthetic sequences on every rank.

    Returns the step, the same without graphs, and its batch's tokens.
    """
    rates = [config.optimizer.base_learning_rate]
    step = TrainingStep(config, device, rank, world_size, None, rates)
    batch = make_probe_batch(config, device)
    step.prepare([batch], [])
    facts = {"tokens_per_micro_batch": int(batch.input_ids.numel())}
    return partial(step.run, lambda _: batch), partial(step.run_eagerly, batch), facts


def probe(options: argparse.Namespace) -> int:
    """Measure `options.steps` steps, of one rank or of all ranks of a system, and print them."""
    if options.steps < 1:
        raise InputError(f"--steps must be at least 1, is {options.steps}")
    if options.system is not None:
        document = probe_ranks("bert", options, Config, make_step)
        if document is not None:
            text = json.dumps(document, indent=1)
            print(text if options.json else describe_ranks(document, "sequences"))
        return GOOD
    config = load_config(options.config, Config)
    if options.profile is not None:
        make_profile_folder(options.profile)
    device = choose_device(options.device)
    torch.manual_seed(0)
    step, eagerly, facts = make_step(config, device, 0, 1)
    samples = config.batch.local_batch_size * config.batch.gradient_accumulation_steps
    measured = measure_steps(step, options.steps, samples, device)
    if options.profile is not None:
        found = profile_steps(step, eagerly, device, options.profile)
        print(describe_profile(found), file=sys.stderr)
    measured = {"benchmark": "bert", "config": str(options.config), **facts, **measured}
    if options.json:
        print(json.dumps(measured, indent=1))
    else:
        rate, median = measured["samples_per_second"], measured["step_seconds"]["median"]
        print(f"{rate:,.1f} sequences/s on one rank ({1000 * median:.2f} ms a step, median)")
    return GOOD
