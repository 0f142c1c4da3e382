"""Numerical formats of a run: fp32, bf16, or fp16 with a static loss scale.

Rules: "Numerical formats" pre-approve all three; loss scaling is allowed. In 16 bit the model's
matrices, activations and gradients are of that type, while master weights, normalisation
parameters and statistics, optimizer state and losses are fp32. The scale is static on purpose: a
dynamic one skips steps, which shifts schedules and cannot be captured in a graph.

Torch is imported when it is needed, so that a configuration can be checked where no rank runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.commands import InputError
from harness.config import check

if TYPE_CHECKING:
    import torch

    from harness.parameters import FlatParameters

TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def find_dtype(name: str) -> torch.dtype:
    """Torch's type of a format's name."""
    import torch

    dtype: torch.dtype = getattr(torch, TORCH_NAMES[name])
    return dtype


@dataclass(frozen=True)
class Precision:
    """The [precision] section: format of matrices and activations, and the loss scale.

    loss_scale: 1 unless format is fp16.
    """

    format: Literal["fp32", "bf16", "fp16"]
    loss_scale: float

    def __post_init__(self) -> None:
        check(self.loss_scale >= 1, "'loss_scale' must be at least 1")
        scaled = self.loss_scale != 1
        check(not scaled or self.format == "fp16", "'loss_scale' must be 1 unless format is fp16")

    @property
    def dtype(self) -> torch.dtype:
        """The type of matrices, activations and gradients."""
        return find_dtype(self.format)

    def backward(self, loss: torch.Tensor, parts: int) -> None:
        """Run the backward pass of loss_scale * loss / parts.

        parts: losses whose mean is wanted, micro-batches times ranks; their gradients are added
        up, so that the sum is loss_scale times the gradient of the mean.
        """
        (loss * (self.loss_scale / parts)).backward()  # type: ignore[no-untyped-call]


def check_finite(parameters: FlatParameters) -> None:
    """Raise InputError if a master weight is not finite: the run has diverged or overflowed.

    Asked once an evaluation, since the answer makes the host wait for the device. A sharded pool
    is looked at by every rank for its own part, and all of it as the model sees it.
    """
    import torch

    sums = torch.stack([tensor.float().abs().sum() for tensor in parameters.weights()])
    if not torch.isfinite(sums).all():
        raise InputError(
            "the weights are no longer finite: lower the learning rate, or precision.loss_scale "
            "where format is fp16"
        )
