"""Three gradients as one FP8 operand, the kernels interpreted: every number, and their sums."""

from __future__ import annotations

import importlib

import pytest
import torch

from harness.commands import InputError
from harness.ops.float8 import E5M2
from tests.harness.ops.gradients import measure_error

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from harness.ops.float8_join_triton import quantize_joined
from harness.ops.float8_triton import quantize

pytestmark = pytest.mark.usefixtures("rounded_float8")
SHORT = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("shape", [(1, 8), (19, 37), (130, 80), (40, 256)])
def test_it_is_the_cast_of_the_concatenation(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    torch.manual_seed(5)
    first, second, third = ((1e-3 * torch.randn(shape)).to(dtype) for _ in range(3))
    for largest in range(3):  # each of the three decides the scale once
        factors = [10 if i == largest else 1 for i in range(3)]
        scaled = (factors[0] * first, factors[1] * second, factors[2] * third)
        ours, sums = quantize_joined(scaled, torch.float32)
        whole = torch.cat(scaled, 1)
        theirs = quantize(whole, E5M2, True)
        assert ours.columns is not None and theirs.columns is not None
        assert torch.equal(ours.rows.view(torch.uint8), theirs.rows.view(torch.uint8))
        assert torch.equal(ours.columns.view(torch.uint8), theirs.columns.view(torch.uint8))
        assert ours.inverse == theirs.inverse
        assert measure_error(sums, whole.double().sum(0)) < 2e-6
    assert quantize_joined((first, second, third), dtype)[1].dtype == dtype


def test_rows_may_lie_apart_and_be_heads_of_a_wider_tensor() -> None:
    wide = torch.randn(13, 3, 2, 8).bfloat16()
    parts = tuple(part.flatten(1) for part in wide.unbind(1))
    mixed = (parts[0], parts[1].contiguous(), parts[2].t().contiguous().t())
    ours, sums = quantize_joined(mixed, torch.float32)
    assert torch.equal(ours.rows.double(), quantize(wide.flatten(1), E5M2, False).rows.double())
    assert torch.allclose(sums, wide.flatten(1).float().sum(0), atol=1e-5)


def test_programs_that_take_many_rows_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(6)
    first, second, third = (torch.randn(50, 24).bfloat16() for _ in range(3))
    before, sums = quantize_joined((first, second, third), torch.float32)
    module = importlib.import_module("harness.ops.float8_join_triton")
    monkeypatch.setattr(module, "count_multiprocessors", lambda device: 0)  # one program
    after, again = quantize_joined((first, second, third), torch.float32)
    assert torch.equal(before.rows.double(), after.rows.double()) and torch.equal(sums, again)


def test_what_does_not_fit_is_refused() -> None:
    first, second, third = (torch.randn(6, 8) for _ in range(3))
    with pytest.raises(InputError, match="one shape and type"):
        quantize_joined((first, second[:5], third), torch.float32)
