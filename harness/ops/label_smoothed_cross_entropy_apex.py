"""Cross-entropy with label smoothing by NVIDIA apex's `xentropy` extension."""

from __future__ import annotations

import torch
from apex.contrib.xentropy.softmax_xentropy import SoftmaxCrossEntropyLoss
from torch import Tensor

NO_LABEL = -1  # apex gives the samples with this label no loss; no class has it


def label_smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """As harness.ops.label_smoothed_cross_entropy; 16-bit logits give fp32 losses.

    logits: (N, C), contiguous; labels: (N,) int64, not checked. The backward pass writes the
    gradient in the place of the logits. Source: NVIDIA/apex at 6424da3b, apex/contrib/xentropy.
    """
    half_to_float = logits.dtype != torch.float32
    losses: Tensor = SoftmaxCrossEntropyLoss.apply(
        logits, labels, smoothing, NO_LABEL, half_to_float
    )
    return losses.mean()
