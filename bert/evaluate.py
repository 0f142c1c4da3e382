"""Evaluation of BERT: masked-LM accuracy over every masked position, integer counts.

Rules: "Quality measure"; reference: metric_fn of run_pretraining.py (a micro-average over the
masked positions of all evaluation samples, without dropout).
"""

from __future__ import annotations

import torch.distributed as dist

from bert.data import EvaluationInput
from bert.shards import Manifest
from bert.step import TrainingStep
from harness.precision import check_finite


def evaluate(
    step: TrainingStep, evaluation: EvaluationInput, whole: Manifest, world_size: int
) -> float:
    """Masked-LM accuracy over the whole evaluation set, as a fraction.

    whole: the set, whose samples and masked tokens must all have come; counts are int64 and summed
    over ranks. The model is left in training mode. Raises InputError if the weights are not
    finite, RuntimeError if not exactly those samples and masked tokens came.
    """
    step.gather_weights()
    check_finite(step.parameters)
    step.counts.zero_()
    step.model.eval()
    for batch in evaluation.epoch():
        step.evaluate(batch)
    step.model.train()
    if world_size > 1:
        dist.all_reduce(step.counts)
    correct, positions, seen = step.counts.tolist()
    if (seen, positions) != (whole.examples, whole.masked_tokens):
        raise RuntimeError(
            f"evaluation saw {seen} samples of {whole.examples}, {positions} masked tokens of "
            f"{whole.masked_tokens}"
        )
    return float(correct / positions)
