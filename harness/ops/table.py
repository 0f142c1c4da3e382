"""The table of operations: which provider implements which operation, and where.

A row is resolved once, by name, and its module is imported only then. What is asked for and is
not there stops the run: a quietly slower run would be a wrong result.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from harness.commands import InputError

Operation = Callable[..., Any]
OperationsT = TypeVar("OperationsT")

PROVIDERS = (
    "torch",
    "triton",
    "apex",
    "te",
    "flash",
    "flash_attn",
    "fused",
    "padded",
    "scaled_mm",
    "delayed",
    "separate",
)

# operation -> provider -> "module:function"
TABLE: dict[str, dict[str, str]] = {
    "batch_norm": {
        "torch": "harness.ops.batch_norm:batch_norm",
        "triton": "harness.ops.batch_norm_triton:batch_norm",
        "apex": "harness.ops.batch_norm_apex:batch_norm",
    },
    "batch_norm_relu": {
        "torch": "harness.ops.batch_norm_relu:batch_norm_relu",
        "triton": "harness.ops.batch_norm_triton:batch_norm_relu",
        "apex": "harness.ops.batch_norm_apex:batch_norm_relu",
    },
    "batch_norm_add_relu": {
        "torch": "harness.ops.batch_norm_add_relu:batch_norm_add_relu",
        "triton": "harness.ops.batch_norm_triton:batch_norm_add_relu",
        "apex": "harness.ops.batch_norm_apex:batch_norm_add_relu",
    },
    "batch_norm_batch_norm_add_relu": {
        "torch": "harness.ops.batch_norm_batch_norm_add_relu:batch_norm_batch_norm_add_relu",
        "triton": "harness.ops.batch_norm_pair_triton:batch_norm_batch_norm_add_relu",
        "separate": "harness.ops.batch_norm_pair_triton:batch_norm_then_batch_norm_add_relu",
        "apex": "harness.ops.batch_norm_apex:batch_norm_batch_norm_add_relu",
    },
    "batch_norm_relu_max_pool": {
        "torch": "harness.ops.batch_norm_relu_max_pool:batch_norm_relu_max_pool",
        "triton": "harness.ops.batch_norm_pool_triton:batch_norm_relu_max_pool",
        "separate": "harness.ops.batch_norm_pool_triton:batch_norm_relu_then_max_pool",
        "apex": "harness.ops.batch_norm_apex:batch_norm_relu_max_pool",
    },
    "label_smoothed_cross_entropy": {
        "torch": "harness.ops.label_smoothed_cross_entropy:label_smoothed_cross_entropy",
        "triton": "harness.ops.label_smoothed_cross_entropy_triton:label_smoothed_cross_entropy",
        "apex": "harness.ops.label_smoothed_cross_entropy_apex:label_smoothed_cross_entropy",
    },
    "lars_update": {
        "torch": "harness.ops.lars_update:lars_update",
        "triton": "harness.ops.lars_update_triton:lars_update",
    },
    "lamb": {
        "torch": "harness.ops.lamb:lamb",
        "triton": "harness.ops.lamb_triton:lamb",
        "apex": "harness.ops.lamb_apex:ApexLAMB",
    },
    "lamb_moments": {
        "torch": "harness.ops.lamb_moments:lamb_moments",
        "triton": "harness.ops.lamb_triton:lamb_moments",
    },
    "lamb_apply": {
        "torch": "harness.ops.lamb_apply:lamb_apply",
        "triton": "harness.ops.lamb_triton:lamb_apply",
    },
    "embedding": {
        "torch": "harness.ops.embedding:embedding",
        "triton": "harness.ops.embedding_triton:embedding",
    },
    "linear": {
        "torch": "harness.ops.linear:linear",
        "te": "harness.ops.linear_te:linear",
        "scaled_mm": "harness.ops.linear_scaled_mm:linear",
        "delayed": "harness.ops.linear_scaled_mm:delayed",
    },
    "query_key_value": {
        "torch": "harness.ops.query_key_value:query_key_value",
        "triton": "harness.ops.query_key_value_triton:query_key_value",
        "fused": "harness.ops.query_key_value_fused:query_key_value",
        "te": "harness.ops.linear_te:query_key_value",
        "scaled_mm": "harness.ops.query_key_value_scaled_mm:query_key_value",
        "delayed": "harness.ops.query_key_value_scaled_mm:delayed",
    },
    "feed_forward": {
        "torch": "harness.ops.feed_forward:feed_forward",
        "triton": "harness.ops.feed_forward_triton:feed_forward",
        "apex": "harness.ops.feed_forward_apex:feed_forward",
        "te": "harness.ops.feed_forward_te:feed_forward",
        "scaled_mm": "harness.ops.feed_forward_scaled_mm:feed_forward",
        "delayed": "harness.ops.feed_forward_scaled_mm:delayed",
    },
    "varlen_attention": {
        "torch": "harness.ops.varlen_attention:varlen_attention",
        "flash": "harness.ops.varlen_attention_flash:varlen_attention",
        "flash_attn": "harness.ops.varlen_attention_flash_attn:varlen_attention",
        "te": "harness.ops.varlen_attention_te:varlen_attention",
    },
    "bias_gelu": {
        "torch": "harness.ops.bias_gelu:bias_gelu",
        "triton": "harness.ops.bias_gelu_triton:bias_gelu",
    },
    "layer_norm": {
        "torch": "harness.ops.layer_norm:layer_norm",
        "triton": "harness.ops.layer_norm_triton:layer_norm",
        "apex": "harness.ops.layer_norm_apex:layer_norm",
    },
    "dropout_add_layer_norm": {
        "torch": "harness.ops.dropout_add_layer_norm:dropout_add_layer_norm",
        "triton": "harness.ops.dropout_add_layer_norm_triton:dropout_add_layer_norm",
        "apex": "harness.ops.layer_norm_apex:dropout_add_layer_norm",
    },
    "vocabulary_logits": {
        "torch": "harness.ops.vocabulary_logits:vocabulary_logits",
        "padded": "harness.ops.vocabulary_logits_padded:vocabulary_logits",
    },
    "masked_cross_entropy": {
        "torch": "harness.ops.masked_cross_entropy:masked_cross_entropy",
        "triton": "harness.ops.masked_cross_entropy_triton:masked_cross_entropy",
    },
}

# These compute in FP8: another numerical format, not another order of rounding.
FLOAT8_PROVIDERS = dict.fromkeys(
    ("linear", "query_key_value", "feed_forward"), ("te", "scaled_mm", "delayed")
)


def resolve(operation: str, provider: str) -> Operation:
    """Import and return one provider's implementation of an operation.

    Raises InputError, listing what there is, for an unknown operation, an unknown provider, a
    provider without this operation, and a provider whose library is not installed.
    """
    if operation not in TABLE:
        raise InputError(
            f"unknown operation {operation!r}: the operations are {', '.join(sorted(TABLE))}"
        )
    if fault := find_provider_fault(operation, provider):
        raise InputError(fault)
    row = TABLE[operation]
    module_name, function_name = row[provider].split(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] == module_name.split(".")[0]:
            raise  # a module of ours is gone: a defect, not a missing library
        others = ", ".join(name for name in row if name != provider) or "none"
        raise InputError(
            f"operation {operation}: provider {provider!r} needs the library {error.name}, which "
            f"is not installed: install it or name another provider (there is: {others})"
        ) from None
    function: Operation = getattr(module, function_name)
    return function


def find_provider_fault(operation: str, provider: str) -> str | None:
    """Say why a provider cannot be asked for an operation of the table; None: it can."""
    row = TABLE[operation]
    if provider in row:
        return None
    known = "does not implement it" if provider in PROVIDERS else "is no provider"
    return f"operation {operation}: {provider!r} {known}; choose one of {', '.join(row)}"


def find_operations_fault(kind: type[Any], table: Mapping[str, str]) -> str | None:
    """Say what is wrong with a configuration's table of operations, or None; imports no provider.

    kind: a dataclass whose fields are named after the operations the model needs. The table must
    name a provider for every one of them and nothing else.
    """
    wanted = [field.name for field in dataclasses.fields(kind)]
    missing = [name for name in wanted if name not in table]
    surplus = [name for name in table if name not in wanted]
    if missing or surplus:
        said = [f"missing: {', '.join(missing)}"] if missing else []
        said += [f"not used by this model: {', '.join(surplus)}"] if surplus else []
        return (
            f"the table of operations must name a provider for each of {', '.join(wanted)} "
            f"({'; '.join(said)})"
        )
    faults = (find_provider_fault(name, provider) for name, provider in table.items())
    return next((fault for fault in faults if fault), None)


def resolve_operations(kind: type[OperationsT], table: Mapping[str, str]) -> OperationsT:
    """Make a model's operations from its configuration table {operation: provider}.

    kind and table: as find_operations_fault takes them. Raises InputError with the fault that it
    finds, and as resolve does.
    """
    if fault := find_operations_fault(kind, table):
        raise InputError(fault)
    return kind(**{name: resolve(name, provider) for name, provider in table.items()})
