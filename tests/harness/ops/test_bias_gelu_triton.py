"""The kernels of bias and GELU, interpreted, against the definition in fp64."""

from __future__ import annotations

import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.commands import InputError
from harness.ops.table import resolve
from tests.harness.ops.gradients import LIMITS, compare

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

# 2 to a large number is infinity, and the inverse root of 1 + infinity is what it should be.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp2")


def define(x: Tensor, bias: Tensor) -> Tensor:
    return F.gelu(x + bias, approximate="tanh")


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", [(19, 37), (1, 256), (9, 1024), (8, 300)])
def test_result_and_gradients_are_the_definition(
    dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    torch.manual_seed(2)
    inputs = [(3 * torch.randn(shape)).to(dtype), torch.randn(shape[1]).to(dtype)]
    compare(resolve("bias_gelu", "triton"), define, inputs, LIMITS[dtype])


def test_a_program_that_takes_many_rows_adds_them_up_the_same_way_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("harness.ops.bias_gelu_triton")
    monkeypatch.setattr(module, "count_multiprocessors", lambda device: 0)  # one program
    torch.manual_seed(3)
    inputs = [torch.randn(50, 24), torch.randn(24)]
    operation = resolve("bias_gelu", "triton")
    compare(operation, define, inputs, 2e-6)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    direction = torch.randn(50, 24)
    runs = [torch.autograd.grad(operation(*leaves), leaves, direction) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_far_out_it_is_the_identity_or_nothing() -> None:
    x = torch.tensor([[-1e4, -50.0, 50.0, 1e4]]).requires_grad_()
    bias = torch.zeros(4, requires_grad=True)
    y = resolve("bias_gelu", "triton")(x, bias)
    assert torch.equal(y.detach(), torch.tensor([[0.0, 0.0, 50.0, 1e4]]))
    y.sum().backward()
    assert torch.equal(x.grad, torch.tensor([[0.0, 0.0, 1.0, 1.0]]))  # type: ignore[arg-type]


def test_other_layouts_are_refused() -> None:
    operation = resolve("bias_gelu", "triton")
    with pytest.raises(InputError, match="contiguous x"):
        operation(torch.ones(4, 6).T, torch.ones(4))
    with pytest.raises(InputError, match="bias"):
        operation(torch.ones(4, 6), torch.ones(4))
