"""The call of apex's loss, on a stand-in with its signature; its kernels run on a GPU alone."""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.commands import InputError
from harness.ops.table import resolve

NAME = "apex.contrib.xentropy.softmax_xentropy"


class SoftmaxCrossEntropyLoss:
    """Signature of NVIDIA/apex at 6424da3b, apex/contrib/xentropy/softmax_xentropy.py."""

    @staticmethod
    def apply(
        logits: Tensor,
        labels: Tensor,
        smoothing: float = 0.0,
        padding_idx: int = 0,
        half_to_float: bool = False,
    ) -> Tensor:
        if half_to_float and logits.dtype != torch.float16:
            raise RuntimeError("conversion is supported for Half type only")
        assert half_to_float == (logits.dtype != torch.float32)
        losses = F.cross_entropy(
            logits.float(), labels, label_smoothing=smoothing, reduction="none"
        )
        return losses.masked_fill(labels == padding_idx, 0)


def test_no_label_is_taken_for_padding_and_bf16_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for depth in range(1, 4):
        name = ".".join(NAME.split(".")[:depth])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    stand_in = types.ModuleType(NAME)
    stand_in.SoftmaxCrossEntropyLoss = SoftmaxCrossEntropyLoss  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, NAME, stand_in)
    torch.manual_seed(1)
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, 0, 2, 1, 3])
    ours = resolve("label_smoothed_cross_entropy", "apex")
    theirs = resolve("label_smoothed_cross_entropy", "torch")
    for dtype in (torch.float32, torch.float16):
        loss = ours(logits.to(dtype), labels, 0.1)
        assert loss.dtype == torch.float32
        assert torch.allclose(loss, theirs(logits.to(dtype), labels, 0.1), rtol=1e-6)
    with pytest.raises(InputError, match=r"fp32 and fp16, not torch\.bfloat16"):
        ours(logits.bfloat16(), labels, 0.1)
    sys.modules.pop("harness.ops.label_smoothed_cross_entropy_apex")
