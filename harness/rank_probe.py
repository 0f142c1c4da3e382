"""The rate of a training step on every rank of a system, and what its exchange costs.

`python -m resnet.train probe --system systems/NAME.toml --steps N`, likewise bert, started on
every rank by the system's launcher as a run is: `python -m harness.launch --system NAME
--benchmark resnet --probe N` does it. No run log is written and no data is read.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from harness.config import load_config
from harness.process_group import join, select_device, synchronize
from harness.ranks import Ranks, find_ranks
from harness.systems import load_system
from harness.throughput import measure_steps
from harness.trainer import bind_to_cores, look_before

ROOT = Path(__file__).resolve().parent.parent
# What gradients, sharded weights and their norms travel by, by torch's old and new names; the
# start's broadcast is none of it.
EXCHANGES = (
    "all_reduce", "reduce_scatter_tensor", "reduce_scatter_single", "all_gather_into_tensor",
    "all_gather_single",
)  # fmt: skip

Config = TypeVar("Config")
Step = Callable[[], None]
# (config, device, rank, world size) -> a prepared step on synthetic data, the same without graphs,
# and facts of its batch
MakeStep = Callable[[Any, torch.device, int, int], tuple[Step, Step, dict[str, Any]]]


def probe_ranks(
    benchmark: str, options: argparse.Namespace, kind: type[Config], make_step: MakeStep
) -> dict[str, Any] | None:
    """Measure `options.steps` steps on all ranks at once; the document on rank 0, None elsewhere.

    The step is measured twice: as it is, and with nothing exchanged. The difference of both is the
    exchange that no computation hides. options: system, config (None: the system's) and steps.
    kind: the benchmark's configuration. Raises InputError for what does not fit together.
    """
    system = load_system(options.system)
    path = options.config or ROOT / system.benchmarks.named(benchmark).config
    config: Any = load_config(path, kind)
    ranks = find_ranks(system.nodes)
    bind_to_cores(system, ranks)
    ranks.agree(config.batch.check_world_size(ranks.world_size))
    device = look_before(ranks, lambda: select_device(system, ranks))
    join(system, ranks, device)
    samples = config.batch.local_batch_size * config.batch.gradient_accumulation_steps

    def measure() -> tuple[list[dict[str, Any]], dict[str, Any]]:
        torch.manual_seed(0)
        step, _, facts = make_step(config, device, ranks.rank, ranks.world_size)
        synchronize(device)
        measured = measure_steps(step, options.steps, samples, device, shown=ranks.first)
        return ranks.gather(measured), facts

    together, facts = measure()
    gc.collect()  # the first model goes before the second comes
    if device.type == "cuda":
        torch.cuda.empty_cache()
    with leave_out_exchange():
        alone, _ = measure()
    if not ranks.first:
        return None
    place = {"benchmark": benchmark, "system": system.name, "config": str(path)}
    return {**place, **facts, **summarize_ranks(ranks, together, alone)}


@contextmanager
def leave_out_exchange() -> Iterator[None]:
    """Let collectives of gradients and weights do nothing, whatever is captured meanwhile too.

    What they would have brought stays as it was: such a step is good for its time alone.
    """
    present = {name: getattr(dist, name) for name in EXCHANGES if hasattr(dist, name)}
    try:
        for name in present:
            setattr(dist, name, lambda *arguments, **options: None)
        yield
    finally:
        for name, collective in present.items():
            setattr(dist, name, collective)


def summarize_ranks(
    ranks: Ranks, together: list[dict[str, Any]], alone: list[dict[str, Any]]
) -> dict[str, Any]:
    """Put the ranks' measurements together; all seconds are the slowest rank's.

    together, alone: what `measure_steps` found on each rank, in their order, with and without
    exchange. The rate is of one rank, as that of a probe of one rank.
    """
    slowest = max(together, key=_take_median)
    medians = sorted(_take_median(found) for found in together)
    without = max(alone, key=_take_median)["step_seconds"]
    return {
        **slowest,
        "world_size": ranks.world_size,
        "nodes": len(set(ranks.hosts)),
        "rank_medians": {
            "min": medians[0],
            "median": medians[len(medians) // 2],
            "max": medians[-1],
            "spread": (medians[-1] - medians[0]) / medians[0],
        },
        "step_seconds_without_exchange": without,
        "all_reduce_not_hidden_seconds": max(0.0, medians[-1] - without["median"]),
    }


def _take_median(measured: dict[str, Any]) -> float:
    return float(measured["step_seconds"]["median"])


def describe_ranks(document: dict[str, Any], unit: str) -> str:
    """The document in one sentence. unit: images or sequences."""
    rate, spread = document["samples_per_second"], document["rank_medians"]["spread"]
    step, exposed = document["step_seconds"]["median"], document["all_reduce_not_hidden_seconds"]
    size = document["world_size"]
    return (
        f"{rate:,.1f} {unit}/s on each of {size} ranks, {rate * size:,.1f} together "
        f"({1000 * step:.2f} ms a step, median of the slowest rank; the ranks' medians differ by "
        f"{spread:.1%}); {1000 * exposed:.2f} ms of it is exchange that nothing hides"
    )
