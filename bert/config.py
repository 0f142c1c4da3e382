"""The BERT run's configuration: hyperparameters of LAMB and its schedule, all free by the rules.

Sources: training_rules.adoc, "Hyperparameters" and "Benchmark Specific Rules"; compliance rules
4.0.0 (closed_bert); mlcommons/training bert (optimization.py, lamb_optimizer_v1.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import harness.batch
from bert.model_config import ModelConfig, Operations
from harness.batch import Graphs
from harness.commands import InputError, run_command
from harness.config import check, load_config, logged
from harness.config_command import check_fit, run_check
from harness.ops.table import find_operations_fault
from harness.precision import Precision
from harness.schedules import evaluation_interval_samples, evaluation_updates
from harness.systems import System

TARGET_ACCURACY = 0.720
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Batch(harness.batch.Batch):
    """Sequences of a step."""

    local_batch_size: int = logged("d_batch_size")


@dataclass(frozen=True)
class Input:
    """Shape of the prepared samples, and how far ahead batches are made."""

    max_sequence_length: int = logged("max_sequence_length")
    max_predictions_per_sequence: int = logged("max_predictions_per_seq")
    prefetch_batches: int

    def __post_init__(self) -> None:
        check(self.max_sequence_length >= 1, "'max_sequence_length' must be at least 1")
        check(
            self.max_predictions_per_sequence >= 1,
            "'max_predictions_per_sequence' must be at least 1",
        )
        check(self.prefetch_batches >= 1, "'prefetch_batches' must be at least 1")


@dataclass(frozen=True)
class Optimizer:
    """LAMB with linear decay.

    gradient_clip: before_reduce clips each rank's own gradient, after_reduce their mean; both are
    allowed ("Benchmark Specific Rules", BERT).
    """

    base_learning_rate: float = logged("opt_base_learning_rate")
    training_steps: int = logged("opt_learning_rate_training_steps")
    warmup_steps: int = logged("opt_learning_rate_warmup_steps")
    start_warmup_step: int = logged("start_warmup_step")
    decay_power: float = logged("opt_lamb_learning_rate_decay_poly_power")
    beta_1: float = logged("opt_lamb_beta_1")
    beta_2: float = logged("opt_lamb_beta_2")
    epsilon: float = logged("opt_lamb_epsilon")
    weight_decay: float = logged("opt_lamb_weight_decay_rate")
    max_gradient_norm: float = logged("opt_gradient_clip_norm")
    gradient_clip: Literal["before_reduce", "after_reduce"] = logged("gradient_clip")

    def __post_init__(self) -> None:
        check(self.base_learning_rate >= 0, "'base_learning_rate' must not be negative")
        check(self.training_steps >= 1, "'training_steps' must be at least 1")
        check(self.warmup_steps >= 0, "'warmup_steps' must not be negative")
        check(
            self.warmup_steps == 0 or self.start_warmup_step <= 0,
            "'start_warmup_step' must not be positive: the first learning rates would be negative",
        )
        check(self.decay_power == 1.0, "'decay_power' is 1.0 in the reference's schedule")
        check(0 <= self.beta_1 < 1 and 0 <= self.beta_2 < 1, "betas lie in [0, 1)")
        check(self.epsilon > 0, "'epsilon' must be positive")
        check(self.weight_decay >= 0, "'weight_decay' must not be negative")
        check(self.max_gradient_norm == 1.0, "'max_gradient_norm' is 1.0 in the reference")


@dataclass(frozen=True)
class Evaluation:
    """Samples between evaluations: the rule's figure for this batch size (or a demonstration's)."""

    interval_samples: int
    local_batch_size: int
    log_weights: bool

    def __post_init__(self) -> None:
        check(self.interval_samples >= 1, "'interval_samples' must be at least 1")
        check(self.local_batch_size >= 1, "'local_batch_size' must be at least 1")


@dataclass(frozen=True)
class Communication(harness.batch.Communication):
    """How gradients are averaged; sharded_optimizer: every rank updates a part of each bucket."""

    sharded_optimizer: bool


@dataclass(frozen=True)
class Config:
    """One BERT configuration file."""

    model: ModelConfig
    input: Input
    batch: Batch
    optimizer: Optimizer
    evaluation: Evaluation
    precision: Precision
    communication: Communication
    graphs: Graphs
    operations: dict[str, str]

    def __post_init__(self) -> None:
        check(
            self.input.max_sequence_length <= self.model.positions,
            "input.max_sequence_length must not exceed model.positions",
        )
        check(
            self.optimizer.gradient_clip == "after_reduce"
            or not self.communication.sharded_optimizer,
            "optimizer.gradient_clip 'before_reduce' and communication.sharded_optimizer exclude "
            "each other: sharding saves by overlapping what clipping has to wait for",
        )
        fault = find_operations_fault(Operations, self.operations)
        check(fault is None, f"[operations] {fault}")


def check_evaluation_interval(system: System, config: Config) -> None:
    """Refuse an interval that is not the rule's, unless the system is the demonstration."""
    stated = config.evaluation.interval_samples
    rule = evaluation_interval_samples(config.batch.global_batch_size)
    if stated != rule and system.campaign.profile != "demo":
        raise InputError(
            f"{system.benchmarks.bert.config}: evaluation.interval_samples is {stated}, the rule "
            f"asks for {rule} at a global batch size of {config.batch.global_batch_size}"
        )


def list_evaluation_updates(system: System, config: Config) -> list[int]:
    """Return the updates that an evaluation follows. Raises InputError where there is none."""
    interval, batch = config.evaluation.interval_samples, config.batch.global_batch_size
    steps = config.optimizer.training_steps
    updates = evaluation_updates(interval, batch, steps)
    if not updates:
        raise InputError(
            f"{system.benchmarks.bert.config}: optimizer.training_steps is {steps} and ends the "
            f"run before its first evaluation, after update {-(-interval // batch)}: raise it"
        )
    return updates


def look_at_config(system: System) -> str:
    """Read the configuration that a system names and return its file; no rank is needed.

    Raises InputError where the system's ranks could not use it.
    """
    file = system.benchmarks.bert.config
    config = load_config(ROOT / file, Config)
    check_fit(system, config, file)
    check_evaluation_interval(system, config)
    list_evaluation_updates(system, config)
    return file


def main(arguments: Sequence[str]) -> int:
    """Say whether the ranks of a system can use the configuration that it names."""
    return run_check("bert", look_at_config, arguments)


if __name__ == "__main__":
    run_command(main)
