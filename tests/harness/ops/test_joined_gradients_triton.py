"""The kernel that puts three gradients together, interpreted: every element, and their sums."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

from harness.commands import InputError
from tests.harness.ops.gradients import LIMITS, measure_error

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from harness.ops.joined_gradients_triton import join_gradients


def draw(rows: int, features: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(rows + features)
    first, second, third = (torch.randn(rows, features).to(dtype) for _ in range(3))
    return first, second, third


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("shape", [(1, 8), (19, 37), (40, 256), (9, 1024)])
def test_it_is_a_concatenation_with_its_sums(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    parts = draw(*shape, dtype)
    joined, sums = join_gradients(parts, torch.float32)
    assert torch.equal(joined, torch.cat(parts, 1))
    assert measure_error(sums, torch.cat(parts, 1).double().sum(0)) < 2e-6
    assert join_gradients(parts, dtype)[1].dtype == dtype


def test_rows_may_lie_apart_and_be_heads_of_a_wider_tensor() -> None:
    wide = torch.randn(13, 3, 2, 8)
    parts = tuple(part.flatten(1) for part in wide.unbind(1))
    assert [part.stride() for part in parts] == [(48, 1)] * 3
    mixed = (parts[0], parts[1].contiguous(), parts[2].t().contiguous().t())
    assert mixed[2].stride() == (1, 13)
    joined, sums = join_gradients(mixed, torch.float32)
    assert torch.equal(joined, wide.flatten(1))
    assert torch.allclose(sums, wide.flatten(1).sum(0), atol=1e-5)


def test_a_program_that_takes_many_rows_adds_them_up_the_same_way_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = importlib.import_module("harness.ops.joined_gradients_triton")
    monkeypatch.setattr(module, "count_multiprocessors", lambda device: 0)  # one program
    parts = draw(50, 24, torch.float32)
    first, second = (join_gradients(parts, torch.float32) for _ in range(2))
    assert torch.equal(first[0], torch.cat(parts, 1)) and torch.equal(first[1], second[1])
    assert measure_error(first[1], torch.cat(parts, 1).double().sum(0)) < 2e-6


def test_what_does_not_fit_is_refused() -> None:
    first, second, third = draw(6, 8, torch.float32)
    with pytest.raises(InputError, match="one shape and type"):
        join_gradients((first, second[:5], third), torch.float32)
    with pytest.raises(InputError, match="one shape and type"):
        join_gradients((first, second, third.bfloat16()), torch.float32)
