"""Tensors that lie next to each other in memory, seen as one: views, never a copy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor


def join_adjacent(tensors: Sequence[Tensor]) -> Tensor | None:
    """One view of tensors that follow each other in one storage, or None where they do not.

    tensors: all of one type and one shape but for the first dimension, contiguous; the view is
    that of torch.cat along the first dimension, detached from autograd. Reads addresses alone:
    nothing is copied and no device is waited for.
    """
    first = tensors[0]
    for left, right in pairwise(tensors):
        if (
            not (left.is_contiguous() and right.is_contiguous())
            or left.dtype != right.dtype
            or left.shape[1:] != right.shape[1:]
            # The storage itself, not its address: tensors without memory all have address 0.
            or left.untyped_storage()._cdata != right.untyped_storage()._cdata
            or left.storage_offset() + left.numel() != right.storage_offset()
        ):
            return None
    rows = sum(tensor.shape[0] for tensor in tensors)
    return torch.as_strided(
        first.detach(), (rows, *first.shape[1:]), first.stride(), first.storage_offset()
    )


def find_packed_heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor | None:
    """The (T, 3, H, D) tensor that three (T, H, D) tensors are the views of, or None.

    It is the very tensor that autograd knows as their base, so that its gradient arrives in one
    piece and need not be put together from three. Where three results of one operation share a
    tensor that autograd does not follow, there is none: a gradient of it would be lost.
    """
    base = query._base
    if base is None or key._base is not base or value._base is not base:
        return None
    if base.requires_grad != query.requires_grad:
        return None
    tokens, heads, size = query.shape
    if base.numel() != 3 * query.numel() or not base.is_contiguous():
        return None
    expected = (3 * heads * size, size, 1)
    for number, view in enumerate((query, key, value)):
        offset = base.storage_offset() + number * heads * size
        if (
            view.shape != query.shape
            or view.stride() != expected
            or view.storage_offset() != offset
        ):
            return None
    return base.view(tokens, 3, heads, size)
