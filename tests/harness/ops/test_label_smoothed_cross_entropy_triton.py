"""The kernels of the smoothed cross-entropy, interpreted, against the definition in fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.commands import InputError
from harness.ops.table import resolve

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

# Relative error of the gradient: one rounding to the logits' type, and fp32 sums of 1000 terms.
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


def compute_exactly(logits: Tensor, labels: Tensor, smoothing: float) -> tuple[Tensor, Tensor]:
    """Loss and gradient in fp64 of the logits as they were rounded."""
    x = logits.detach().double().requires_grad_()
    count, classes = x.shape
    target = torch.full_like(x, smoothing / classes).detach()
    target[torch.arange(count), labels] += 1 - smoothing
    loss = -(target * x.log_softmax(1)).sum() / count
    loss.backward()
    assert x.grad is not None
    return loss.detach(), x.grad


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(5, 1000), (3, 7), (2, 1025)])
def test_loss_and_gradient_are_the_definition(
    dtype: torch.dtype, smoothing: float, shape: tuple[int, int]
) -> None:
    torch.manual_seed(1)
    logits = (5 * torch.randn(shape)).to(dtype)
    labels = torch.randint(0, shape[1], shape[:1])
    expected, gradient = compute_exactly(logits, labels, smoothing)
    leaf = logits.clone().requires_grad_()
    loss = resolve("label_smoothed_cross_entropy", "triton")(leaf, labels, smoothing)
    assert loss.dtype == torch.float32
    assert abs(loss.double() - expected) <= 2e-6 * expected
    (3 * loss).backward()
    assert leaf.grad is not None and leaf.grad.dtype == dtype
    error = (leaf.grad.double() - 3 * gradient).norm() / (3 * gradient).norm()
    assert error <= LIMITS[dtype]


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[3e4, -3e4, 0.0], [-3e4, -3e4, -3e4]])
    labels = torch.tensor([0, 2])
    expected, _ = compute_exactly(logits, labels, 0.1)
    loss = resolve("label_smoothed_cross_entropy", "triton")(logits, labels, 0.1)
    assert abs(loss.double() - expected) <= 1e-6 * expected


def test_a_label_that_is_no_class_gives_no_number() -> None:
    operation = resolve("label_smoothed_cross_entropy", "triton")
    for label in (-1, 7):
        assert operation(torch.zeros(2, 7), torch.tensor([0, label]), 0.1).isnan()


def test_the_gradient_takes_the_place_of_the_logits_once() -> None:
    weight = torch.ones(4, 6, requires_grad=True)
    logits = 2 * weight
    loss = resolve("label_smoothed_cross_entropy", "triton")(logits, torch.arange(4), 0.1)
    loss.backward(retain_graph=True)
    assert weight.grad is not None and torch.equal(weight.grad, 2 * logits)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_other_layouts_are_refused() -> None:
    operation = resolve("label_smoothed_cross_entropy", "triton")
    with pytest.raises(InputError, match="contiguous"):
        operation(torch.zeros(7, 2).T, torch.zeros(2, dtype=torch.int64), 0.1)
    with pytest.raises(InputError, match="labels"):
        operation(torch.zeros(2, 7), torch.zeros(3, dtype=torch.int64), 0.1)
    with pytest.raises(InputError, match="16384 classes"):
        operation(torch.zeros(2, 20000), torch.zeros(2, dtype=torch.int64), 0.1)
