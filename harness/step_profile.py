"""Where a step's time goes: a trace to look at, and a table by kind of work beside its floor."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from harness.commands import InputError
from harness.files import check_writable, write_atomically
from harness.operation_counts import count_floor, name_kind
from harness.throughput import describe_device

PROFILED_STEPS = 5
# Reachable FLOP/s in 16 bit and bytes/s. H200: measured matrix products and copies; the others
# are assumed from their data sheets at the same shares of the peak.
REACHABLE = {
    "H200": (790e12, 4.3e12),
    "H100": (750e12, 3.0e12),
    "A100": (265e12, 1.75e12),
}


def find_reachable(device_name: str) -> tuple[float, float] | None:
    """FLOP/s and bytes/s that kernels reach on a GPU of this name, or None where unknown."""
    return next((peaks for name, peaks in REACHABLE.items() if name in device_name), None)


def make_profile_folder(folder: Path) -> None:
    """Make the folder of a profile, before anything is measured. Raises InputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--profile {folder}: {error.strerror}: name another folder") from None
    check_writable(folder, f"--profile {folder}")


def profile_steps(
    run: Callable[[], None], run_eagerly: Callable[[], None], device: torch.device, folder: Path
) -> dict[str, Any]:
    """Profile a few steps; writes trace.json (Chrome's format) and profile.json into a folder.

    run: one step as it is trained, run_eagerly: the same without a graph, whose operations are
    counted for the floor. Returns {"device", "steps", "seconds", "kinds": [{"kind", "seconds",
    "share", "calls", "floor_seconds"}]}, seconds being those of one step on the device; the floor
    is None where nobody knows what the device reaches.
    """
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
        torch.cuda.synchronize(device)
    with profile(activities=activities) as profiler:
        for _ in range(PROFILED_STEPS):
            run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    unfinished = folder / ".trace.json.part"
    profiler.export_chrome_trace(str(unfinished))
    unfinished.replace(folder / "trace.json")
    seconds, calls = _sum_by_kind(profiler.events(), device)
    peaks = find_reachable(describe_device(device))
    floor = count_floor(run_eagerly, *peaks) if peaks is not None else None
    total = sum(seconds.values())
    found = {
        "device": describe_device(device),
        "steps": PROFILED_STEPS,
        "seconds": total / PROFILED_STEPS,
        "kinds": [
            {
                "kind": kind,
                "seconds": spent / PROFILED_STEPS,
                "share": spent / total,
                "calls": calls[kind] / PROFILED_STEPS,
                "floor_seconds": None if floor is None else floor.get(kind, 0.0),
            }
            for kind, spent in sorted(seconds.items(), key=itemgetter(1), reverse=True)
        ],
    }
    with write_atomically(folder / "profile.json") as file:
        file.write(json.dumps(found, indent=1) + "\n")
    return found


def _sum_by_kind(events: Any, device: torch.device) -> tuple[dict[str, float], Counter[str]]:
    """Seconds and calls by kind: of kernels on a GPU, of operations' own time on a CPU."""
    seconds: defaultdict[str, float] = defaultdict(float)
    calls: Counter[str] = Counter()
    for event in events:
        if device.type == "cuda":
            # An annotation, as those of collectives, spans kernels that are there themselves.
            if event.device_type != DeviceType.CUDA or event.is_user_annotation:
                continue
            spent = event.time_range.elapsed_us()
        elif "::" in event.name:
            spent = event.self_cpu_time_total
        else:
            continue
        kind = name_kind(event.name.split("::", 1)[-1] if device.type == "cpu" else event.name)
        seconds[kind] += spent / 1e6
        calls[kind] += 1
    return seconds, calls


def describe_profile(found: dict[str, Any]) -> str:
    """The table as text, one line a kind of work."""
    lines = [f"{'kind of work':24} {'ms a step':>10} {'share':>7} {'calls':>7} {'floor ms':>9}"]
    for row in found["kinds"]:
        floor = row["floor_seconds"]
        shown = "unknown" if floor is None else f"{1000 * floor:.3f}"
        lines.append(
            f"{row['kind']:24} {1000 * row['seconds']:10.3f} {row['share']:7.1%} "
            f"{row['calls']:7.0f} {shown:>9}"
        )
    lines.append(f"{'all':24} {1000 * found['seconds']:10.3f} on {found['device']}")
    return "\n".join(lines)
