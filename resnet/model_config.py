"""What a ResNet is made from: its sizes, and the operations that it computes with.

Read without torch, so that a configuration can be checked where no rank runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network; ResNet-50 is widths 64..512, depths 3, 4, 6, 3, stem 64, 1000 classes.

    widths: channels of the 3x3 convolution in each of the four stages (a stage puts out four times
    as many); depths: bottlenecks in each stage; input_channels: 3, or 4 for images padded with a
    channel of zeros. Raises ValueError naming the field.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    stem_width: int
    classes: int
    input_channels: int

    def __post_init__(self) -> None:
        for name in ("widths", "depths"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            values = getattr(self, name)
            if len(values) != 4 or any(type(value) is not int or value < 1 for value in values):
                raise ValueError(f"{name} must be four positive whole numbers, not {values}")
        for name in ("stem_width", "classes"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a positive whole number, not {value!r}")
        if type(self.input_channels) is not int or self.input_channels not in (3, 4):
            raise ValueError(f"input_channels must be 3 or 4, not {self.input_channels!r}")


@dataclass(frozen=True)
class Operations:
    """What a step is computed with: see harness.ops for the definitions."""

    batch_norm_relu: Callable[..., Tensor]
    batch_norm_add_relu: Callable[..., tuple[Tensor, Tensor]]
    batch_norm_batch_norm_add_relu: Callable[..., tuple[Tensor, Tensor]]
    batch_norm_relu_max_pool: Callable[..., Tensor]
    label_smoothed_cross_entropy: Callable[..., Tensor]
    lars_update: Callable[..., None]
