"""What a GPU's kernels and NCCL ask of their tensors, held against tensors without memory.

On meta tensors an operator checks sizes and little else. Here is what its CUDA kernel checks
besides, or would silently be slow or wrong without. Sources, of PyTorch 2.11 to 2.14:
aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp (mha_varlen_fwd and _bwd),
native/cuda/ScaledBlas.cpp, native/cuda/cuBlasCommonArgs.h, native/cuda/EmbeddingBackwardKernel.cu;
torch/csrc/distributed/c10d/ProcessGroupNCCL.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.collectives import ALL_GATHER, REDUCE_SCATTER

SHORT = (torch.float16, torch.bfloat16)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
ACCESS_BYTES = 16  # of the widest load: below it tensor cores have slow kernels, FP8 has none
LARGE = 2**20  # elements from which on the speed of a product's kernel counts


def is_aligned(tensor: Tensor) -> bool:
    """Whether every row of a matrix, or head of a token, begins at a multiple of 16 bytes."""
    steps = [tensor.storage_offset(), *(step for step in tensor.stride() if step != 1)]
    return all(step * tensor.element_size() % ACCESS_BYTES == 0 for step in steps)


class DeviceDemands(TorchDispatchMode):
    """Notes, in `broken`, each operation whose kernel would refuse or dislike what it is given.

    `held`: how often each operator was looked at.
    """

    def __init__(self) -> None:
        super().__init__()
        self.broken: list[str] = []
        self.held: dict[str, int] = {}
        self._kept: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        check: Callable[..., None] | None = getattr(self, f"check{name}", None) or getattr(
            self, f"check_{name}", None
        )
        if check is not None:
            self.held[name] = self.held.get(name, 0) + 1
            check(result, *args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self.expect(tensor.dtype != torch.float64, f"{name} gives fp64")
        return result

    def expect(self, right: bool, fault: str) -> None:
        if not right:
            self.broken.append(fault)

    def check_flash_attention_forward(self, result: Any, *args: Any) -> None:
        self._check_heads("forward", *args[:3])
        self._check_lengths("forward", args[0], *args[3:7])
        dropout, causal, mask = args[7:10]
        self.expect(0 <= dropout < 1 and not causal and not mask, "flash forward: arguments")
        context, logsumexp, state, _, _ = result
        self.expect(context.is_contiguous(), "flash forward: context in another layout")
        self._kept.append((args, (context, logsumexp, state)))

    def check_flash_attention_backward(self, result: Any, *args: Any) -> None:
        grad, query, key, value, context = args[:5]
        self._check_heads("backward", query, key, value)
        self._check_lengths("backward", query, *args[6:10])
        for tensor in (grad, context):
            same = tensor.shape == query.shape and tensor.dtype == query.dtype
            self.expect(same and tensor.is_contiguous(), "flash backward: gradient or context")
        state = args[12]
        self.expect(state.dtype == torch.uint64 and state.numel() == 2, "flash backward: state")
        forward, made = self._kept.pop()  # layers come back in reverse
        self.expect(forward[3:9] == args[6:12], "flash backward: other lengths or dropout")
        self.expect(
            [one.shape for one in made] == [context.shape, args[5].shape, state.shape],
            "flash backward: of another forward",
        )

    def _check_heads(self, where: str, *heads: Tensor) -> None:
        for tensor in heads:
            right = tensor.dtype in SHORT and tensor.dtype == heads[0].dtype and tensor.dim() == 3
            self.expect(right, f"flash {where}: types")
            self.expect(tensor.shape == heads[0].shape, f"flash {where}: shapes")
            self.expect(tensor.stride(-1) == 1 and is_aligned(tensor), f"flash {where}: strides")
            self.expect(tensor.shape[2] % 8 == 0 and tensor.shape[2] <= 256, f"flash {where}: size")

    def _check_lengths(
        self, where: str, query: Tensor, ends: Tensor, key_ends: Tensor, longest: Any, other: Any
    ) -> None:
        del query
        right = ends.dtype == torch.int32 and ends.dim() == 1 and ends.is_contiguous()
        self.expect(right and len(ends) > 1 and key_ends is ends, f"flash {where}: cu_seqlens")
        # A number of the host, so what a graph was captured with: the budget's, never a batch's.
        self.expect(type(longest) is int and longest == other > 0, f"flash {where}: longest")

    def check_scaled_mm(self, result: Tensor, *args: Any, **kwargs: Any) -> None:
        left, right = args[:2]
        self.expect(left.dtype in FLOAT8 and right.dtype in FLOAT8, "scaled_mm: types")
        self.expect(torch.float8_e4m3fn in (left.dtype, right.dtype), "scaled_mm: e5m2 twice")
        self.expect(left.stride() == (left.shape[1], 1), "scaled_mm: left not by rows")
        self.expect(right.stride() == (1, right.shape[0]), "scaled_mm: right not by columns")
        self.expect(is_aligned(left) and is_aligned(right.t()), "scaled_mm: alignment")
        self.expect(all(n % 16 == 0 for n in (*left.shape, *right.shape)), "scaled_mm: sizes")
        scales = args[2:4] if len(args) > 2 else (kwargs["scale_a"], kwargs["scale_b"])
        for scale in scales:
            self.expect(scale.dtype == torch.float32 and scale.numel() == 1, "scaled_mm: scale")
        bias = args[4] if len(args) > 4 else kwargs.get("bias")
        if bias is not None:
            right_bias = bias.dtype == result.dtype and bias.shape == result.shape[1:]
            self.expect(right_bias and is_aligned(bias), "scaled_mm: bias")
        self.expect(result.dtype in SHORT, "scaled_mm: result")

    def check_mm(self, result: Tensor, left: Tensor, right: Tensor, **kwargs: Any) -> None:
        self._check_product("mm", left, right, result)

    def check_addmm(
        self, result: Tensor, bias: Tensor, left: Tensor, right: Tensor, **kwargs: Any
    ) -> None:
        self.expect(bias.dtype == left.dtype, "addmm: bias of another type")
        self._check_product("addmm", left, right, result)

    def _check_product(self, name: str, *matrices: Tensor) -> None:
        for matrix in matrices:
            self.expect(matrix.dtype == matrices[0].dtype, f"{name}: types")
            if matrix.numel() >= LARGE:
                self.expect(matrix.dtype in SHORT, f"{name}: a large product in {matrix.dtype}")
                self.expect(is_aligned(matrix), f"{name}: rows of {tuple(matrix.shape)} unaligned")
                # A matrix with neither side dense is copied before every product.
                self.expect(1 in matrix.stride(), f"{name}: neither side is dense")

    def check_clone(self, result: Tensor, *_: Any, **kwargs: Any) -> None:
        self.expect(result.numel() < LARGE, f"clone: a copy of {tuple(result.shape)}")

    def check_embedding_dense_backward(
        self, result: Tensor, grad: Tensor, rows: Tensor, *_: Any
    ) -> None:
        self.expect(grad.is_contiguous() and rows.is_contiguous(), "embedding: copies")


class Work:
    """A collective under way."""

    def __init__(self, left: list[Work]) -> None:
        self.left = left
        left.append(self)

    def wait(self) -> None:
        self.left.remove(self)


class NcclDemands:
    """Stands in for the collectives of a step; notes in `broken` what NCCL would refuse.

    `sent`: name and elements of each; `left`: those begun and never waited for.
    """

    def __init__(self, world_size: int, patch: pytest.MonkeyPatch) -> None:
        self.world_size = world_size
        self.broken: list[str] = []
        self.sent: list[tuple[str, int]] = []
        self.left: list[Work] = []
        patch.setattr(f"torch.distributed.{REDUCE_SCATTER}", self.reduce_scatter)
        patch.setattr(f"torch.distributed.{ALL_GATHER}", self.all_gather)
        patch.setattr("torch.distributed.all_reduce", self.all_reduce)
        patch.setattr("torch.distributed.broadcast", self.broadcast)

    def reduce_scatter(self, mine: Tensor, whole: Tensor, async_op: bool = False) -> Work | None:
        return self._begin("reduce_scatter", whole, mine, async_op)

    def all_gather(
        self, whole: Tensor, mine: Tensor, group: None = None, async_op: bool = False
    ) -> Work | None:
        return self._begin("all_gather", whole, mine, async_op)

    def all_reduce(self, tensor: Tensor, async_op: bool = False) -> Work | None:
        return self._begin("all_reduce", tensor, None, async_op)

    def broadcast(self, tensor: Tensor, source: int) -> None:
        self._begin("broadcast", tensor, None, False)

    def _begin(self, name: str, whole: Tensor, mine: Tensor | None, async_op: bool) -> Work | None:
        right = whole.is_contiguous()
        if mine is not None:
            right &= mine.is_contiguous() and mine.dtype == whole.dtype
            right &= mine.numel() * self.world_size == whole.numel()
            right &= is_aligned(mine) and is_aligned(whole)
        if not right:
            self.broken.append(name)
        self.sent.append((name, whole.numel()))
        return Work(self.left) if async_op else None
