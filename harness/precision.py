"""Numerical formats of a run: fp32, bf16, or fp16 with a static loss scale.

Rules: "Numerical formats" pre-approve all three; loss scaling is allowed. The scale is static
on purpose: a dynamic one skips steps, which shifts schedules and cannot be captured in a graph.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from harness.commands import InputError
from harness.config import check


@dataclass(frozen=True)
class Precision:
    """The [precision] section: format of activations, and the loss scale (1 unless fp16)."""

    format: Literal["fp32", "bf16", "fp16"]
    loss_scale: float

    def __post_init__(self) -> None:
        check(self.loss_scale >= 1, "'loss_scale' must be at least 1")
        scaled = self.loss_scale != 1
        check(not scaled or self.format == "fp16", "'loss_scale' must be 1 unless format is fp16")

    def forward_context(self, device: torch.device) -> AbstractContextManager[object]:
        """The context of the forward pass: autocast to 16 bit, or nothing for fp32."""
        if self.format == "fp32":
            return nullcontext()
        dtype = torch.bfloat16 if self.format == "bf16" else torch.float16
        return torch.autocast(device.type, dtype=dtype)

    def backward(self, loss: torch.Tensor) -> None:
        """Run the backward pass of the scaled loss."""
        (loss * self.loss_scale if self.loss_scale != 1 else loss).backward()  # type: ignore[no-untyped-call]

    def unscale(self, gradients: list[torch.Tensor]) -> None:
        """Divide gradients by the loss scale in place, before any norm is taken."""
        if self.loss_scale != 1:
            torch._foreach_mul_(gradients, 1.0 / self.loss_scale)


def check_finite(model: torch.nn.Module) -> None:
    """Raise InputError if a parameter is not finite: the run has diverged or overflowed.

    Asked once an evaluation, since the answer makes the host wait for the device.
    """
    parameters = [parameter.detach() for parameter in model.parameters()]
    norms = list(torch._foreach_norm(parameters)) if parameters else []
    if norms and not torch.isfinite(torch.stack(norms)).all():
        raise InputError(
            "the weights are no longer finite: lower the learning rate, or precision.loss_scale "
            "where format is fp16"
        )
