"""Evaluation of BERT: masked-LM accuracy over every masked position, integer counts.

Rules: "Quality measure"; reference: metric_fn of run_pretraining.py (a micro-average over the
masked positions of all evaluation samples, without dropout).
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from bert.data import EvaluationInput
from bert.model import Batch, Output
from bert.static_batch import IGNORED_LABEL
from bert.step import TrainingStep
from harness.precision import check_finite


def count_batch(output: Output, batch: Batch) -> torch.Tensor:
    """Count right predictions, masked tokens and sequences of a batch, (3,) int64 on its device.

    What fills a batch up, with labels of -1, is not counted.
    """
    predictions = output.masked_lm_logits.argmax(dim=1)
    counted = [
        predictions == batch.masked_ids,  # never -1
        batch.masked_ids != IGNORED_LABEL,
        batch.next_sentence_labels != IGNORED_LABEL,
    ]
    return torch.stack([each.sum() for each in counted])


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
            counts += count_batch(step.model(batch), batch)
    step.model.train()
    if world_size > 1:
        dist.all_reduce(counts)
    correct, positions, seen = counts.tolist()
    if seen != samples:
        raise RuntimeError(f"evaluation saw {seen} samples of {samples}")
    return float(correct / positions)
