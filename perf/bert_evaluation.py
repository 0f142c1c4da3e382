"""What evaluation costs a BERT run: seconds of one evaluation beside those between two.

`python -m perf.bert_evaluation [--config FILE] [--device cpu|cuda]` builds the trainer's step and
evaluation as a run of that configuration does, graphs included, on synthetic sequences of
Wikipedia's lengths, and times a training step and one rank's share of an evaluation on one GPU (or
the CPU). What ranks send each other is not in either.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bert.budget import Budgets, plan_one_budget
from bert.config import Config
from bert.examples import ExampleSettings
from bert.probe import draw_lengths, make_probe_batch, make_synthetic_batches
from bert.step import TrainingStep
from harness.commands import GOOD, run_command
from harness.config import load_config
from harness.throughput import choose_device, describe_device
from perf.comparison import check_positive
from perf.device_times import make_parser, time_calls

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "bert" / "configs" / "h200_4x8.toml"
SAMPLES = 10_000  # of the closed division's evaluation set


@dataclass(frozen=True)
class Share:
    """One rank's part of an evaluation: batches of one shape, and how many of them."""

    budgets: Budgets
    batches: int


def count_ranks(config: Config) -> int:
    """GPUs of the system that a configuration is made for."""
    batch = config.batch
    return batch.global_batch_size // (batch.local_batch_size * batch.gradient_accumulation_steps)


def plan_share(config: Config, samples: int) -> Share:
    """The batches that a run gives one rank, as bert.data.EvaluationInput plans them."""
    ranks, longest = count_ranks(config), config.input.max_sequence_length
    batches = math.ceil(math.ceil(samples / ranks) / config.evaluation.local_batch_size)
    tokens = int(draw_lengths(samples, longest, seed=0).sum())
    settings = ExampleSettings(
        max_seq_length=longest,
        max_predictions_per_seq=config.input.max_predictions_per_sequence,
    )
    shares = ranks * batches
    return Share(plan_one_budget(-(-samples // shares), shares, tokens, settings), batches)


def measure(config: Config, device: torch.device, samples: int, turns: int) -> dict[str, object]:
    """Time a step and an evaluation, and what share of a run's time the second takes."""
    torch.manual_seed(0)
    step = TrainingStep(config, device, 0, 1, None, [config.optimizer.base_learning_rate])
    batch, share = make_probe_batch(config, device), plan_share(config, samples)
    (evaluated,) = make_synthetic_batches(config, share.budgets, device)
    # The step keeps a batch that its graph reads; what is evaluated is copied into it, as in a run.
    (kept,) = make_synthetic_batches(config, share.budgets, device)
    step.prepare([batch], [kept])
    step_seconds = time_calls(lambda: step.run(lambda _: batch), turns, device)

    def evaluate() -> list[int]:
        step.model.eval()
        for _ in range(share.batches):
            step.evaluate(evaluated)
        step.model.train()
        counts: list[int] = step.counts.tolist()
        return counts

    evaluation_seconds = time_calls(evaluate, turns, device)
    updates = config.evaluation.interval_samples / config.batch.global_batch_size
    between = math.ceil(updates) * step_seconds
    return {
        "device": describe_device(device),
        "ranks": count_ranks(config),
        "samples": samples,
        "batches_per_rank": share.batches,
        "step_seconds": step_seconds,
        "evaluation_seconds": evaluation_seconds,
        "seconds_between_evaluations": between,
        "share_of_run": evaluation_seconds / (evaluation_seconds + between),
    }


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = make_parser("bert_evaluation", __doc__, CONFIG, turns=10)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of the set (default: 10,000)")
    options = parser.parse_args(arguments)
    check_positive(options, "samples", "turns")
    config = load_config(options.config, Config)
    found = measure(config, choose_device(options.device), options.samples, options.turns)
    if options.json:
        print(json.dumps(found, indent=1))
        return GOOD
    print("{evaluation_seconds:.4f} s an evaluation, {step_seconds:.4f} s a step".format(**found))
    print(
        "{share_of_run:.2%} of a run on {ranks} such ranks is evaluation: {samples:,} samples, "
        "{batches_per_rank} batches a rank, {seconds_between_evaluations:.1f} s between two "
        "({device})".format(**found)
    )
    return GOOD


if __name__ == "__main__":
    run_command(main)
