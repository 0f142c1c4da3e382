"""How our Triton kernels are started: launch plans, checks of what they are given, and records.

A launch plan (grid, tile sizes, warps) is made by one function for each kernel, which the operation
and the tests that compile ahead of time share. Each launch is an operation of torch's dispatcher,
`torch.ops.harness.<name>`, so that a step can be counted on tensors without memory: there a launch
computes nothing and, under `record_launches`, is written down.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import triton
from torch import Tensor

from harness.commands import InputError

# Streaming multiprocessors of an H100 or H200 SXM: what plans are made for where no GPU is.
PLANNED_MULTIPROCESSORS = 132
VECTOR_BYTES = 16  # the widest load or store of one thread

_LIBRARY = torch.library.Library("harness", "FRAGMENT")  # type: ignore[no-untyped-call]
_records: list[Record] | None = None


def named_kernel(function: Any = None, **options: Any) -> Any:
    """triton.jit for a kernel that is launched: a profile shows it as <module>_<function>.

    Without the endings _triton, _kernels and _kernel: batch_norm_apply, lars_update_apply. By the
    function's name alone both would be an apply_kernel. options: what triton.jit takes.
    """
    if function is None:
        return functools.partial(named_kernel, **options)
    module = function.__module__.rsplit(".", 1)[-1].removesuffix("_triton").removesuffix("_kernels")
    name = f"{module}_{function.__name__.removesuffix('_kernel')}"
    return triton.jit(function, repr=lambda _: name, **options)


@dataclass(frozen=True)
class Launch:
    """One kernel with all that is fixed before its arguments are known.

    kernel: a named_kernel function whose constexpr parameters are `constants`; grid: programs along
    each axis; warps: of 32 threads, for one program; stages: depth of the pipelined loops.
    """

    kernel: Any
    grid: tuple[int, ...]
    constants: dict[str, int | float | bool] = field(default_factory=dict)
    warps: int = 4
    stages: int = 1

    def __call__(self, *arguments: Tensor | int | float) -> None:
        """Start the kernel on its arguments, in the order of its parameters.

        On tensors without memory nothing is computed. Raises InputError for tensors that the
        kernel cannot reach.
        """
        device = next(argument for argument in arguments if isinstance(argument, Tensor)).device
        if device.type == "meta":
            if _records is not None:
                _records.append(Record(self, arguments))
            return
        if device.type != "cuda" and not triton.knobs.runtime.interpret:
            raise InputError(
                f"provider 'triton' computes on a GPU and was given tensors on {device}: name "
                "provider 'torch', or set TRITON_INTERPRET=1 to interpret the kernels"
            )
        self.kernel[self.grid](
            *arguments, **self.constants, num_warps=self.warps, num_stages=self.stages
        )


@dataclass(frozen=True)
class Record:
    """A launch that was not made, with the arguments it would have had."""

    launch: Launch
    arguments: tuple[Tensor | int | float, ...]


@contextmanager
def record_launches() -> Iterator[list[Record]]:
    """Collect the launches made on tensors without memory while the context lasts."""
    global _records  # noqa: PLW0603  one process-wide record, as the dispatcher is
    previous, _records = _records, []
    try:
        yield _records
    finally:
        _records = previous


def register_operation(schema: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `torch.ops.harness.<name>` of a function that starts one kernel, and return it.

    schema: as torch.library.Library.define takes it, with every tensor that is written marked. The
    same function serves GPU, interpreter and tensors without memory.
    """
    name = schema.split("(", 1)[0]
    _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
    for key in ("CUDA", "CPU", "Meta"):
        _LIBRARY.impl(name, function, key)  # type: ignore[no-untyped-call]
    operation: Callable[..., Any] = getattr(torch.ops.harness, name).default
    return operation


def count_multiprocessors(device: torch.device) -> int:
    """Multiprocessors of a GPU; those of an H100 for tensors elsewhere."""
    if device.type != "cuda":
        return PLANNED_MULTIPROCESSORS
    return _count_multiprocessors(device.index)


@functools.lru_cache
def _count_multiprocessors(index: int | None) -> int:
    return int(torch.cuda.get_device_properties(index).multi_processor_count)


def divide_up(amount: int, size: int) -> int:
    """The number of pieces of `size` that hold `amount`."""
    return -(-amount // size)


def round_up_to_power(number: int) -> int:
    """The smallest power of two that is not below a number of at least 1."""
    return 1 << (number - 1).bit_length()
