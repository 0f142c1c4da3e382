"""Transformer Engine's layers over our parameters; the definition stands in for the library."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.commands import InputError
from harness.ops.table import resolve
from tests.harness.ops.gradients import measure_error


class Linear(nn.Module):
    """The library's layer as far as it is used: weights by name, split or not."""

    made: list[dict[str, Any]]

    def __init__(self, inputs: int, outputs: int, **arguments: Any) -> None:
        super().__init__()
        on_meta = arguments["device"] == "meta"
        assert not (on_meta and arguments["parameters_split"]), "cannot split on the meta device"
        self.names = [name.rstrip("_") + "_" for name in arguments["parameters_split"] or ()] or [
            ""
        ]
        self.has_bias = arguments["bias"]
        rows, device = outputs // len(self.names), arguments["device"]
        for name in self.names:
            weight = nn.Parameter(torch.empty(rows, inputs, device=device))
            if not on_meta:
                arguments["init_method"](weight)
            self.register_parameter(f"{name}weight", weight)
            if self.has_bias:
                bias = nn.Parameter(torch.empty(rows, device=device))
                self.register_parameter(f"{name}bias", bias)
        self.made.append({"outputs": outputs, **arguments})

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.cat([getattr(self, f"{name}weight") for name in self.names])
        biases = [getattr(self, f"{name}bias") for name in self.names] if self.has_bias else None
        return F.linear(x, weight, None if biases is None else torch.cat(biases))


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    seen: dict[str, Any] = {"made": [], "entered": 0}
    Linear.made = seen["made"]

    @contextlib.contextmanager
    def autocast(enabled: bool, recipe: Any) -> Iterator[None]:
        assert enabled and type(recipe).__name__ == "Float8CurrentScaling"
        seen["entered"] += 1
        yield

    pytorch: Any = types.ModuleType("transformer_engine.pytorch")
    pytorch.Linear, pytorch.autocast = Linear, autocast
    recipe: Any = types.ModuleType("transformer_engine.common.recipe")
    recipe.Float8CurrentScaling = type("Float8CurrentScaling", (), {})
    package: Any = types.ModuleType("transformer_engine")
    package.pytorch = pytorch
    modules = {
        "transformer_engine": package,
        "transformer_engine.pytorch": pytorch,
        "transformer_engine.common": types.ModuleType("transformer_engine.common"),
        "transformer_engine.common.recipe": recipe,
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    users = ("harness.ops.linear_te", "harness.ops.feed_forward_te")
    for name in users:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield seen
    for name in users:
        sys.modules.pop(name, None)


def make_parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape).bfloat16())


def test_layers_compute_with_our_parameters_and_are_made_once(engine: dict[str, Any]) -> None:
    torch.manual_seed(1)
    linear = resolve("linear", "te")
    x, weight, bias = torch.randn(16, 32).bfloat16(), make_parameter(48, 32), make_parameter(48)
    for _ in range(2):
        assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    linear(x, weight, bias).sum().backward()
    assert weight.grad is not None and bias.grad is not None
    with torch.no_grad():
        weight.mul_(2)  # the optimizer's update is seen
    assert torch.equal(linear(x, weight, bias), F.linear(x, weight, bias))
    other = make_parameter(48, 32)
    assert torch.equal(linear(x, other, None), F.linear(x, other))
    assert [made["bias"] for made in engine["made"]] == [True, False]
    assert engine["entered"] == 5


def test_projections_are_one_layer_of_three_parameters(engine: dict[str, Any]) -> None:
    torch.manual_seed(2)
    weights = tuple(make_parameter(32, 32) for _ in range(3))
    biases = tuple(make_parameter(32) for _ in range(3))
    x, random_state = torch.randn(16, 32).bfloat16(), torch.get_rng_state()
    results = resolve("query_key_value", "te")(x, weights, biases)
    assert torch.equal(torch.get_rng_state(), random_state)  # made without a random number
    for result, weight, bias in zip(results, weights, biases, strict=True):
        assert torch.allclose(result, F.linear(x, weight, bias), atol=0.05)
    sum(result.sum() for result in results).backward()
    assert all(parameter.grad is not None for parameter in (*weights, *biases))
    (made,) = engine["made"]
    assert made["parameters_split"] == ("query_", "key_", "value_") and made["outputs"] == 96


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")
def test_the_feed_forward_layers_are_two_of_its_layers(engine: dict[str, Any]) -> None:
    pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")
    torch.manual_seed(3)
    x = torch.randn(16, 32).bfloat16()
    parameters = (make_parameter(48, 32), make_parameter(48), make_parameter(32, 48))
    y = resolve("feed_forward", "te")(x, *parameters)
    expected = resolve("feed_forward", "torch")(x, *parameters)
    assert measure_error(y, expected.double()) < 0.02
    y.sum().backward()
    assert all(parameter.grad is not None for parameter in parameters)
    assert [made["bias"] for made in engine["made"]] == [False, False]


def test_versions_before_2_9_have_another_name_for_the_context(engine: dict[str, Any]) -> None:
    linear = resolve("linear", "te")
    pytorch = sys.modules["transformer_engine.pytorch"]
    context = pytorch.autocast

    def fp8_autocast(enabled: bool, fp8_recipe: Any) -> Any:
        return context(enabled, fp8_recipe)

    del pytorch.autocast
    pytorch.fp8_autocast = fp8_autocast  # type: ignore[attr-defined]
    linear(torch.ones(16, 32).bfloat16(), make_parameter(48, 32), None)
    assert engine["entered"] == 1


def test_sizes_that_fp8_cannot_take_are_refused(engine: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="multiples of 16"):
        resolve("linear", "te")(torch.ones(9, 32).bfloat16(), make_parameter(48, 32), None)
