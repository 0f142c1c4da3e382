"""Loss of the masked language model, the definition in plain PyTorch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED_LABEL = -1


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of -log softmax(logits)[label] over the masked tokens / (their number + 1e-5), in fp32.

    logits: (M, vocabulary); labels: (M,) int64, where -1 marks a row that does not count. Returns
    a scalar, fp32 (fp64 of fp64), which is 0 where nothing counts.
    Source: mlcommons/training bert run_pretraining.py get_masked_lm_output, whose weights are 1
    for a masked token and 0 for padding.
    """
    exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
    total = F.cross_entropy(exact, labels, ignore_index=IGNORED_LABEL, reduction="sum")
    return total / ((labels != IGNORED_LABEL).sum().to(exact.dtype) + 1e-5)
