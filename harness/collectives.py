"""Collectives that torch has renamed: called by the name that this torch does not warn of.

Under the old names torch 2.13 prints a warning on every rank of every run; older ones, as images
may have, do not know the new names. Both are one operation.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor

REDUCE_SCATTER, ALL_GATHER = (
    ("reduce_scatter_single", "all_gather_single")
    if hasattr(dist, "reduce_scatter_single")
    else ("reduce_scatter_tensor", "all_gather_into_tensor")
)


def reduce_scatter(mine: Tensor, whole: Tensor, *, async_op: bool = False) -> dist.Work | None:
    """Sum `whole` over the ranks; each gets its part in `mine`. The work, if `async_op`."""
    # Looked up at every call: a probe of the ranks puts others in their place.
    work: dist.Work | None = getattr(dist, REDUCE_SCATTER)(mine, whole, async_op=async_op)
    return work


def all_gather(
    whole: Tensor, mine: Tensor, group: dist.ProcessGroup | None = None, *, async_op: bool = False
) -> dist.Work | None:
    """Put every rank's `mine` into `whole`, in the order of ranks. The work, if `async_op`."""
    work: dist.Work | None = getattr(dist, ALL_GATHER)(whole, mine, group, async_op=async_op)
    return work
