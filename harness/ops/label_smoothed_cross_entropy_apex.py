"""Cross-entropy with label smoothing by NVIDIA apex's `xentropy` extension."""

from __future__ import annotations

import torch
from apex.contrib.xentropy.softmax_xentropy import SoftmaxCrossEntropyLoss
from torch import Tensor

from harness.commands import InputError

NO_LABEL = -1  # apex gives the samples with this label no loss; no class has it
# Of bf16 it makes fp32 losses, and then refuses their fp32 gradient.
FORMATS = (torch.float32, torch.float16)


def label_smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """As harness.ops.label_smoothed_cross_entropy; fp16 logits give fp32 losses.

    logits: (N, C), contiguous, fp32 or fp16; labels: (N,) int64, not checked. Raises InputError
    for another type. Source: NVIDIA/apex at 6424da3b, apex/contrib/xentropy and its
    csrc/xentropy/xentropy_kernel.cu.
    """
    if logits.dtype not in FORMATS:
        raise InputError(
            f"label_smoothed_cross_entropy by apex computes fp32 and fp16, not {logits.dtype}: "
            "name another provider"
        )
    half_to_float = logits.dtype != torch.float32
    losses: Tensor = SoftmaxCrossEntropyLoss.apply(
        logits, labels, smoothing, NO_LABEL, half_to_float
    )
    return losses.mean()
