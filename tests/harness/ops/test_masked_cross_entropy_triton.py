"""The kernels of the masked language model's loss, interpreted, against the definition in fp64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.commands import InputError
from harness.ops.table import resolve
from tests.harness.ops.gradients import LIMITS, measure_error

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")


def compute_exactly(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Loss and gradient in fp64 of the logits as they were rounded."""
    x = logits.detach().double().requires_grad_()
    total = F.cross_entropy(x, labels, ignore_index=-1, reduction="sum")
    loss = total / ((labels != -1).sum().double() + 1e-5)
    return loss.detach(), torch.autograd.grad(loss, x)[0]


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(("rows", "words"), [(6, 20), (5, 1000), (3, 30522), (4, 4101)])
@pytest.mark.parametrize("padding", [0, 6])
def test_loss_and_gradient_are_the_definition(
    dtype: torch.dtype, rows: int, words: int, padding: int
) -> None:
    torch.manual_seed(1)
    store = (4 * torch.randn(rows, words + padding)).to(dtype)
    beyond = store[:, words:].clone()
    labels = torch.randint(0, words, (rows,))
    labels[1], labels[0], labels[2] = -1, words - 1, 0
    expected, gradient = compute_exactly(store[:, :words], labels)
    leaf = store[:, :words].detach().requires_grad_()
    logits = leaf.view_as(leaf)
    loss = resolve("masked_cross_entropy", "triton")(logits, labels)
    assert loss.dtype == torch.float32 and measure_error(loss, expected) < 2e-6
    (3 * loss).backward()
    assert leaf.grad is not None and leaf.grad.dtype == dtype
    assert measure_error(leaf.grad, 3 * gradient) <= LIMITS[dtype]
    assert not leaf.grad[1].any()
    assert torch.equal(store[:, words:], beyond)  # what lies between the rows is somebody else's


def test_nothing_counted_is_no_loss_and_no_gradient() -> None:
    operation = resolve("masked_cross_entropy", "triton")
    logits = torch.randn(3, 40, requires_grad=True)
    loss = operation(logits, torch.full((3,), -1))
    loss.backward()
    assert loss == 0 and logits.grad is not None and not logits.grad.any()
    assert operation(torch.randn(0, 40), torch.empty(0, dtype=torch.int64)) == 0


def test_a_label_that_is_no_word_gives_no_number() -> None:
    operation = resolve("masked_cross_entropy", "triton")
    for label in (-2, 40, 10**9):
        assert operation(torch.zeros(2, 40), torch.tensor([0, label])).isnan()


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[3e4, -3e4, 0.0], [-3e4, -3e4, -3e4]])
    labels = torch.tensor([1, 2])
    expected, _ = compute_exactly(logits, labels)
    assert measure_error(resolve("masked_cross_entropy", "triton")(logits, labels), expected) < 1e-6


def test_the_gradient_takes_the_place_of_the_logits_once_and_spares_a_leaf() -> None:
    weight = torch.randn(4, 40, requires_grad=True)
    logits, labels = 2 * weight, torch.arange(4)
    operation = resolve("masked_cross_entropy", "triton")
    loss = operation(logits, labels)
    loss.backward(retain_graph=True)
    assert weight.grad is not None and torch.equal(weight.grad, 2 * logits)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    kept = weight.detach().clone()
    operation(weight, labels).backward()
    assert torch.equal(weight, kept)


def test_other_layouts_are_refused() -> None:
    operation = resolve("masked_cross_entropy", "triton")
    labels = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(InputError, match="contiguous rows"):
        operation(torch.zeros(7, 2).T, labels)
    with pytest.raises(InputError, match="labels"):
        operation(torch.zeros(3, 7), labels)
    with pytest.raises(InputError, match="65536 words"):
        operation(torch.zeros(2, 70000), labels)
