"""Every variant of our Triton kernels that a real training step starts.

A case runs an operation, forward and backward, on tensors without memory at shapes of the full
models; what it launches there, with which types, tile sizes and warps, is what a GPU would get.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from harness.ops.kernels import Record, record_launches
from harness.ops.table import resolve
from tests.harness.ops.bert_kernel_cases import (
    BERT_CASES,
    BERT_MANY_REGISTERS,
    BERT_NARROW_STORES,
    BERT_OLDEST,
)

# "module:kernel" -> why its accesses are narrower than 16 bytes a thread.
NARROW_LOADS: dict[str, str] = {
    "chunk_sums_triton:sum_kernel": "pairs of sums, 8 bytes for a chunk of 256 elements",
}
NARROW_STORES = {
    "batch_norm_kernels:statistics_kernel": "two numbers a channel and part",
    "batch_norm_kernels:finalize_kernel": "four numbers a channel",
    "batch_norm_kernels:reduce_kernel": "two numbers a channel and part, beside the wide tiles",
    "batch_norm_kernels:finalize_backward_kernel": "four numbers a channel",
    "batch_norm_pair_kernels:reduce_pair_kernel": "three numbers a channel and part, beside tiles",
    "batch_norm_pool_kernels:reduce_pool_kernel": "two numbers a channel and part",
    "lars_update_triton:norms_kernel": "two numbers a chunk of 256 elements",
    "chunk_sums_triton:sum_kernel": "two numbers a tensor",
    "label_smoothed_cross_entropy_triton:forward_kernel": "two numbers a row of logits",
    **BERT_NARROW_STORES,
}
MANY_REGISTERS = {**BERT_MANY_REGISTERS}
OLDEST_ARCHITECTURE = {**BERT_OLDEST}

META = torch.device("meta")
FULL = (torch.float32,)
SHORT = (torch.bfloat16, torch.float16)
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
    torch.int8: "i8",
    torch.bool: "u1",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e5m2: "fp8e5",
}


@dataclass(frozen=True)
class Variant:
    """One kernel, the types of its arguments and all its constants: what is compiled.

    signature: parameter -> Triton's name of its type; constants: parameter -> value; aligned:
    numbers of the parameters that 16 divides (every tensor starts at such an address: torch
    allocates by 512 bytes).
    """

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[int, ...]
    warps: int
    stages: int

    @property
    def kernel_name(self) -> str:
        """ "module:kernel", without the package."""
        return f"{self.kernel.fn.__module__.rsplit('.', 1)[-1]}:{self.kernel.fn.__name__}"

    def runs_on(self, architecture: int) -> bool:
        return architecture >= OLDEST_ARCHITECTURE.get(self.kernel_name, 0)


def make_variant(record: Record) -> Variant:
    """Specialise a kernel on its arguments as Triton does when it is launched."""
    launch = record.launch
    names: list[str] = launch.kernel.arg_names
    signature, constants = {}, dict(launch.constants)
    aligned, types = [], []
    if hasattr(launch.kernel, "do_not_specialize"):
        general = launch.kernel.do_not_specialize or ()
    else:  # an interpreted kernel
        general = launch.kernel.kwargs["do_not_specialize"] or ()
    given = [name for name in names if name not in constants]
    assert len(given) == len(record.arguments), (names, record.arguments)
    for name, argument in zip(given, record.arguments, strict=True):
        if isinstance(argument, Tensor):
            signature[name] = f"*{TYPES[argument.dtype]}"
            types.append(TYPES[argument.dtype])
            aligned.append(names.index(name))
        elif isinstance(argument, float):
            signature[name] = "fp32"
        elif argument == 1 and name not in general:
            constants[name] = 1
        else:
            signature[name] = "i32" if argument < 2**31 else "i64"
            if argument % 16 == 0 and name not in general:
                aligned.append(names.index(name))
    signature |= dict.fromkeys(constants, "constexpr")
    signature = {name: signature[name] for name in names}
    module = launch.kernel.fn.__module__.rsplit(".", 1)[-1]
    sizes = [f"{name}{value}" for name, value in sorted(launch.constants.items())]
    # Alignment of the numbers is part of the name: it decides how wide loads are.
    whole = "".join("a" if i in aligned else "u" for i in range(len(names)))
    name = "-".join([module, launch.kernel.fn.__name__, *dict.fromkeys(types), *sizes, whole])
    return Variant(
        f"{name}-w{launch.warps}",
        launch.kernel,
        signature,
        constants,
        tuple(aligned),
        launch.warps,
        launch.stages,
    )


def leaf(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device=META, requires_grad=dtype.is_floating_point)


def run_cross_entropy(dtype: torch.dtype) -> None:
    operation = resolve("label_smoothed_cross_entropy", "triton")
    for images in (102, 204, 400):
        operation(leaf(images, 1000, dtype=dtype), leaf(images, dtype=torch.int64), 0.1).backward()


# channels and side of what ResNet-50 normalises: with a ReLU, and before the residual
WITH_POOL = [(64, 112)]
WITH_RELU = [(64, 56), (128, 56), (128, 28), (256, 28), (256, 14), (512, 14), (512, 7)]
WITH_RESIDUAL = [(256, 56), (512, 28), (1024, 14), (2048, 7)]


def leaf_image(images: int, channels: int, side: int, dtype: torch.dtype) -> Tensor:
    x = torch.empty(images, channels, side, side, dtype=dtype, device=META)
    return x.to(memory_format=torch.channels_last).requires_grad_()


def run_batch_norm(operation: str, shapes: list[tuple[int, int]], dtype: torch.dtype) -> None:
    function = resolve(operation, "triton")
    count = 2 if "add" in operation else 1
    normalised = 2 if operation == "batch_norm_batch_norm_add_relu" else 1
    for images in (102, 204, 400):
        for channels, side in shapes:
            parameters = []
            for _ in range(normalised):
                trained = [leaf(channels), leaf(channels)]
                parameters += [*trained, *[vector.detach() for vector in trained]]
            inputs = [leaf_image(images, channels, side, dtype) for _ in range(count)]
            with torch.no_grad():
                function(*inputs, *parameters, False, 0.1, 1e-5)
            y = function(*inputs, *parameters, True, 0.1, 1e-5)
            results = list(y) if isinstance(y, tuple) else [y]
            # All results but the last block's have a gradient for each of their two uses.
            for used in (results, results[:1]) if count == 2 else (results,):
                gradients = [torch.empty_like(result) for result in used]
                torch.autograd.backward(used, gradients, retain_graph=True)


# Chunks of ResNet-50's convolutions and of a 32nd of BERT-large, and elements of each.
CHUNKS, CHUNK, TENSORS = (99_833, 41_045), 256, 160


def make_pool(dtype: torch.dtype, chunks: int) -> tuple[list[Tensor], list[Tensor]]:
    """Buffers (fp32, and one of the model's type) and tables of a pool."""
    length = chunks * CHUNK
    wide = [torch.empty(length, device=META) for _ in range(3)]
    tables = [
        torch.empty(chunks, dtype=torch.int32, device=META),
        torch.empty(TENSORS, 2, dtype=torch.int32, device=META),
        torch.empty(TENSORS, device=META),
    ]
    return [*wide, torch.empty(length, dtype=dtype, device=META)], tables


def run_lars(dtype: torch.dtype) -> None:
    update = resolve("lars_update", "triton")
    (master, momenta, _, short), tables = make_pool(dtype, CHUNKS[0])
    copy = None if dtype == torch.float32 else short
    for adapted in (True, False):
        rate = torch.empty(1, device=META)
        update(master, momenta, short, copy, *tables, adapted, rate, 0.9, 5e-5, 1e-3, 0.0, 1.0)


def run_lamb(dtype: torch.dtype) -> None:
    moments, apply = resolve("lamb_moments", "triton"), resolve("lamb_apply", "triton")
    (master, means, squares, short), tables = make_pool(dtype, CHUNKS[1])
    one, flag = torch.empty(1, device=META), torch.empty(1, dtype=torch.bool, device=META)
    two = torch.empty(2, device=META)
    numbers = (0.6, 0.85, 1e-6, 0.1)
    sums = moments(master, means, squares, short, *tables, one, flag, two, *numbers)
    copy = None if dtype == torch.float32 else short
    apply(master, means, squares, copy, tables[0], tables[2], sums, flag, one, two, *numbers[2:])


# name -> what starts the kernels, and with which types of activations
CASES: dict[str, tuple[Callable[[torch.dtype], None], tuple[torch.dtype, ...]]] = {
    "label_smoothed_cross_entropy": (run_cross_entropy, (*FULL, *SHORT)),
    "batch_norm": (partial(run_batch_norm, "batch_norm", WITH_RESIDUAL), SHORT),
    "batch_norm_relu": (partial(run_batch_norm, "batch_norm_relu", WITH_RELU), SHORT),
    "batch_norm_add_relu": (partial(run_batch_norm, "batch_norm_add_relu", WITH_RESIDUAL), SHORT),
    "batch_norm_batch_norm_add_relu": (
        partial(run_batch_norm, "batch_norm_batch_norm_add_relu", WITH_RESIDUAL),
        SHORT,
    ),
    "batch_norm_batch_norm_add_relu in fp32": (
        partial(run_batch_norm, "batch_norm_batch_norm_add_relu", WITH_RESIDUAL[:1]),
        FULL,
    ),
    # In evaluation and training, before the 56 x 56 pixels of the first stage.
    "batch_norm_relu_max_pool": (
        partial(run_batch_norm, "batch_norm_relu_max_pool", WITH_POOL),
        SHORT,
    ),
    "batch_norm_relu_max_pool in fp32": (
        partial(run_batch_norm, "batch_norm_relu_max_pool", WITH_POOL),
        FULL,
    ),
    "lars_update": (run_lars, (*FULL, *SHORT)),
    "lamb": (run_lamb, (*FULL, *SHORT)),
    "batch_norm in fp32": (partial(run_batch_norm, "batch_norm", WITH_RESIDUAL[:1]), FULL),
    "batch_norm_add_relu in fp32": (
        partial(run_batch_norm, "batch_norm_add_relu", WITH_RESIDUAL[:1]),
        FULL,
    ),
    **BERT_CASES,
}


def list_variants() -> list[Variant]:
    """Each variant once, in the order of its first launch."""
    variants: dict[str, Variant] = {}
    for run, dtypes in CASES.values():
        for dtype in dtypes:
            with record_launches() as records:
                run(dtype)
            assert records
            for record in records:
                variant = make_variant(record)
                variants.setdefault(variant.name, variant)
    return list(variants.values())
