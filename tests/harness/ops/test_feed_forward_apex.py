"""The calls of apex's fused layers: a stand-in with its C++ signatures computes as it does.

It shows layouts, types, order and number of arguments, that gradients come back where they belong,
and that a product which was not done is noticed; what cuBLASLt computes is shown on a GPU alone.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.commands import InputError
from harness.ops.table import resolve
from tests.harness.ops.gradients import compare

LIMITS = {torch.bfloat16: 1.5e-2, torch.float16: 2e-3}


class Extension(types.ModuleType):
    """Signatures of apex's csrc/fused_dense.cpp at 6424da3b."""

    forwards = backwards = 0
    undone = ""

    def linear_gelu_linear_forward(self, input, weight1, bias1, weight2, bias2) -> list[Tensor]:
        assert all(tensor.is_contiguous() for tensor in (input, weight1, bias1, weight2, bias2))
        assert bias2.shape == weight2.shape[:1] and not bias2.any()
        self.forwards += 1
        gelu_in = F.linear(input, weight1, bias1)
        output1 = F.gelu(gelu_in, approximate="tanh")
        output2 = F.linear(output1, weight2, bias2)
        if self.undone == "forward":
            output2 = torch.zeros_like(output2)
        return [output1, output2, gelu_in]

    def linear_gelu_linear_backward(
        self, input, gelu_in, output1, weight1, weight2, d_output2
    ) -> list[Tensor]:
        assert d_output2.is_contiguous() and d_output2.shape == (len(input), len(weight2))
        assert gelu_in.shape == output1.shape == (len(input), len(weight1))
        self.backwards += 1
        d_output1 = torch.ops.aten.gelu_backward(d_output2 @ weight2, gelu_in, approximate="tanh")
        d_weight1, d_bias1 = d_output1.T @ input, d_output1.sum(0)
        if self.undone == "backward":
            d_weight1 = torch.zeros_like(d_weight1)
        d_weight2 = d_output2.T @ output1
        return [d_output1 @ weight1, d_weight1, d_bias1, d_weight2, d_output2.sum(0)]


@pytest.fixture
def extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[Extension]:
    found = Extension("fused_dense_cuda")
    monkeypatch.setitem(sys.modules, "fused_dense_cuda", found)
    monkeypatch.delitem(sys.modules, "harness.ops.feed_forward_apex", raising=False)
    yield found
    sys.modules.pop("harness.ops.feed_forward_apex", None)


def draw(dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(8)
    x, bias = torch.randn(48, 64), torch.randn(96)
    matrices = (torch.randn(96, 64) / 8, torch.randn(64, 96) / 10)
    return [tensor.to(dtype) for tensor in (x, matrices[0], bias, matrices[1])]


@pytest.mark.parametrize("dtype", LIMITS)
def test_it_is_called_for_the_definition(extension: Extension, dtype: torch.dtype) -> None:
    definition = resolve("feed_forward", "torch")
    compare(resolve("feed_forward", "apex"), definition, draw(dtype), LIMITS[dtype])


def test_a_shape_is_compared_once_and_draws_nothing_of_torchs(extension: Extension) -> None:
    operation, inputs = resolve("feed_forward", "apex"), draw(torch.bfloat16)
    state = torch.get_rng_state()
    with torch.no_grad():  # as in evaluation
        operation(*inputs)
        assert (extension.forwards, extension.backwards) == (2, 1)
        operation(*inputs)
        assert (extension.forwards, extension.backwards) == (3, 1)
        operation(inputs[0][:40], *inputs[1:])
    assert (extension.forwards, extension.backwards) == (5, 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("undone", ["forward", "backward"])
def test_a_product_that_was_not_done_is_noticed(extension: Extension, undone: str) -> None:
    extension.undone = undone
    for _ in range(2):  # and again: nothing was taken for good
        with pytest.raises(InputError, match=r"x \(48, 64\) in torch.bfloat16 .* name another"):
            resolve("feed_forward", "apex")(*draw(torch.bfloat16))


def test_types_and_sizes_that_it_cannot_take_are_refused(extension: Extension) -> None:
    operation = resolve("feed_forward", "apex")
    x, inner, bias, outer = draw(torch.bfloat16)
    with pytest.raises(InputError, match="fp16 or bf16 alone"):
        operation(*(tensor.float() for tensor in (x, inner, bias, outer)))
    with pytest.raises(InputError, match="of one type"):
        operation(x, inner.half(), bias, outer)
    with pytest.raises(InputError, match="multiples of 8, not"):
        operation(x, inner[:90], bias[:90], outer[:, :90].contiguous())
    with pytest.raises(InputError, match="contiguous"):
        operation(x, inner, bias, outer.T.contiguous().T)
