"""The kernels of the embeddings, interpreted, against the definition in fp64."""

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

EPS = 1e-12


def make_ids(tokens: int, dtype: torch.dtype = torch.int64) -> tuple[Tensor, Tensor, Tensor]:
    """Ids of 50 words, 12 positions, 2 segments; some words come more than once."""
    torch.manual_seed(tokens)
    return tuple(torch.randint(0, rows, (tokens,), dtype=dtype) for rows in (50, 12, 2))  # type: ignore[return-value]


def make_inputs(hidden: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(hidden)
    tables = [torch.randn(rows, hidden).to(dtype) for rows in (50, 12, 2)]
    return [*tables, torch.rand(hidden) + 0.5, torch.randn(hidden)]


def define(ids: tuple[Tensor, Tensor, Tensor], mask: Tensor, leaves: tuple[Tensor, ...]) -> Tensor:
    x = sum(F.embedding(rows.long(), table) for rows, table in zip(ids, leaves[:3], strict=True))
    return F.layer_norm(x, leaves[3].shape, leaves[3], leaves[4], EPS) * mask


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(("tokens", "hidden"), [(13, 20), (9, 64), (6, 768), (5, 1024)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_result_and_gradients_are_the_definition(
    dtype: torch.dtype, tokens: int, hidden: int, dropout: float
) -> None:
    ids, inputs = make_ids(tokens), make_inputs(hidden, dtype)
    operation = resolve("embedding", "triton")

    def ours(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        torch.manual_seed(5)
        y: tuple[Tensor, Tensor] = operation(
            ids, leaves[:3], leaves[3], leaves[4], dropout, EPS, True
        )
        return y

    # Where every bias is 1 and every gain 0, what is not 0 was kept.
    constants = (torch.zeros(hidden), torch.ones(hidden))
    torch.manual_seed(5)
    mask = operation(ids, inputs[:3], *constants, dropout, EPS, True)[0].double() != 0
    if dropout:
        assert 0.5 < mask.double().mean() < 0.9
    factor = mask.double() / (1 - dropout)
    # A table's gradient is a sum of rounded rows.
    limit = LIMITS[dtype] * (2 if dtype != torch.float32 else 1)
    compare(ours, lambda *leaves: (define(ids, factor, leaves),) * 2, inputs, limit)


def test_evaluation_drops_nothing_and_takes_other_index_types() -> None:
    inputs = make_inputs(64, torch.float32)
    operation = resolve("embedding", "triton")
    y, again = operation(make_ids(9), inputs[:3], *inputs[3:], 0.5, EPS, False)
    assert torch.equal(y, again)
    short = operation(make_ids(9, torch.int32), inputs[:3], *inputs[3:], 0.5, EPS, False)[0]
    expected = define(make_ids(9, torch.int32), torch.ones(()), tuple(inputs))
    assert torch.allclose(short, expected, atol=1e-5)


def test_a_program_that_takes_many_tokens_adds_them_up(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("harness.ops.embedding_triton")
    monkeypatch.setattr(module, "count_multiprocessors", lambda device: 1)  # two programs
    ids, inputs = make_ids(30), make_inputs(32, torch.float32)
    operation = resolve("embedding", "triton")
    compare(
        lambda *leaves: operation(ids, leaves[:3], *leaves[3:], 0.0, EPS, True),
        lambda *leaves: (define(ids, torch.ones(()), leaves),) * 2,
        inputs,
        2e-6,
    )


def test_other_layouts_are_refused() -> None:
    ids, inputs = make_ids(9), make_inputs(32, torch.float32)
    operation = resolve("embedding", "triton")
    with pytest.raises(InputError, match="embedding by triton takes contiguous rows"):
        operation(ids, [inputs[0].T.contiguous().T, *inputs[1:3]], *inputs[3:], 0.1, EPS, True)
    with pytest.raises(InputError, match="vectors of ids of one length"):
        operation((ids[0], ids[1], ids[2][:5]), inputs[:3], *inputs[3:], 0.1, EPS, True)
