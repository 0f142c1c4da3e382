"""Evaluation of BERT: masked-LM accuracy over every masked position, integer counts.

Rules: "Quality measure"; reference: metric_fn of run_pretraining.py (a micro-average over the
masked positions of all evaluation samples, without dropout).
"""

from __future__ import annotations

import torch
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
    counts = torch.zeros(3, dtype=torch.int64, device=step.device)
    check_finite(step.model)
    step.model.eval()
    with torch.no_grad(), step.precision.forward_context(step.device):
        for batch in evaluation.epoch():
            predictions = step.model(batch).masked_lm_logits.argmax(dim=1)
            counts[0] += (predictions == batch.masked_ids).sum()
            counts[1] += batch.masked_ids.numel()
            counts[2] += batch.next_sentence_labels.numel()
    step.model.train()
    if world_size > 1:
        dist.all_reduce(counts)
    correct, positions, seen = counts.tolist()
    if seen != samples:
        raise RuntimeError(f"evaluation saw {seen} samples of {samples}")
    return float(correct / positions)
