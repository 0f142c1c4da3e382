"""What BERT is built of: parameters with the operation that they are multiplied by."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Table(nn.Module):
    """An embedding table, (rows, size); who holds it calls the operation."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, size))


class Dense(nn.Module):
    """A fully connected layer: weight (out, in), bias (out,), multiplied by `linear`."""

    def __init__(self, inputs: int, outputs: int, linear: Callable[..., Tensor]) -> None:
        super().__init__()
        self.linear = linear
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """x: (rows, in) -> (rows, out)."""
        result: Tensor = self.linear(x, self.weight, self.bias)
        return result

    def multiply(self, x: Tensor) -> Tensor:
        """The same without the bias, which whoever comes next adds."""
        result: Tensor = self.linear(x, self.weight, None)
        return result


class LayerNorm(nn.Module):
    """Gain and bias of a layer normalisation, (size,) each, in fp32 whatever the model's type.

    Who holds it calls the operation.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LayerNorm:
        # model.bfloat16() and the like come through here: take the device, no 16-bit type.
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            short = moved.is_floating_point() and moved.element_size() < tensor.element_size()
            return tensor.to(moved.device) if short else moved

        super()._apply(move, recurse)
        return self
