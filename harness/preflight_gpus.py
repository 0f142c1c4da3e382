"""What nvidia-smi says of a node's GPUs, read strictly, and what a run needs of them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from harness.preflight_checks import Check, judge, judge_least, judge_same
from harness.systems import System

LIMIT_SECONDS = 60.0
FIELDS = (
    "index",
    "name",
    "pci.bus_id",
    "driver_version",
    "memory.total",
    "memory.free",
    "clocks.sm",
    "clocks.max.sm",
    "ecc.mode.current",
    "ecc.errors.uncorrected.volatile.total",
    "mig.mode.current",
)
BUS_ID = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-7]")
MEBIBYTE = 1 << 20
# A GPU that nobody uses holds a few hundred MiB of its memory for itself.
FREE_SHARE = 0.95
ABSENT = ("[N/A]", "N/A", "[Not Supported]")


class UnreadableGpus(Exception):
    """nvidia-smi could not be run or said something else than was asked: one sentence."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. Clocks in MHz; ecc and mig: "Enabled", "Disabled" or "" where it has none."""

    index: int
    name: str
    bus_id: str
    driver: str
    total_bytes: int
    free_bytes: int
    clock: int
    highest_clock: int
    ecc: str
    uncorrected_errors: int
    mig: str


def read_gpus() -> list[Gpu]:
    """Ask nvidia-smi on this node. Raises UnreadableGpus."""
    command = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=LIMIT_SECONDS, stdin=subprocess.DEVNULL,
            check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise UnreadableGpus("nvidia-smi is not there (singularity --nv?)") from None
    except subprocess.TimeoutExpired:
        raise UnreadableGpus(f"nvidia-smi did not answer in {LIMIT_SECONDS:g} s") from None
    except OSError as error:
        raise UnreadableGpus(f"nvidia-smi cannot be started: {error.strerror}") from None
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0:
        words = (text.strip() or done.stderr.decode("utf-8", "replace").strip())[:200]
        raise UnreadableGpus(f"nvidia-smi ended with status {done.returncode}: {words!a}")
    return parse_gpus(text)


def parse_gpus(text: str) -> list[Gpu]:
    """Read nvidia-smi's CSV of FIELDS, a line a GPU. Raises UnreadableGpus with line and field."""
    gpus = [_parse_line(number, line) for number, line in enumerate(text.splitlines(), 1) if line]
    if [gpu.index for gpu in gpus] != list(range(len(gpus))):
        raise UnreadableGpus("nvidia-smi does not number the GPUs 0, 1, 2 ...")
    return gpus


def _parse_line(number: int, line: str) -> Gpu:
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(FIELDS):
        raise UnreadableGpus(
            f"nvidia-smi, line {number}: {len(values)} values, {len(FIELDS)} were asked for"
        )
    given = dict(zip(FIELDS, values, strict=True))

    def refuse(field: str) -> UnreadableGpus:
        return UnreadableGpus(f"nvidia-smi, line {number}: {field} is {given[field][:40]!a}")

    def whole(field: str, absent: int | None = None) -> int:
        if absent is not None and given[field] in ABSENT:
            return absent
        if not re.fullmatch(r"[0-9]{1,12}", given[field]):
            raise refuse(field)
        return int(given[field])

    def mode(field: str) -> str:
        if given[field] in ABSENT:
            return ""
        if given[field] not in ("Enabled", "Disabled"):
            raise refuse(field)
        return given[field]

    for field, pattern in (("pci.bus_id", BUS_ID), ("driver_version", re.compile(r"[0-9.]{1,20}"))):
        if not pattern.fullmatch(given[field]):
            raise refuse(field)
    if not given["name"] or not given["name"].isprintable() or given["name"] in ABSENT:
        raise refuse("name")
    return Gpu(
        index=whole("index"),
        name=given["name"],
        bus_id=given["pci.bus_id"].lower(),
        driver=given["driver_version"],
        total_bytes=whole("memory.total") * MEBIBYTE,
        free_bytes=whole("memory.free") * MEBIBYTE,
        clock=whole("clocks.sm", absent=0),
        highest_clock=whole("clocks.max.sm", absent=0),
        ecc=mode("ecc.mode.current"),
        uncorrected_errors=whole("ecc.errors.uncorrected.volatile.total", absent=0),
        mig=mode("mig.mode.current"),
    )


def check_gpus(system: System, nodes: Mapping[str, list[Gpu] | str]) -> list[Check]:
    """Judge the GPUs of all nodes. nodes: by host the GPUs, or why they could not be read."""
    unreadable = {host: found for host, found in nodes.items() if isinstance(found, str)}
    if unreadable:
        host, sentence = next(iter(unreadable.items()))
        mend = "make nvidia-smi run inside the ranks' environment on every node"
        return [Check("GPUs", "failed", f"{sentence} ({host})", "", mend)]
    gpus = {host: found for host, found in nodes.items() if isinstance(found, list)}
    every = [(host, gpu) for host, found in gpus.items() for gpu in found]
    wanted = str(system.nodes.ranks_per_node)
    numbers = {host: str(len(found)) for host, found in gpus.items()}
    checks = [judge_same("GPUs a node", numbers, "show all GPUs of a node to its tasks, or mend "
                         "[nodes] ranks_per_node", wanted)]  # fmt: skip
    if not every:
        return checks
    where = {f"{host} GPU {gpu.index}": gpu for host, gpu in every}
    names = {key: gpu.name for key, gpu in where.items()}
    drivers = {host: gpu.driver for host, gpu in every}
    ecc = {key: gpu.ecc or "none" for key, gpu in where.items()}
    free = {key: gpu.free_bytes / max(gpu.total_bytes, 1) for key, gpu in where.items()}
    errors = [key for key, gpu in where.items() if gpu.uncorrected_errors]
    split = [key for key, gpu in where.items() if gpu.mig == "Enabled"]
    highest = {key: f"{gpu.highest_clock} MHz" for key, gpu in where.items()}
    now = [gpu.clock for gpu in where.values()]
    return [
        *checks,
        judge_same("GPU name", names, "mend [expected] gpu, or ask for the right nodes",
                   system.expected.gpu),
        judge_same("GPU driver", drivers, "install one driver on all nodes"),
        judge_same("GPU highest SM clock", highest, "give all GPUs the same clock limits"),
        Check("GPU SM clock now", "ok", f"{min(now)} to {max(now)} MHz, idle GPUs clock down"),
        judge_same("GPU ECC mode", ecc, "set the same mode on all GPUs: nvidia-smi -e"),
        judge("GPU uncorrected memory errors", not errors, ", ".join(errors) or "none", "none",
              "have the GPU reset or replaced, and take another node"),
        judge("GPU partitions (MIG)", not split, ", ".join(split) or "none", "none",
              "switch MIG off: nvidia-smi -mig 0"),
        judge_least("GPU memory free", free, FREE_SHARE, ("%", 0.01),
                    "end what else runs on that GPU: nvidia-smi lists it"),
    ]  # fmt: skip
