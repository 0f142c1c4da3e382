"""Evaluation of BERT: masked-LM accuracy over every masked position, integer counts.

Rules: "Quality measure"; reference: metric_fn of run_pretraining.py (a micro-average over the
masked positions of all evaluation samples, without dropout).
"""

from __future__ import annotations

import torch.distributed as dist

from bert.data import EvaluationInput
from bert.step import TrainingStep
from harness.precision import check_finite


def evaluate(
    step: TrainingStep, evaluation: EvaluationInput, samples: int, world_size: int
) -> float:
    """Masked-LM accuracy over the whole evaluation set, as a fraction.

    samples: how many there are; counts are int64 and summed over ranks. The model is left in
    training mode. Raises InputError if the weights are not finite,
    RuntimeError if not exactly that many samples came.
    """
    check_finite(step.parameters)
    step.counts.zero_()
    step.model.eval()
    for batch in evaluation.epoch():
        step.evaluate(batch)
    step.model.train()
    if world_size > 1:
        dist.all_reduce(step.counts)
    correct, positions, seen = step.counts.tolist()
    if seen != samples:
        raise RuntimeError(f"evaluation saw {seen} samples of {samples}")
    return float(correct / positions)
