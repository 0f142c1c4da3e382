"""Counting what a step dispatches: operations, bytes of their tensors, FLOPs, by kind of work."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

# Kind of work -> what the names of its operations and kernels hold; the first that fits is taken.
KINDS = {
    "communication": r"nccl|gloo|c10d|all_?reduce|reduce_?scatter|all_?gather|broadcast",
    "gradients and update": r"lars|lamb|chunk_?sums|sum_chunks|multi_tensor|foreach",
    "attention": r"flash|attention|softmax(?!.*nll)|fmha",
    "convolution": r"conv|wgrad|dgrad|fprop|implicit_gemm|cudnn",
    "normalisation": r"batch_?norm|layer_?norm|dropout_add|bn_fw|bn_bw",
    "loss": r"cross_entropy|nll_loss|log_softmax",
    "cast to FP8": r"float8|find_largest",
    "matrix product": r"gemm|addmm|scaled_mm|\bmm\b|bmm|matmul|linear|cutlass|cublas|xmma|nvjet",
    "memory": r"copy|memcpy|memset|fill|zero|\bcat\b|clone|index|embedding|gather|scatter",
}
OTHER = "elementwise and other"
FLOAT8_SPEEDUP = 2.0  # of tensor cores over 16 bit, by the data sheets
# Make no work: they only describe or reserve memory.
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
NAMESPACES = ("aten", "harness", "c10d")  # torch's, our kernels', collectives


def name_kind(name: str) -> str:
    """The kind of work that an operation or a kernel of this name does."""
    lowered = name.lower()
    for kind, pattern in KINDS.items():
        if re.search(pattern, lowered):
            return kind
    return OTHER


def count_moved_bytes(func: Any, args: Any, kwargs: Any, result: Any) -> int | None:
    """Bytes of the tensors that a dispatched operation reads and writes, None where it has no work.

    An operation in place reads and writes the same tensor: it counts for both, also where it is
    not returned. Views and reservations have no work.
    """
    schema = func._schema
    aliases = [value.alias_info for value in schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in aliases)
    name = schema.name.split("::")[-1]
    if func.namespace not in NAMESPACES or is_view or name in FREE:
        return None
    written = [
        value
        for value, argument in zip(args, schema.arguments, strict=False)
        if not schema.returns and argument.alias_info and argument.alias_info.is_write
    ]
    return sum(
        leaf.numel() * leaf.element_size()
        for leaf in tree_leaves((args, kwargs, result, written))
        if isinstance(leaf, torch.Tensor)
    )


class OperationFloor(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the least time that each operation dispatched inside can take on a device.

    For every operation that is the larger of FLOPs / flops_per_second (those of 16 bit, twice that
    for products in FP8) and bytes of its tensors / bytes_per_second; seconds: by kind of work;
    operations: how many, by kind.
    """

    def __init__(self, flops_per_second: float, bytes_per_second: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops_per_second, self.bytes_per_second = flops_per_second, bytes_per_second
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        moved = count_moved_bytes(func, args, kwargs, result)
        if moved is None:
            return result
        flops = 0.0
        if func._overloadpacket in flop_registry:
            formula = flop_registry[func._overloadpacket]
            flops = float(formula(*args, **(kwargs or {}), out_val=result))
            if func._overloadpacket is torch.ops.aten._scaled_mm:
                flops /= FLOAT8_SPEEDUP
        kind = name_kind(func._schema.name.split("::")[-1])
        self.seconds[kind] += max(flops / self.flops_per_second, moved / self.bytes_per_second)
        self.operations[kind] += 1
        return result


def count_floor(
    call: Callable[[], object], flops_per_second: float, bytes_per_second: float
) -> dict[str, float]:
    """The least seconds of one call by kind of work, were every operation at its roofline."""
    with OperationFloor(flops_per_second, bytes_per_second) as floor:
        call()
    return dict(floor.seconds)
