"""The two fully connected layers by NVIDIA apex's `fused_dense_cuda` extension.

cuBLASLt adds the first bias and computes GELU where it writes the first product, and GELU's slope
and the bias's gradient where it writes the product backward: 4 bytes an element of the activation
(2 written each way in 16 bit, beside the products' own) in place of 10. The extension drops
cuBLASLt's status: a product that it could not do would leave memory as it was. Each shape is
therefore compared with the definition once, at its first call, which warm-up makes. Source of the
calls and types: NVIDIA/apex at 6424da3b, csrc/fused_dense.cpp and csrc/fused_dense_cuda.cu. It has
not run here: apex builds where there is a CUDA compiler.
"""

# torch.autograd.Function has no types that mypy could check.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import fused_dense_cuda
import torch
from torch import Tensor
from torch.autograd import Function

from harness.commands import InputError
from harness.ops.feed_forward import feed_forward as define

SHORT = (torch.float16, torch.bfloat16)
MULTIPLE = 8  # of both sizes: rows of 16 bytes, as cuBLASLt's kernels take them
# Of result and gradients: some roundings to bf16, which has 8 bits.
LIMIT = 0.03

_compared: set[tuple[Any, ...]] = set()


class _FeedForward(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, inner_weight: Tensor, inner_bias: Tensor, outer_weight: Tensor
    ) -> Tensor:
        # Whoever comes next adds the second bias.
        nothing = outer_weight.new_zeros(len(outer_weight))
        active, y, product = fused_dense_cuda.linear_gelu_linear_forward(
            x, inner_weight, inner_bias, outer_weight, nothing
        )
        ctx.save_for_backward(x, product, active, inner_weight, outer_weight)
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        found = fused_dense_cuda.linear_gelu_linear_backward(*ctx.saved_tensors, grad.contiguous())
        return tuple(found[:4])


def compare_with_definition(*inputs: Tensor) -> None:
    """Raise InputError where result or gradients of random numbers are not the definition's.

    inputs: what the operation will be called with; shapes, types and device alone are looked at.
    """
    generator = torch.Generator(inputs[0].device).manual_seed(1)
    drawn = []
    for tensor in inputs:
        scale = tensor.shape[1] ** -0.5 if tensor.dim() == 2 and tensor is not inputs[0] else 1.0
        numbers = torch.randn(
            tensor.shape, generator=generator, device=tensor.device, dtype=torch.float32
        )
        drawn.append((scale * numbers).to(tensor.dtype).requires_grad_())
    with torch.enable_grad():
        results = []
        for function in (_FeedForward.apply, define):
            y = function(*drawn)
            results.append((y.detach(), *torch.autograd.grad(y, drawn, drawn[0].detach())))
    for ours, theirs in zip(*results, strict=True):
        error = float((ours.float() - theirs.float()).norm() / theirs.float().norm())
        if not error < LIMIT:
            raise InputError(
                f"feed_forward by apex: at x {tuple(inputs[0].shape)} in {inputs[0].dtype} its "
                f"result or a gradient is {error:.1g} from the definition: cuBLASLt cannot do this "
                "product here; name another provider in [operations]"
            )


def feed_forward(
    x: Tensor, inner_weight: Tensor, inner_bias: Tensor, outer_weight: Tensor
) -> Tensor:
    """As harness.ops.feed_forward in fp16 or bf16, contiguous, sizes multiples of 8.

    The first call of a shape waits for the device. Raises InputError for other tensors, and where
    the extension does not compute what it should.
    """
    inputs = (x, inner_weight, inner_bias, outer_weight)
    if x.dtype not in SHORT or any(tensor.dtype != x.dtype for tensor in inputs):
        raise InputError(
            f"feed_forward by apex computes fp16 or bf16 alone, all of one type, not {x.dtype} "
            f"beside {inner_weight.dtype}: name another provider"
        )
    sizes = (x.shape[1], len(inner_weight))
    if any(size % MULTIPLE for size in sizes) or not all(t.is_contiguous() for t in inputs):
        raise InputError(
            f"feed_forward by apex takes contiguous tensors and sizes that are multiples of "
            f"{MULTIPLE}, not {sizes}: name another provider"
        )
    shape = (*x.shape, *inner_weight.shape, x.dtype, x.device)
    if shape not in _compared and x.device.type != "meta":
        compare_with_definition(*inputs)
        _compared.add(shape)
    y: Tensor = _FeedForward.apply(*inputs)
    return y
