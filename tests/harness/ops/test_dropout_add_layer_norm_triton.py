"""The kernels of layer normalisation, interpreted, against the definitions in fp64."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.commands import InputError
from harness.ops.table import resolve
from tests.harness.ops.gradients import LIMITS, compare, measure_error

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

SHAPES = [(7, 20), (1, 64), (9, 768), (6, 1024), (5, 4)]
EPS = 1e-12


def make_inputs(rows: int, hidden: int, dtype: torch.dtype) -> list[Tensor]:
    """x, its bias and residual in a type; gain and bias in fp32, as training holds them."""
    torch.manual_seed(rows + hidden)
    x, residual = (2 * torch.randn(rows, hidden) + 1 for _ in range(2))
    gain, bias = torch.rand(hidden) + 0.5, torch.randn(hidden)
    x_bias = torch.randn(hidden)
    return [x.to(dtype), x_bias.to(dtype), residual.to(dtype), gain, bias]


def normalize_exactly(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, gain.shape, gain, bias, EPS)


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm_is_the_definition(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    x, _, _, gain, bias = make_inputs(*shape, dtype)
    operation = resolve("layer_norm", "triton")
    ours = partial(operation, eps=EPS)
    compare(ours, normalize_exactly, [x, gain, bias], LIMITS[dtype])


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_without_dropout_it_is_the_definition(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    inputs = make_inputs(*shape, dtype)
    operation = resolve("dropout_add_layer_norm", "triton")

    def define(
        x: Tensor, x_bias: Tensor, residual: Tensor, gain: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        y = normalize_exactly(x + x_bias + residual, gain, bias)
        return y, y

    for dropout, training in ((0.1, False), (0.0, True)):
        ours = partial(operation, dropout=dropout, eps=EPS, training=training)
        compare(ours, define, inputs, LIMITS[dtype])


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", [(7, 20), (9, 768), (6, 1024)])
def test_with_dropout_forward_and_backward_drop_the_same(
    dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    inputs = make_inputs(*shape, dtype)
    operation = resolve("dropout_add_layer_norm", "triton")
    # Which elements are kept is read off the gradient of x beside that of the residual.
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    torch.manual_seed(5)
    y, _ = operation(*leaves, 0.3, EPS, True)
    to_x, to_residual = torch.autograd.grad(y, [leaves[0], leaves[2]], torch.randn_like(y))
    mask = (to_x != 0).double() / 0.7
    assert 0.55 < (to_x != 0).float().mean() < 0.85
    if dtype == torch.float32:
        assert measure_error(to_x, to_residual.double() * mask) < 1e-6

    def ours(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(5)
        results: tuple[Tensor, Tensor] = operation(*arguments, 0.3, EPS, True)
        return results

    def define(
        x: Tensor, x_bias: Tensor, residual: Tensor, gain: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        result = normalize_exactly((x + x_bias) * mask + residual, gain, bias)
        return result, result

    compare(ours, define, inputs, LIMITS[dtype])


def test_one_use_of_the_result_is_enough() -> None:
    inputs = make_inputs(6, 32, torch.float32)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    operation = resolve("dropout_add_layer_norm", "triton")
    for number in (0, 1):
        result = operation(*leaves, 0.0, EPS, True)[number]
        exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
        expected = normalize_exactly(exact[0] + exact[1] + exact[2], *exact[3:])
        direction = torch.randn(6, 32)
        ours = torch.autograd.grad(result, leaves, direction)
        theirs = torch.autograd.grad(expected, exact, direction.double())
        for mine, other in zip(ours, theirs, strict=True):
            assert measure_error(mine, other) < 2e-6


def test_a_program_that_takes_many_rows_adds_them_up_the_same_way_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("harness.ops.dropout_add_layer_norm_triton")
    monkeypatch.setattr(module, "count_multiprocessors", lambda device: 1)  # two programs
    inputs = make_inputs(30, 64, torch.bfloat16)
    operation = partial(
        resolve("dropout_add_layer_norm", "triton"), dropout=0.0, eps=EPS, training=True
    )

    def define(
        x: Tensor, x_bias: Tensor, residual: Tensor, gain: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        y = normalize_exactly(x + x_bias + residual, gain, bias)
        return y, y

    compare(operation, define, inputs, LIMITS[torch.bfloat16])
    direction = torch.randn(30, 64).bfloat16()
    leaves = [tensor.requires_grad_() for tensor in inputs]
    runs = [torch.autograd.grad(operation(*leaves)[0], leaves, direction) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_rows_far_from_zero_keep_their_variance() -> None:
    x = (torch.randn(4, 256) + 300).requires_grad_()
    gain, bias = torch.ones(256), torch.zeros(256)
    expected = normalize_exactly(x.double(), gain.double(), bias.double())
    assert measure_error(resolve("layer_norm", "triton")(x, gain, bias, EPS), expected) < 1e-4


def test_no_rows_are_no_trouble() -> None:
    inputs = [tensor.requires_grad_() for tensor in make_inputs(0, 32, torch.float32)]
    y, _ = resolve("dropout_add_layer_norm", "triton")(*inputs, 0.1, EPS, True)
    y.sum().backward()
    assert inputs[3].grad is not None and not inputs[3].grad.any()


def test_other_layouts_are_refused() -> None:
    x, x_bias, residual, gain, bias = make_inputs(6, 32, torch.float32)
    operation = resolve("dropout_add_layer_norm", "triton")
    with pytest.raises(InputError, match="contiguous rows of a multiple of 4"):
        operation(x.T, x_bias[:6], residual.T, gain[:6], bias[:6], 0.1, EPS, True)
    with pytest.raises(InputError, match="multiple of 4"):
        resolve("layer_norm", "triton")(x[:, :30].contiguous(), gain[:30], bias[:30], EPS)
    with pytest.raises(InputError, match="at most 4096"):
        resolve("layer_norm", "triton")(torch.ones(1, 8192), torch.ones(8192), gain, EPS)
    with pytest.raises(InputError, match="residual like x"):
        operation(x, x_bias, residual.bfloat16(), gain, bias, 0.1, EPS, True)
    with pytest.raises(InputError, match="bias for each column"):
        operation(x, x_bias[:31], residual, gain, bias, 0.1, EPS, True)
    with pytest.raises(InputError, match="dropout must be"):
        operation(x, x_bias, residual, gain, bias, 1.0, EPS, True)
