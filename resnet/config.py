"""The ResNet-50 run's configuration: hyperparameters within the closed division's table.

Sources: training_rules.adoc, "Hyperparameters"; compliance rules 4.0.0 (closed_resnet_lars);
mlcommons/training resnet-tf2 (lars_util.py, common.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import harness.batch
from harness.batch import Communication, Graphs
from harness.commands import run_command
from harness.config import check, load_config, logged
from harness.config_command import check_fit, run_check
from harness.ops.table import find_operations_fault
from harness.precision import Precision
from harness.systems import System
from resnet.input_options import InputOptions
from resnet.model_config import ModelConfig, Operations

TARGET_ACCURACY = 0.759
ROOT = Path(__file__).resolve().parent.parent
EVALUATION_PERIOD_EPOCHS = 4
LARS_TRUST_COEFFICIENT = 0.001
# Below this global batch size the momentum is fixed ("32k" of the table).
FREE_MOMENTUM_GLOBAL_BATCH_SIZE = 32_000


@dataclass(frozen=True)
class Batch(harness.batch.Batch):
    """Images of a step.

    batch_norm_span: images that are normalised together, those of one rank or of several
    consecutive ones ("distributed batch normalization" is allowed).
    """

    batch_norm_span: int = logged("model_bn_span")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            self.batch_norm_span % self.local_batch_size == 0,
            "'batch_norm_span' must be 'local_batch_size' or a multiple of it",
        )

    @property
    def batch_norm_ranks(self) -> int:
        """Ranks whose images are normalised together."""
        return self.batch_norm_span // self.local_batch_size

    def check_world_size(self, world_size: int) -> str | None:
        """As harness.batch.Batch, and that ranks can be grouped for normalisation."""
        if world_size % self.batch_norm_ranks:
            return (
                f"[batch] batch_norm_span {self.batch_norm_span} is that of "
                f"{self.batch_norm_ranks} ranks, which do not divide {world_size}: make it "
                f"local_batch_size times a divisor"
            )
        return super().check_world_size(world_size)


@dataclass(frozen=True)
class Optimizer:
    """LARS and its polynomial schedule."""

    base_learning_rate: float = logged("lars_opt_base_learning_rate")
    end_learning_rate: float = logged("lars_opt_end_learning_rate")
    decay_power: int = logged("lars_opt_learning_rate_decay_poly_power")
    warmup_epochs: int = logged("lars_opt_learning_rate_warmup_epochs")
    decay_epochs: int
    momentum: float = logged("lars_opt_momentum")
    weight_decay: float = logged("lars_opt_weight_decay")
    epsilon: float = logged("lars_epsilon")
    label_smoothing: float

    def __post_init__(self) -> None:
        check(self.base_learning_rate >= 0, "'base_learning_rate' must not be negative")
        check(self.end_learning_rate == 0.0001, "'end_learning_rate' is 0.0001 by the rules")
        check(self.decay_power == 2, "'decay_power' is 2 by the rules")
        check(self.epsilon == 0.0, "'epsilon' is 0.0 by the rules")
        check(self.label_smoothing in (0.0, 0.1), "'label_smoothing' is 0.0 or 0.1 by the rules")
        check(
            0 <= self.warmup_epochs < self.decay_epochs, "'warmup_epochs' must end before the decay"
        )
        check(self.weight_decay > 0, "'weight_decay' must be positive")
        exponent = math.log2(self.weight_decay / 0.0001)
        check(
            abs(exponent - round(exponent)) < 1e-9,
            "'weight_decay' is 0.0001 times a power of two by the rules",
        )


@dataclass(frozen=True)
class Evaluation:
    """When to evaluate: every fourth epoch, the first at 1 to 4 (rules: "Quality measure")."""

    first_epoch: int
    log_weights: bool

    def __post_init__(self) -> None:
        check(
            1 <= self.first_epoch <= EVALUATION_PERIOD_EPOCHS,
            "'first_epoch' is 1, 2, 3 or 4 by the rules",
        )


@dataclass(frozen=True)
class Config:
    """One ResNet configuration file."""

    model: ModelConfig
    input: InputOptions
    batch: Batch
    optimizer: Optimizer
    evaluation: Evaluation
    precision: Precision
    communication: Communication
    graphs: Graphs
    operations: dict[str, str]

    def __post_init__(self) -> None:
        free = self.batch.global_batch_size >= FREE_MOMENTUM_GLOBAL_BATCH_SIZE
        check(
            free or self.optimizer.momentum == 0.9,
            "optimizer.momentum is 0.9 by the rules below a global batch size of 32,000",
        )
        check(
            self.model.input_channels == self.input.channels,
            "model.input_channels and input.channels must be equal",
        )
        fault = find_operations_fault(Operations, self.operations)
        check(fault is None, f"[operations] {fault}")


def look_at_config(system: System) -> str:
    """Read the configuration that a system names and return its file; no rank is needed.

    Raises InputError where the system's ranks could not use it.
    """
    file = system.benchmarks.resnet.config
    check_fit(system, load_config(ROOT / file, Config), file)
    return file


def main(arguments: Sequence[str]) -> int:
    """Say whether the ranks of a system can use the configuration that it names."""
    return run_check("resnet", look_at_config, arguments)


if __name__ == "__main__":
    run_command(main)
