"""Cross-entropy with label smoothing, the definition in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def label_smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean over the samples of -sum_c t_c log softmax(logits)_c, in fp32.

    logits: (N, C); labels: (N,) int64; the target is t = (1 - smoothing) onehot + smoothing / C.
    Returns a scalar, fp32. Source: Szegedy et al. 2015, section 7; mlcommons/training
    resnet-tf2 resnet_runnable.py (the mean over the global batch is the mean over ranks of this).
    """
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
