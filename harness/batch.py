"""What a step is made of, whatever the model: batch sizes, how gradients are averaged, graphs.

Read without torch, so that a configuration can be checked where no rank runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.commands import InputError
from harness.config import check, logged

if TYPE_CHECKING:
    import torch


# Of a bucket's size, the most that is sent when the backward pass has ended is 1 / LAST_PART.
LAST_PART = 8


@dataclass(frozen=True)
class Batch:
    """Samples of a step: local x ranks x accumulation = global.

    The MLPerf key of the local batch size is the benchmark's own: its subclass declares it.
    """

    global_batch_size: int = logged("global_batch_size")
    local_batch_size: int  # type: ignore[misc]  # logged() is no default
    gradient_accumulation_steps: int = logged("gradient_accumulation_steps")

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            check(value >= 1, f"'{name}' must be at least 1")

    def check_world_size(self, world_size: int) -> str | None:
        """The sentence that says why these batch sizes do not fit a world size, or None."""
        product = self.local_batch_size * self.gradient_accumulation_steps * world_size
        if product == self.global_batch_size:
            return None
        return (
            f"[batch] local_batch_size {self.local_batch_size} x gradient_accumulation_steps "
            f"{self.gradient_accumulation_steps} x {world_size} ranks = {product}, but "
            f"global_batch_size is {self.global_batch_size}: make them agree"
        )


@dataclass(frozen=True)
class Communication:
    """How gradients are averaged."""

    bucket_megabytes: int

    def __post_init__(self) -> None:
        check(self.bucket_megabytes >= 1, "'bucket_megabytes' must be at least 1")


@dataclass(frozen=True)
class Graphs:
    """The [graphs] section: whether the training step and the evaluation are captured."""

    step: bool
    evaluation: bool

    def check_device(self, device: torch.device) -> None:
        """Raise InputError where graphs are asked for on a device that has none."""
        if fault := self.find_fault(device.type):
            raise InputError(fault)

    def find_fault(self, device: str) -> str | None:
        """Say why graphs cannot be captured on a device, "cpu" or "cuda"; None: they can."""
        if device == "cuda" or not (self.step or self.evaluation):
            return None
        return (
            "[graphs] asks for CUDA graphs, but the device is a CPU: start it where torch "
            "finds a GPU, or set step and evaluation to false"
        )
