"""The measuring: one probe on each rank of this machine at once, as processes with a time limit.

A trial is as fast as its slowest rank. The probes are the trainers' own commands; nothing of a
trainer is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from harness.commands import InputError
from harness.processes import adopt_orphans, run_tree
from harness.systems import System
from harness.tuning_knobs import Kind

ROOT = Path(__file__).resolve().parent.parent
OUTPUT_LIMIT_BYTES = 1 << 20
STEP_KEYS = ("median", "p10", "p90", "min", "max")
Status = Literal["measured", "failed", "cut off"]


@dataclass(frozen=True)
class Measured:
    """One trial's outcome.

    samples_per_second: of the slowest rank; step_seconds: that rank's median and percentiles
    (empty for the input); seconds: of the whole trial, start of the processes included;
    misused: the probe itself refused to start (its exit status 2); tokens_per_micro_batch: of
    BERT's synthetic batch, whose lengths differ from one size to another (0: not said).
    """

    status: Status
    seconds: float
    samples_per_second: float = 0.0
    step_seconds: dict[str, float] = field(default_factory=dict)
    device: str = ""
    message: str = ""
    misused: bool = False
    tokens_per_micro_batch: float = 0.0


@dataclass(frozen=True)
class Ranks:
    """The ranks that this machine's probes stand for, the first `count` of a run's world_size."""

    count: int
    world_size: int
    device: Literal["cpu", "cuda"]
    variables: dict[str, str]


def choose_ranks(system: System, count: int | None) -> Ranks:
    """The ranks of one node, or of all nodes where this one machine stands for them.

    count: fewer of them. Raises InputError for more.
    """
    nodes = system.nodes
    on_machine = nodes.world_size if nodes.one_machine else nodes.ranks_per_node
    if count is not None and count > on_machine:
        raise InputError(
            f"--ranks must be at most the {on_machine} ranks of this machine, is {count}"
        )
    variables = {name: variable.value for name, variable in system.environment.items()}
    variables["OMP_NUM_THREADS"] = str(nodes.threads_per_rank)
    return Ranks(count or on_machine, nodes.world_size, nodes.device, variables)


def compose_step(ranks: Ranks, rank: int, benchmark: str, config: Path, steps: int) -> list[str]:
    """The command of one rank's probe of the training step."""
    arguments = ["probe", "--config", str(config), "--steps", str(steps)]
    arguments += ["--device", ranks.device, "--json"]
    return [*_enter(ranks, rank), "-m", f"{benchmark}.train", *arguments]


def measure_exchange(command: list[str], limit_seconds: float) -> Measured:
    """Run one command that starts all ranks of the system, and read what rank 0 measured.

    As a campaign's launcher is run: at the limit it is ended ("cut off") with all that it started.
    """
    adopt_orphans()
    start = time.monotonic()
    lines: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "errors"
        shell = ["sh", "-c", 'exec "$@" 2>"$0"', str(errors), *command]  # stdout: the document
        end = run_tree(shell, lines.append, limit_seconds, ROOT)
        seconds = time.monotonic() - start
        said = errors.read_text(encoding="utf-8", errors="replace") if errors.exists() else ""
    if end.status is None:
        return Measured("cut off", seconds, message=f"not done within {limit_seconds:.0f} s")
    if end.status:
        spoken = [line for line in said.splitlines() if line.strip()]
        first = next((line for line in spoken if line.startswith("error: ")), "")
        message = first or (spoken or [f"the launcher {end.how}"])[-1]
        # 127: the shell finds no launcher; no setting would.
        return Measured("failed", seconds, message=_clean(message), misused=end.status in (2, 127))
    return _take("\n".join(lines)[-OUTPUT_LIMIT_BYTES:], "exchange", seconds)


def compose_input(ranks: Ranks, rank: int, data: Path, config: Path, seconds: float) -> list[str]:
    """The command that measures one rank's input on its share of the images, as in a run."""
    arguments = ["throughput", "--data", str(data), "--config", str(config)]
    arguments += ["--rank", str(rank), "--ranks", str(ranks.world_size)]
    arguments += ["--seconds", f"{seconds:g}", "--json"]
    if ranks.device == "cuda":
        arguments += ["--gpu", "0"]
    return [*_enter(ranks, rank), "-m", "resnet.data", *arguments]


def _enter(ranks: Ranks, rank: int) -> list[str]:
    variables = dict(ranks.variables)
    if ranks.device == "cuda":
        variables["CUDA_VISIBLE_DEVICES"] = str(rank)
    return ["env", *(f"{name}={value}" for name, value in variables.items()), sys.executable]


@dataclass
class _Process:
    handle: subprocess.Popen[bytes]
    output: IO[bytes]
    errors: IO[bytes]


def measure(commands: list[list[str]], kind: Kind, limit_seconds: float) -> Measured:
    """Run one command a rank at once and read what each measured.

    The first that fails ends the others; at the limit all are ended ("cut off"). No process
    outlives the call.
    """
    start = time.monotonic()
    processes: list[_Process] = []
    with contextlib.ExitStack() as stack:
        stack.callback(_end_all, processes)
        for command in commands:
            files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)]
            handle = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=files[0], stderr=files[1],
                start_new_session=True,
            )  # fmt: skip
            processes.append(_Process(handle, *files))
        statuses = _wait(processes, start + limit_seconds)
        seconds = time.monotonic() - start
        if (bad := next((i for i, status in enumerate(statuses) if status), None)) is not None:
            said = _read(processes[bad].errors) or f"ended with status {statuses[bad]}"
            message = said.strip().rpartition("\n")[2]
            return Measured("failed", seconds, message=_clean(message), misused=statuses[bad] == 2)
        if None in statuses:
            return Measured("cut off", seconds, message=f"not done within {limit_seconds:.0f} s")
        return _take_slowest([_read(process.output) for process in processes], kind, seconds)


def _wait(processes: list[_Process], deadline: float) -> list[int | None]:
    """Exit statuses; None for those that still run at the deadline or when another has failed."""
    while True:
        statuses = [process.handle.poll() for process in processes]
        if None not in statuses or any(statuses) or time.monotonic() >= deadline:
            return statuses
        time.sleep(0.02)


def _end_all(processes: list[_Process]) -> None:
    for process in processes:
        # The group of one that has ended may still hold what it started.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.handle.pid, signal.SIGKILL)
        process.handle.wait()


def _read(file: IO[bytes]) -> str:
    """What a process wrote, its end where it is long."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - OUTPUT_LIMIT_BYTES))
    return file.read().decode("utf-8", "replace")


def _clean(text: str) -> str:
    return "".join(c for c in text if c.isprintable()).removeprefix("error: ")[:300]


def _take_slowest(outputs: list[str], kind: Kind, seconds: float) -> Measured:
    found = [_take(output, kind, seconds) for output in outputs]
    failed = next((one for one in found if one.status == "failed"), None)
    return failed or min(found, key=lambda one: one.samples_per_second)


def _take(output: str, kind: Kind, seconds: float) -> Measured:
    """Read one probe's document; whatever is not one counts as a failed probe."""
    try:
        document = json.loads(output)
        if kind == "input":
            step: dict[str, float] = {}
            rate = _take_number(document["images_per_second"])
        else:
            step = {key: _take_number(document["step_seconds"][key]) for key in STEP_KEYS}
            rate = _take_number(document["samples_per_step"]) / step["median"]
        said = document.get("tokens_per_micro_batch")
        tokens = 0.0 if said is None else _take_number(said)
        device = "" if kind == "input" else _clean(str(document.get("device", "")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Measured("failed", seconds, message="the probe printed no document of a probe")
    return Measured("measured", seconds, rate, step, device, tokens_per_micro_batch=tokens)


def _take_number(value: Any) -> float:
    if isinstance(value, bool) or not 0 < value < 1e15:
        raise ValueError
    return float(value)
