"""Sums over partial sums, interpreted."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from harness.ops.column_sums_triton import sum_columns
from tests.harness.ops.gradients import measure_error


@pytest.mark.parametrize("shape", [(1, 1, 3), (2, 64, 32), (2, 65, 40), (3, 200, 33)])
def test_every_matrix_is_summed_over_its_parts(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(1)
    partials = torch.randn(shape)
    sums = sum_columns(partials, torch.float32)
    assert measure_error(sums, partials.double().sum(1)) < 1e-6
    assert torch.equal(sums, sum_columns(partials, torch.float32))
    short = sum_columns(partials, torch.bfloat16)
    assert short.dtype == torch.bfloat16 and torch.equal(short, sums.bfloat16())
