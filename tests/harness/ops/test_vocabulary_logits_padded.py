"""Logits in aligned rows: the same numbers, another stride."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harness.ops.table import resolve
from tests.harness.ops.gradients import LIMITS, compare


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize("words", [37, 40, 161])
def test_it_is_the_definition_in_aligned_rows(dtype: torch.dtype, words: int) -> None:
    torch.manual_seed(1)
    inputs = [torch.randn(shape).to(dtype) for shape in ((6, 16), (words, 16), (words,))]
    operation = resolve("vocabulary_logits", "padded")
    logits = operation(*inputs)
    assert logits.shape == (6, words) and logits.stride() == (-(-words // 8) * 8, 1)
    compare(operation, F.linear, inputs, 2 * LIMITS[dtype])


def test_bert_rows_lie_30528_words_apart_and_keep_it_in_backward() -> None:
    with torch.device("meta"):
        leaves = [torch.empty(shape, requires_grad=True) for shape in ((5, 8), (30522, 8), 30522)]
        logits = resolve("vocabulary_logits", "padded")(*leaves)
        assert logits.stride() == (30528, 1)
        loss = resolve("masked_cross_entropy", "triton")(logits, torch.zeros(5, dtype=torch.int64))
        seen: list[tuple[int, ...]] = []
        logits.register_hook(lambda gradient: seen.append(gradient.stride()))
        loss.backward()
    assert seen == [(30528, 1)]
