"""What both optimizers share: parameter groups that are right, and norms tensor by tensor."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor


def check_number(
    owner: str, name: str, value: Any, low: float, high: float = math.inf, *, low_allowed: bool
) -> None:
    """Raise ValueError, naming optimizer and argument, unless low <(=) value < high.

    A tensor of one element counts as its number: a learning rate on the device is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, (Real, Tensor)):
        raise ValueError(f"{owner}: {name} must be a number, not {value!r}")
    if isinstance(value, Tensor) and value.numel() != 1:
        raise ValueError(f"{owner}: {name} must be one number, not {value.numel()}")
    number = float(value)
    if not (low < number < high or (low_allowed and number == low)):
        bounds = f"{'at least' if low_allowed else 'above'} {low:g}"
        bounds += f" and below {high:g}" if high != math.inf else " and finite"
        raise ValueError(f"{owner}: {name} must be {bounds}, not {number:g}")


def check_group(owner: str, group: dict[str, Any]) -> None:
    """Raise ValueError unless a group's `adapt` is a bool and its parameters are fp32."""
    if not isinstance(group["adapt"], bool):
        raise ValueError(f"{owner}: adapt must be True or False, not {group['adapt']!r}")
    for parameter in group["params"]:
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"{owner}: a parameter of shape {tuple(parameter.shape)} is {parameter.dtype}: "
                "give the optimizer fp32 master weights"
            )


def collect_updated(group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of a group that have a gradient, and those gradients.

    Raises ValueError for a sparse gradient, whose norm and update are not defined here.
    """
    weights, gradients = [], []
    for weight in group["params"]:
        if weight.grad is not None:
            if weight.grad.layout != torch.strided:
                raise ValueError(
                    f"the gradient of a parameter of shape {tuple(weight.shape)} is sparse: "
                    "make it dense, as nn.Embedding(sparse=False) does"
                )
            weights.append(weight)
            gradients.append(weight.grad)
    return weights, gradients


def read_rate(group: dict[str, Any]) -> float | Tensor:
    """The learning rate of a group; where it is a tensor, without dimensions and not read."""
    rate: float | Tensor = group["lr"]
    return rate.reshape(()) if isinstance(rate, Tensor) else rate


def compute_norms(tensors: list[Tensor]) -> Tensor:
    """L2 norm of each tensor as a whole: (len(tensors),), fp32, on their device."""
    if tensors[0].device.type == "cpu":
        return torch.stack([compute_norm(tensor) for tensor in tensors])
    return torch.stack(torch._foreach_norm(tensors))


def compute_norm(tensor: Tensor) -> Tensor:
    """L2 norm of a tensor of any type: a scalar, fp32, on its device.

    On a CPU torch adds a norm's squares up one after the other, and 30 million of them in fp32
    are off by 2e-3; its sum adds in stages.
    """
    if tensor.device.type == "cpu":
        return tensor.float().square().sum().sqrt()
    norm: Tensor = torch.linalg.vector_norm(tensor, dtype=torch.float32)
    return norm


def choose_where_positive(ratios: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The ratio where both norms are above 0, else 1; all four (tensors,)."""
    return torch.where((first > 0) & (second > 0), ratios, torch.ones_like(ratios))
