"""Comparison of an operation's results and gradients with its definition's in fp64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from harness.ops.float8 import Float8

# Relative error of a result and its gradients: one rounding to the type, and fp32 sums inside.
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 3e-3, torch.float16: 4e-4}


def measure_error(ours: Tensor, theirs: Tensor) -> float:
    """|ours - theirs| / |theirs|, in fp64."""
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach().double(), theirs.detach()
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-30))


def compare(
    ours: Callable[..., Any],
    definition: Callable[..., Any],
    inputs: Sequence[Tensor],
    limit: float,
    seed: int = 7,
) -> None:
    """Assert that results and gradients of all inputs agree; each has the type of its input.

    definition is called on the inputs in fp64. Both may return a tensor, or a tuple of which every
    member gets a gradient of its own.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    results, expected = ours(*leaves), definition(*exact)
    if isinstance(results, Tensor):
        results, expected = (results,), (expected,)
    torch.manual_seed(seed)
    directions = [torch.randn_like(result) for result in results]
    for result, other in zip(results, expected, strict=True):
        assert result.dtype == inputs[0].dtype
        assert measure_error(result, other) <= limit
    gradients = torch.autograd.grad(results, leaves, directions)
    wanted = torch.autograd.grad(expected, exact, [each.double() for each in directions])
    for leaf, gradient, other in zip(leaves, gradients, wanted, strict=True):
        assert gradient.dtype == leaf.dtype
        assert measure_error(gradient, other) <= limit, tuple(leaf.shape)


def decode(cast: Float8) -> Tensor:
    """The numbers that an FP8 operand stands for, in fp64."""
    return cast.rows.double() * cast.inverse.double()
