"""Every provider of some operations on one device: how far from the definition, and how fast.

A case is an operation at one size. Errors are those of result and gradients without dropout, in
parts of the definition's in fp64; seconds are with dropout and the device's alone, as in a step
that is one graph. What no graph holds is marked: its launches are included, and what takes less
than some 100 us is then the host's time. `delayed` is timed as in all steps but the first. Bytes
are counted as torch dispatches them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.commands import InputError
from harness.ops.float8_history import Histories, follow_histories
from harness.ops.table import FLOAT8_PROVIDERS, TABLE, Operation, resolve
from harness.step_profile import find_reachable
from harness.throughput import describe_device
from perf.device_times import time_calls, time_device
from perf.operations import count_bytes

DROPOUT = 0.1
# Of result and gradients: some roundings to the format, sums in fp32; FP8 has 4 and 3 bits. Where
# the definition itself is far in that format, twice its distance is allowed.
LIMITS = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
FLOAT8_LIMIT = 0.1
Results = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Case:
    """One operation's call: operation, tensors and dropout to its results.

    Gradients are those of tensors, of every result with a gradient of its own. size: what to tell
    cases of one operation apart by. after: whether what is compared and timed has no gradient, as
    an update. inputs: how many of the tensors are no parameters of a model, None for all; the
    others come last. Transformer Engine takes parameters for its matrices, and tensors alone for
    its attention.
    """

    operation: str
    tensors: tuple[Tensor, ...]
    call: Callable[[Operation, Sequence[Tensor], float], Results]
    size: str = ""
    after: bool = False
    inputs: int | None = None


def copy_leaves(tensors: Sequence[Tensor], inputs: int | None = None) -> list[Tensor]:
    """Leaves of the same numbers; those that lie next to each other go on doing so.

    inputs: as of a Case.
    """
    inputs = len(tensors) if inputs is None else inputs
    copies: dict[int, Tensor] = {}
    leaves = []
    for number, tensor in enumerate(tensors):
        storage = tensor.untyped_storage()
        whole = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage)
        copy = copies.setdefault(storage.data_ptr(), whole.clone())
        leaf = copy.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        leaf = leaf.detach()
        leaves.append(leaf.requires_grad_() if number < inputs else nn.Parameter(leaf))
    return leaves


def make_draw(seed: int, device: torch.device) -> Callable[..., Tensor]:
    """A source of normal numbers, (*shape) -> fp32 tensor, made where they are needed."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    return draw


def _list(results: Results) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


def _draw_directions(results: Sequence[Tensor]) -> list[Tensor]:
    """A gradient for each result, in its type and layout."""
    drawn = []
    for number, result in enumerate(results):
        direction = torch.empty_like(result)
        direction.copy_(make_draw(5 + number, result.device)(*result.shape))
        drawn.append(direction)
    return drawn


def compute(case: Case, operation: Operation, leaves: Sequence[Tensor]) -> list[Tensor]:
    """Results and gradients without dropout, or an update's weights."""
    if case.after:
        return [*_list(case.call(operation, [leaf.detach() for leaf in leaves], 0.0))]
    results = _list(case.call(operation, leaves, 0.0))
    kept = [result.detach().clone() for result in results]  # backward may write into them
    return [*kept, *torch.autograd.grad(results, leaves, _draw_directions(kept))]


def make_call(case: Case, operation: Operation, leaves: Sequence[Tensor]) -> Callable[[], object]:
    """Forward with dropout, and backward; what is timed."""
    if case.after:
        fixed = [leaf.detach() for leaf in leaves]
        return lambda: case.call(operation, fixed, DROPOUT)
    with torch.no_grad():
        directions = _draw_directions(_list(case.call(operation, leaves, DROPOUT)))

    def call() -> object:
        results = _list(case.call(operation, leaves, DROPOUT))
        return torch.autograd.grad(results, leaves, directions)

    return call


def time_case(call: Callable[[], object], turns: int, device: torch.device) -> tuple[float, bool]:
    """Seconds of a call, and whether they are the device's alone."""
    try:
        return time_device(call, turns, device), True
    except RuntimeError as error:  # torch: it cannot be captured
        print(f"not captured: {str(error).splitlines()[0]}", file=sys.stderr)
        return time_calls(call, turns, device), False


def measure_error(ours: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The largest difference of a result or gradient, in parts of the exact one."""
    errors = [
        float((a.detach().double() - b.detach()).norm() / b.detach().norm().clamp(min=1e-30))
        for a, b in zip(ours, exact, strict=True)
    ]
    return max(errors)


def find_exact(case: Case) -> list[Tensor]:
    """Results and gradients of the definition in fp64; an update's masters are fp32 anyway."""
    exact = torch.float32 if case.after else torch.float64
    leaves = [tensor.to(exact).requires_grad_() for tensor in case.tensors]
    return compute(case, resolve(case.operation, "torch"), leaves)


def measure(
    cases: Sequence[Case], dtype: torch.dtype, turns: int, device: torch.device
) -> list[dict[str, Any]]:
    """Measure every provider in every case; the definition first.

    A provider whose library is not there, or that cannot compute on this device, has a "reason";
    one that failed a "fault".
    """
    found: list[dict[str, Any]] = []
    for case in cases:
        exact, definition_error = find_exact(case), 0.0
        for provider in TABLE[case.operation]:
            row: dict[str, Any] = {
                "operation": case.operation,
                "size": case.size,
                "provider": provider,
            }
            found.append(row)
            float8 = provider in FLOAT8_PROVIDERS.get(case.operation, ())
            row["limit"] = max(FLOAT8_LIMIT if float8 else LIMITS[dtype], 2 * definition_error)
            try:
                function = resolve(case.operation, provider)
                leaves = copy_leaves(case.tensors, case.inputs)
                histories = Histories(leaves, device)
                row["error"] = measure_error(compute(case, function, leaves), exact)
                if provider == "torch":
                    definition_error = row["error"]
                    row["limit"] = None
                if provider == "delayed":
                    histories.advance()
                    with follow_histories():
                        again = measure_error(compute(case, function, leaves), exact)
                    row["error"] = max(row["error"], again)
                else:
                    # A call may have written into them.
                    leaves = copy_leaves(case.tensors, case.inputs)
                call = make_call(case, function, leaves)
                with follow_histories(provider == "delayed"):
                    row["seconds"], row["captured"] = time_case(call, turns, device)
                    row["bytes"] = count_bytes(call)
            except InputError as error:
                row["reason"] = str(error)
            except Exception as error:  # noqa: BLE001  whatever a library raises: the others follow
                row["fault"] = (
                    f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
                )
    return found


def is_wrong(row: dict[str, Any]) -> bool:
    """Whether a provider failed, or is further from the definition than its limit."""
    if "fault" in row:
        return True
    return row.get("limit") is not None and not row.get("error", 0.0) <= row["limit"]


def show(rows: Sequence[dict[str, Any]], device: torch.device) -> None:
    """Print a line for each provider: its time beside the definition's, and the bytes it moved.

    Where it is known what the device's memory reaches, their rate is a share of that.
    """
    peaks = find_reachable(describe_device(device))
    definition = 0.0
    for row in rows:
        name = f"{row['operation'] + ' ' + row['size']:40} {row['provider']:11}"
        if "reason" in row:
            print(f"{name}not measured: {row['reason']}")
            continue
        if "fault" in row:
            print(f"{name}FAILED: {row['fault']}")
            continue
        if row["provider"] == "torch":
            definition = row["seconds"]
        rate = row["bytes"] / row["seconds"]
        share = "" if peaks is None else f" ({rate / peaks[1]:.0%} of a copy)"
        print(
            f"{name}{1e6 * row['seconds']:12,.0f} us{definition / row['seconds']:8.2f} x"
            f"{rate / 1e9:9,.0f} GB/s{share}   error {row['error']:.1e}"
            f"{'' if row['captured'] else '  launches included'}"
            f"{'  TOO FAR' if is_wrong(row) else ''}"
        )
