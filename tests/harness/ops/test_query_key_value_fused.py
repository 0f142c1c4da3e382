"""One product over three parameters: its numbers, its gradients, and how many products it takes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.commands import InputError
from harness.ops.adjacency import find_packed_heads, join_adjacent
from harness.ops.table import resolve
from tests.harness.ops.gradients import measure_error

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

PROVIDERS = ["fused", "triton"]

Three = tuple[Tensor, Tensor, Tensor]


class Count(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.operations[func._schema.name.removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def make_parameters(hidden: int = 12, dtype: torch.dtype = torch.float32) -> tuple[Three, Three]:
    """Three weights one after another in one buffer, and three biases in another."""
    torch.manual_seed(1)
    weights = torch.randn(3 * hidden, hidden, dtype=dtype).view(3, hidden, hidden)
    biases = torch.randn(3 * hidden, dtype=dtype).view(3, hidden)
    first, second = (tuple(nn.Parameter(part) for part in store) for store in (weights, biases))
    return first, second  # type: ignore[return-value]


@pytest.mark.parametrize("provider", PROVIDERS)
def test_it_is_the_definition_and_each_parameter_has_its_own_gradient(provider: str) -> None:
    weights, biases = make_parameters()
    x = torch.randn(7, 12, requires_grad=True)
    leaves = (x, *weights, *biases)
    directions = [torch.randn(7, 12) for _ in range(3)]
    results = resolve("query_key_value", provider)(x, weights, biases)
    gradients = torch.autograd.grad(results, leaves, directions)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    expected = [F.linear(exact[0], exact[1 + n], exact[4 + n]) for n in range(3)]
    wanted = torch.autograd.grad(expected, exact, [each.double() for each in directions])
    for ours, theirs in zip((*results, *gradients), (*expected, *wanted), strict=True):
        assert measure_error(ours, theirs) < 1e-6


@pytest.mark.parametrize("provider", PROVIDERS)
def test_one_product_forward_and_two_backward(provider: str) -> None:
    weights, biases = make_parameters()
    x = torch.randn(7, 12, requires_grad=True)
    operation = resolve("query_key_value", provider)
    with Count() as forward:
        results = operation(x, weights, biases)
    assert {name: forward.operations[name] for name in ("addmm", "mm")} == {"addmm": 1, "mm": 0}
    assert not forward.operations["cat"] and not forward.operations["clone"]
    loss = sum((result * (n + 1)).sum() for n, result in enumerate(results))
    with Count() as backward:
        torch.autograd.grad(loss, (x, *weights, *biases))  # type: ignore[arg-type]
    assert {name: backward.operations[name] for name in ("addmm", "mm")} == {"addmm": 0, "mm": 2}
    joined = backward.operations["harness::join_gradients"]
    # Gradients that arrive apart are stacked and their biases' summed by torch, or both by Triton.
    apart = {name: backward.operations[name] for name in ("stack", "sum")}
    assert (joined, *apart.values()) == ((1, 0, 0) if provider == "triton" else (0, 1, 1))


@pytest.mark.parametrize("provider", PROVIDERS)
def test_gradients_accumulate_into_buffers_that_are_there(provider: str) -> None:
    weights, biases = make_parameters()
    for parameter in (*weights, *biases):
        parameter.grad = torch.ones_like(parameter)
    x = torch.randn(7, 12)
    buffers = [parameter.grad for parameter in weights]
    results = resolve("query_key_value", provider)(x, weights, biases)
    sum(result.sum() for result in results).backward()  # type: ignore[union-attr]
    for parameter, buffer in zip(weights, buffers, strict=True):
        assert parameter.grad is buffer
        assert torch.allclose(buffer, 1 + x.sum(0).expand(12, 12), atol=1e-5)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_parameters_that_lie_apart_are_refused(provider: str) -> None:
    weights, biases = make_parameters()
    x = torch.randn(7, 12)
    operation = resolve("query_key_value", provider)
    alone = nn.Parameter(weights[1].detach().clone())
    with pytest.raises(InputError, match="next to each other in memory"):
        operation(x, (weights[0], alone, weights[2]), biases)
    with pytest.raises(InputError, match="next to each other in memory"):
        operation(x, (weights[1], weights[0], weights[2]), biases)
    with pytest.raises(InputError, match="next to each other in memory"):
        operation(x, weights, (biases[0], biases[2], biases[1]))
    with pytest.raises(InputError, match="no autocast"):
        operation(x.bfloat16(), weights, biases)


def test_adjacent_tensors_are_joined_without_a_copy() -> None:
    store = torch.arange(40.0)
    pieces = [store[4:10].view(2, 3), store[10:13].view(1, 3), store[13:22].view(3, 3)]
    joined = join_adjacent(pieces)
    assert joined is not None and torch.equal(joined, torch.cat(pieces))
    store[4] = -1
    assert joined[0, 0] == -1
    assert join_adjacent([pieces[0], pieces[2]]) is None  # a gap
    assert join_adjacent([pieces[0], torch.arange(10.0, 13.0).view(1, 3)]) is None
    assert join_adjacent([pieces[0].T, pieces[1]]) is None
    with torch.device("meta"):
        apart = [torch.empty(2, 3), torch.empty(2, 3)]
        together = torch.empty(4, 3)
    assert join_adjacent(apart) is None and join_adjacent(together.chunk(2)) is not None


def test_packed_heads_are_found_where_the_three_are_views_of_one() -> None:
    weights, biases = make_parameters()
    x = torch.randn(7, 12, requires_grad=True)
    projections = resolve("query_key_value", "fused")(x, weights, biases)
    heads = [projection.unflatten(1, (3, 4)) for projection in projections]
    packed = find_packed_heads(*heads)
    assert packed is not None and packed.shape == (7, 3, 3, 4)
    assert all(torch.equal(packed[:, n], heads[n]) for n in range(3))
    assert packed.requires_grad  # a gradient of it reaches the parameters
    packed.sum().backward()
    assert weights[2].grad is not None and weights[2].grad.any()
    assert find_packed_heads(heads[1], heads[0], heads[2]) is None
    assert find_packed_heads(*[head.contiguous() for head in heads]) is None
    apart = resolve("query_key_value", "torch")(x, weights, biases)
    assert find_packed_heads(*[each.unflatten(1, (3, 4)) for each in apart]) is None
    # Three results whose common memory autograd does not follow: a gradient of it would be lost.
    joined = resolve("query_key_value", "triton")(x, weights, biases)
    assert joined[0].untyped_storage().data_ptr() == joined[2].untyped_storage().data_ptr()
    assert find_packed_heads(*[each.unflatten(1, (3, 4)) for each in joined]) is None
