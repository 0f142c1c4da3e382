"""Fully connected layers in FP8 by Transformer Engine, over the model's own parameters."""

from __future__ import annotations

from typing import Any

import transformer_engine.pytorch as te
from torch import Tensor
from transformer_engine.common.recipe import Float8CurrentScaling

from harness.ops.float8 import check_sizes

# Scales from the very tensors: no history that warm-up or evaluation would leave changed.
RECIPE = Float8CurrentScaling()
PROJECTIONS = ("query", "key", "value")

# The library keeps its workspaces in modules: one for each weight, which it holds and so outlives.
_modules: dict[int, Any] = {}


def compute_in_float8() -> Any:
    """The library's context of FP8: `autocast` since version 2.9, under another name before."""
    if hasattr(te, "autocast"):
        return te.autocast(enabled=True, recipe=RECIPE)
    return te.fp8_autocast(enabled=True, fp8_recipe=RECIPE)


def find_module(weights: tuple[Tensor, ...], biases: tuple[Tensor | None, ...]) -> Any:
    """The library's module over these parameters, made on first use, which keeps no other memory.

    It refuses to split parameters that have no memory (Linear.__init__): the three are made on the
    device, not filled, so that no random number is drawn, and then replaced.
    """
    module = _modules.get(id(weights[0]))
    if module is None:
        split = len(weights) == len(PROJECTIONS)
        names = [f"{name}_" for name in PROJECTIONS] if split else [""]
        module = te.Linear(
            weights[0].shape[1],
            sum(len(weight) for weight in weights),
            bias=biases[0] is not None,
            params_dtype=weights[0].dtype,
            init_method=lambda tensor: tensor,
            parameters_split=tuple(names) if split else None,
            device=weights[0].device if split else "meta",
        )
        for name, weight, bias in zip(names, weights, biases, strict=True):
            setattr(module, f"{name}weight", weight)
            if bias is not None:
                setattr(module, f"{name}bias", bias)
        _modules[id(weights[0])] = module
    return module


def apply_module(
    x: Tensor, weights: tuple[Tensor, ...], biases: tuple[Tensor | None, ...]
) -> Tensor:
    """x times the joined weights, in FP8. Raises InputError for types and sizes FP8 cannot take."""
    for weight in weights:
        check_sizes(x, weight)
    with compute_in_float8():
        result: Tensor = find_module(weights, biases)(x)
    return result


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As harness.ops.linear in FP8 (e4m3 forward, e5m2 backward, current scaling), on a GPU.

    weight and bias have to be the same parameters at every call. Source:
    NVIDIA/TransformerEngine transformer_engine/pytorch/module/linear.py.
    """
    return apply_module(x, (weight,), (bias,))


def query_key_value(
    x: Tensor, weights: tuple[Tensor, Tensor, Tensor], biases: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """As harness.ops.query_key_value in FP8: one product over three parameters, on a GPU.

    The library joins parameters that lie next to each other without a copy.
    """
    joined = apply_module(x, weights, biases)
    query, key, value = joined.view(len(x), 3, -1).unbind(1)
    return query, key, value
