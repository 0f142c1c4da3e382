"""What the MLPerf Training rules fix for the two benchmarks, closed division.

Source: mlcommons/training_policies, training_rules.adoc at 6e668456 (ruleset 4.0.0). What a request
for proposals asks beside it, the weights of the score among it, stands in `scoring/profiles/`.
"""

from __future__ import annotations

import math
from typing import Any, TypeGuard

BENCHMARKS = ("resnet", "bert")
TARGETS = {"resnet": 0.759, "bert": 0.720}

INITIALISATION_LIMIT_MS = 30 * 60 * 1000
LARS_FREE_MOMENTUM_BATCH = 32_000
NUMBER_LIMIT = 10**15

# Settings of an optimizer that the stock rules do not know are hyperparameters as well.
HYPERPARAMETER_PREFIXES = ("opt_", "lars_", "sgd_")
# Every key below must have one value, the same in all runs of a result.
HYPERPARAMETER_KEYS = {
    "resnet": (
        "gradient_accumulation_steps",
        "opt_name",
        "model_bn_span",
        "lars_opt_base_learning_rate",
        "lars_opt_end_learning_rate",
        "lars_opt_learning_rate_decay_poly_power",
        "lars_opt_learning_rate_decay_steps",
        "lars_opt_learning_rate_warmup_epochs",
        "lars_opt_momentum",
        "lars_opt_weight_decay",
        "lars_epsilon",
        "sgd_opt_base_learning_rate",
        "sgd_opt_end_learning_rate",
        "sgd_opt_learning_rate_decay_poly_power",
        "sgd_opt_learning_rate_decay_steps",
        "sgd_opt_momentum",
        "sgd_opt_weight_decay",
        "opt_learning_rate_warmup_epochs",
    ),
    "bert": (
        "gradient_accumulation_steps",
        "opt_name",
        "max_sequence_length",
        "max_predictions_per_seq",
        "opt_base_learning_rate",
        "opt_epsilon",
        "opt_lamb_epsilon",
        "opt_lamb_beta_1",
        "opt_lamb_beta_2",
        "opt_lamb_weight_decay_rate",
        "opt_lamb_learning_rate_decay_poly_power",
        "opt_learning_rate_training_steps",
        "opt_learning_rate_warmup_steps",
        "num_warmup_steps",
        "start_warmup_step",
    ),
}


def compute_bert_interval_samples(global_batch_size: int) -> int:
    """Give the samples between two BERT evaluations (rules, Quality measure)."""
    return math.floor(0.05 * (230.23 * global_batch_size + 3_000_000) / 25_000) * 25_000


def is_number(value: Any) -> TypeGuard[float]:
    """Say whether a logged value is a number that can be computed with.

    True and False are none, nor are NaN, infinity, and what products would overflow with.
    """
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -NUMBER_LIMIT <= value <= NUMBER_LIMIT
    )


def is_close(value: Any, wanted: float) -> bool:
    """Say whether a logged value is the wanted number up to the rounding of its printing."""
    return is_number(value) and math.isclose(value, wanted, rel_tol=1e-6, abs_tol=1e-12)


def is_power_of_two_of(value: Any, unit: float) -> bool:
    """Say whether a logged value is `unit` times 2^N, N any integer."""
    if not is_number(value) or value <= 0:
        return False
    exponent = math.log2(value / unit)
    return abs(exponent - round(exponent)) < 1e-5


def is_multiple_of(value: Any, unit: float) -> bool:
    """Say whether a logged value is a whole multiple of `unit`, at least one of it."""
    if not is_number(value) or value <= 0 or value / unit > 1e12:
        return False
    ratio = value / unit
    return round(ratio) >= 1 and abs(ratio - round(ratio)) < 1e-5


def is_count(value: Any) -> bool:
    """Say whether a logged value is a whole number from 0 on."""
    return is_number(value) and value >= 0 and value == math.floor(value)
