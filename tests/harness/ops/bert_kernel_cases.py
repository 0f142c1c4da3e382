"""The launches of BERT's Triton kernels at the sizes of BERT-large, and what they are allowed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from harness.ops.float8_history import Histories, follow_histories
from harness.ops.table import resolve

SHORT = (torch.bfloat16, torch.float16)
# Tokens of 96 sequences, masked tokens of them; hidden and inner size, words.
TOKENS, MASKED, HIDDEN, INNER, WORDS = 24576, 3712, 1024, 4096, 30522
EPS = 1e-12
# By each tensor's own largest number; the first step and all others of delayed scaling.
FLOAT8_WAYS = (("scaled_mm", False), ("delayed", False), ("delayed", True))

BERT_NARROW_STORES = {
    "column_sums_triton:sum_kernel": "a line of sums a program",
    "masked_cross_entropy_triton:forward_kernel": "two numbers a row of logits",
    **dict.fromkeys(
        [f"float8_{name}triton:largest_kernel" for name in ("", "gelu_", "join_")],
        "a number a program",
    ),
}
# "module:kernel" -> why a thread may have more registers than four programs leave it.
BERT_MANY_REGISTERS = {
    "dropout_add_layer_norm_triton:backward_kernel": "a row and two rows of sums in each warp",
    "embedding_triton:backward_kernel": "a row and two rows of sums in each warp",
}
# Oldest architecture that has the instructions, where it is not the oldest of all.
BERT_OLDEST = {
    "float8_triton:cast_kernel": 90,
    "float8_gelu_triton:cast_kernel": 90,
    "float8_gelu_triton:cast_gradient_kernel": 90,
    "float8_join_triton:cast_kernel": 90,
}


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    floats = dtype.is_floating_point
    return torch.empty(*shape, dtype=dtype, device="meta", requires_grad=floats)


def differentiate(results: tuple[Tensor, ...]) -> None:
    """Backward through both uses of a result, and through one, as the last layer has it."""
    for used in (results, results[:1]):
        gradients = [torch.empty_like(result) for result in used]
        torch.autograd.backward(used, gradients, retain_graph=True)


def run_embedding(dtype: torch.dtype) -> None:
    operation = resolve("embedding", "triton")
    ids = tuple(leaf(TOKENS, dtype=torch.int64) for _ in range(3))
    tables = tuple(leaf(rows, HIDDEN, dtype=dtype) for rows in (WORDS, 512, 2))
    for training in (True, False):
        differentiate(operation(ids, tables, leaf(HIDDEN), leaf(HIDDEN), 0.1, EPS, training))


def run_layer_norm(dtype: torch.dtype) -> None:
    operation = resolve("layer_norm", "triton")
    x = leaf(MASKED, HIDDEN, dtype=dtype)
    operation(x, leaf(HIDDEN), leaf(HIDDEN), EPS).sum().backward()


def run_dropout_add_layer_norm(dtype: torch.dtype) -> None:
    operation = resolve("dropout_add_layer_norm", "triton")
    x, residual = leaf(TOKENS, HIDDEN, dtype=dtype), leaf(TOKENS, HIDDEN, dtype=dtype)
    x_bias = leaf(HIDDEN, dtype=dtype)
    for training in (True, False):
        differentiate(
            operation(x, x_bias, residual, leaf(HIDDEN), leaf(HIDDEN), 0.1, EPS, training)
        )


def run_bias_gelu(dtype: torch.dtype) -> None:
    operation = resolve("bias_gelu", "triton")
    for rows, columns in ((TOKENS, INNER), (MASKED, HIDDEN)):
        operation(leaf(rows, columns, dtype=dtype), leaf(columns, dtype=dtype)).sum().backward()


def run_masked_cross_entropy(dtype: torch.dtype) -> None:
    operation = resolve("masked_cross_entropy", "triton")
    x, table = leaf(MASKED, HIDDEN, dtype=dtype), leaf(WORDS, HIDDEN, dtype=dtype)
    logits = resolve("vocabulary_logits", "padded")(x, table, leaf(WORDS, dtype=dtype))
    operation(logits, leaf(MASKED, dtype=torch.int64)).backward()


def run_query_key_value(provider: str, dtype: torch.dtype) -> None:
    weights = leaf(3, HIDDEN, HIDDEN, dtype=dtype).unbind(0)
    biases = leaf(3, HIDDEN, dtype=dtype).unbind(0)
    x = leaf(TOKENS, HIDDEN, dtype=dtype)
    gradients = [torch.empty(TOKENS, HIDDEN, dtype=dtype, device="meta") for _ in range(3)]
    Histories(weights[:1], weights[0].device)
    for follow in (False, True) if provider == "delayed" else (False,):
        with follow_histories(follow):
            projections = resolve("query_key_value", provider)(x, weights, biases)
        torch.autograd.backward(projections, gradients)


def run_float8(dtype: torch.dtype) -> None:
    for provider, follow in FLOAT8_WAYS:
        operation = resolve("linear", provider)
        for outputs, inputs in ((HIDDEN, HIDDEN), (INNER, HIDDEN), (HIDDEN, INNER)):
            x, weight = leaf(TOKENS, inputs, dtype=dtype), leaf(outputs, inputs, dtype=dtype)
            Histories([weight], weight.device)
            with follow_histories(follow):
                operation(x, weight, leaf(outputs, dtype=dtype)).sum().backward()
                with torch.no_grad():
                    operation(x, weight, None)


def run_feed_forward(dtype: torch.dtype) -> None:
    inner, outer = leaf(INNER, HIDDEN, dtype=dtype), leaf(HIDDEN, INNER, dtype=dtype)
    x, bias = leaf(TOKENS, HIDDEN, dtype=dtype), leaf(INNER, dtype=dtype)
    Histories([inner, outer], inner.device)
    for provider, follow in FLOAT8_WAYS:
        operation = resolve("feed_forward", provider)
        with follow_histories(follow):
            operation(x, inner, bias, outer).sum().backward()
            with torch.no_grad():
                operation(x, inner, bias, outer)


BERT_CASES: dict[str, tuple[Callable[[torch.dtype], None], tuple[torch.dtype, ...]]] = {
    "embedding": (run_embedding, SHORT),
    "layer_norm": (run_layer_norm, SHORT),
    "dropout_add_layer_norm": (run_dropout_add_layer_norm, SHORT),
    "bias_gelu": (run_bias_gelu, SHORT),
    "masked_cross_entropy": (run_masked_cross_entropy, SHORT),
    "query_key_value": (partial(run_query_key_value, "triton"), SHORT),
    "query_key_value in FP8": (partial(run_query_key_value, "scaled_mm"), SHORT),
    "query_key_value in FP8, delayed": (partial(run_query_key_value, "delayed"), SHORT),
    "feed_forward in FP8": (run_feed_forward, SHORT),
    "float8": (run_float8, SHORT),
}
