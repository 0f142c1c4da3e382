"""What averaging the gradients over all ranks costs a step, and how much of it can be hidden."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Bytes a second that an all-reduce gets inside a node, by accelerators a node: NVLink pairs of four
# GPUs, NVSwitch of eight (A100 to H200; docs/prediction.md, constants).
NODE_BYTES_PER_SECOND = {4: 300e9, 8: 400e9}
OTHER_NODE_BYTES_PER_SECOND = 300e9
# Share of the ports' rate that large all-reduces reach.
PORT_EFFICIENCY = 0.85
# Share of a step's own time that the backward pass takes, in which averaging can run.
BACKWARD_SHARE = 2 / 3


@dataclass(frozen=True)
class Network:
    """Between and inside nodes. measured_bytes_per_second: bus bandwidth of an all-reduce over all
    ranks (nccl-tests' busbw), which replaces both rates; None: not measured."""

    gigabits_per_node: float
    measured_bytes_per_second: float | None = None


def compute_all_reduce_seconds(
    size_bytes: float, nodes: int, ranks_per_node: int, network: Network
) -> float:
    """Seconds of an all-reduce of `size_bytes` by every rank: a ring inside the nodes, then one
    between them; 0 for one rank. Source: the usual 2(n-1)/n of the size over the slowest link."""
    ranks = nodes * ranks_per_node
    if network.measured_bytes_per_second is not None:
        return 2 * (ranks - 1) / ranks * size_bytes / network.measured_bytes_per_second
    rate = NODE_BYTES_PER_SECOND.get(ranks_per_node, OTHER_NODE_BYTES_PER_SECOND)
    inside = 2 * (ranks_per_node - 1) / ranks_per_node * size_bytes / rate
    if nodes == 1:
        return inside
    between_rate = network.gigabits_per_node * 1e9 / 8 * PORT_EFFICIENCY
    return inside + 2 * (nodes - 1) / nodes * size_bytes / between_rate


def compute_exposed_seconds(exchange: float, outside_share: float, window: float) -> float:
    """Seconds of an exchange that a step waits for.

    outside_share: of the bytes, what cannot travel beside computation (1: nothing overlaps): the
    bucket that is sent when the backward pass has ended, or that the forward pass needs to begin;
    window: seconds of that pass, which the other buckets can hide in.
    """
    outside = outside_share * exchange
    waited: float = outside + np.maximum(0.0, exchange - outside - window)
    return waited
