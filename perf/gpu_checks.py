"""All that only a GPU can tell, measured in one call, the most telling first.

`python -m perf.gpu_checks FOLDER [--minutes N] [--only WORD ...] [--data DIR] [--list]` runs the
commands of docs/performance.md, one after the other, each in a process of its own, on the first GPU
of this machine. FOLDER gets checks.json (every command's document, rewritten after each), checks.md
(a table of them), checks.log (what they wrote to stderr), the configurations that were varied, and
the profiles. Called again it goes on where it stopped; what failed is done again. Status 1: a check
failed, or there was no time for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch

from harness.commands import GOOD, NOT_GOOD, InputError, Parser, run_command
from harness.files import write_atomically
from harness.progress import format_seconds
from harness.provenance import hash_sources
from harness.tuning_files import read_text, replace_values

ROOT = Path(__file__).resolve().parent.parent
SIZE_LIMIT_BYTES = 64 << 20
LIMIT_SECONDS = 600.0  # of one check: the longest is expected to take a third
GRACE_SECONDS = 5.0
SOURCES = ("harness", "resnet", "bert", "perf")
NO_GRAPHS = {("graphs", "step"): False, ("graphs", "evaluation"): False}


@dataclass(frozen=True)
class Check:
    """One command and the question it answers.

    arguments: behind `python -m`; {folder} stands for FOLDER and {data} for --data, without which
    the check is left out. changes: values of the configuration that --config names, which a copy
    then has.
    """

    name: str
    question: str
    arguments: tuple[str, ...]
    changes: dict[tuple[str, str], Any] = field(default_factory=dict)

    @property
    def wants_data(self) -> bool:
        """Whether it reads a data set."""
        return any("{data}" in argument for argument in self.arguments)


def _call(module: str, *options: str) -> tuple[str, ...]:
    return (module, *options, "--json")


def _probe(benchmark: str, system: str, *options: str, steps: int = 30) -> tuple[str, ...]:
    config = f"{benchmark}/configs/{system}.toml"
    options = ("probe", "--config", config, "--steps", str(steps), *options)
    return _call(f"{benchmark}.train", *options)


def _operations(*names: str, provider: str) -> dict[tuple[str, str], Any]:
    return {("operations", name): provider for name in names}


TWO_IN_ONE = ("batch_norm_batch_norm_add_relu", "batch_norm_relu_max_pool")
FLOAT8 = ("linear", "query_key_value", "feed_forward")
APEX = ("feed_forward", "layer_norm", "dropout_add_layer_norm")
FP8_CONFIG = "bert/configs/h200_4x8_fp8.toml"

# The most telling first: whatever ends the call, what it has found so far is worth most.
CHECKS = (
    Check(
        "resnet agreement",
        "does the step run, is it captured, and does it compute what its definitions do",
        _call("perf.step_agreement", "--benchmark", "resnet"),
    ),
    Check(
        "bert agreement",
        "does the step run, is it captured, and does it compute what its definitions do",
        _call("perf.step_agreement", "--benchmark", "bert"),
    ),
    Check("resnet 400", "rate at 400 images; 7,950 is to be beaten", _probe("resnet", "h200_1x1")),
    Check("bert 96", "rate in bf16 at 96 sequences", _probe("bert", "h200_4x8")),
    Check("resnet 100", "rate at 100 images", _probe("resnet", "h100_4x8")),
    Check("resnet 204", "rate at 204 images", _probe("resnet", "h100_4x4")),
    Check("bert 48", "rate in bf16 at 48 sequences", _probe("bert", "h100_4x4")),
    Check("bert fp8", "rate with FP8 linears", _probe("bert", "h200_4x8_fp8")),
    Check(
        "bert fp8 agreement",
        "how far FP8 is from fp32",
        _call("perf.step_agreement", "--benchmark", "bert", "--config", FP8_CONFIG),
    ),
    Check(
        "resnet profile",
        "where the time goes",
        _probe("resnet", "h200_1x1", "--profile", "{folder}/resnet_profile", steps=5),
    ),
    Check(
        "bert profile",
        "where the time goes",
        _probe("bert", "h200_4x8", "--profile", "{folder}/bert_profile", steps=5),
    ),
    Check(
        "resnet convolutions 400",
        "the floor of any design",
        _call("perf.resnet_convolutions"),
    ),
    Check(
        "resnet providers 400",
        "every provider beside its definition; 85 % of a copy's rate is wanted",
        _call("perf.resnet_providers", "--turns", "5"),
    ),
    Check(
        "bert providers",
        "every provider beside its definition",
        _call("perf.bert_providers", "--turns", "5"),
    ),
    Check(
        "bert evaluation",
        "evaluation's share of a run; under 2 % is wanted",
        _call("perf.bert_evaluation", "--config", "bert/configs/h200_4x8.toml"),
    ),
    Check(
        "resnet convolutions 100",
        "the floor of any design",
        _call("perf.resnet_convolutions", "--images", "100"),
    ),
    Check(
        "resnet providers 100",
        "every provider beside its definition",
        _call("perf.resnet_providers", "--images", "100", "--turns", "5"),
    ),
    Check(
        "resnet 100 eager", "what the graph saves", _probe("resnet", "h100_4x8"), dict(NO_GRAPHS)
    ),
    Check(
        "resnet 400 separate",
        "what two normalisations in one operation save",
        _probe("resnet", "h200_1x1"),
        _operations(*TWO_IN_ONE, provider="separate"),
    ),
    Check(
        "bert 48 eager", "what the graph saves", _probe("bert", "h100_4x4"), dict(NO_GRAPHS)
    ),
    Check(
        "bert fp8 current",
        "FP8 scaled by each tensor's own largest number",
        _probe("bert", "h200_4x8_fp8"),
        _operations(*FLOAT8, provider="scaled_mm"),
    ),
    Check(
        "bert te",
        "attention by Transformer Engine",
        _probe("bert", "h200_4x8"),
        _operations("varlen_attention", provider="te"),
    ),
    Check(
        "bert flash_attn",
        "attention by flash-attn",
        _probe("bert", "h200_4x8"),
        _operations("varlen_attention", provider="flash_attn")
        | _operations("query_key_value", provider="fused"),
    ),
    Check(
        "bert apex",
        "apex in place of our own kernels",
        _probe("bert", "h200_4x8"),
        _operations(*APEX, provider="apex"),
    ),
    Check(
        "resnet input",
        "images a second of the input, decoded images kept",
        _call(
            "resnet.data", "throughput", "--data", "{data}", "--gpu", "0",
            "--config", "resnet/configs/h100_4x8.toml",
        ),
    ),
)  # fmt: skip


def fill_in(check: Check, folder: Path, data: Path | None) -> list[str]:
    """The arguments of a check, its changed configuration written. Raises InputError."""
    places = {"{folder}": str(folder), "{data}": str(data)}
    arguments = list(check.arguments)
    for place, value in places.items():
        arguments = [argument.replace(place, value) for argument in arguments]
    if check.changes:
        place = arguments.index("--config") + 1
        original = ROOT / arguments[place]
        changed = folder / "configs" / f"{check.name.replace(' ', '_')}.toml"
        changed.parent.mkdir(parents=True, exist_ok=True)
        text = replace_values(original, read_text(original)[0], check.changes)
        with write_atomically(changed) as file:
            file.write(text)
        arguments[place] = str(changed)
    return arguments


def run_check(arguments: Sequence[str], log: IO[str], limit_seconds: float) -> dict[str, Any]:
    """Run one command; {"status", "seconds", "document"} or, where there is none, "fault".

    What it leaves running is ended, on an interrupt too. log: open file that takes its stderr.
    """
    command = [sys.executable, "-m", *arguments]
    log.write(f"\n$ {' '.join(['python', *command[1:]])}\n")
    log.flush()
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        start_new_session=True,
    )
    fault, output = None, ""
    try:
        output, _ = process.communicate(timeout=limit_seconds)
    except subprocess.TimeoutExpired:
        fault = f"ended after {format_seconds(limit_seconds)}"
    finally:
        for end in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, end)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
    found: dict[str, Any] = {
        "status": process.returncode,
        "seconds": round(time.monotonic() - start, 1),
    }
    try:
        found["document"] = json.loads(output)
    except ValueError:
        found["fault"] = fault or f"status {process.returncode} and no document: see checks.log"
    if "document" in found and fault is not None:
        found["fault"] = fault
    return found


def is_good(found: dict[str, Any] | None) -> bool:
    """Whether a check was done and found nothing wrong."""
    return found is not None and found["status"] == GOOD and "fault" not in found


def summarize(found: dict[str, Any] | None) -> str:
    """What a check found, in one line."""
    if found is None:
        return "not done"
    if "fault" in found:
        return f"FAILED: {found['fault']}"
    document = found["document"]
    if "samples_per_second" in document:
        text = f"{document['samples_per_second']:,.0f} samples/s"
        if (steps := document.get("step_seconds")) is not None:
            text += f", {1e3 * steps['median']:.2f} ms a step"
        if (peak := document.get("peak_memory_bytes")) is not None:
            text += f", {peak / 1e9:.1f} GB at most"
    elif "forms" in document:
        wrong = [f"{row['quantity']} {row['form']}" for row in document["forms"] if not row["good"]]
        largest = max(row["distance"] for row in document["forms"] if "fp32" in row["form"])
        text = f"fp32 within {largest:.1e}; {'too far: ' + ', '.join(wrong) if wrong else 'agree'}"
    elif "convolutions" in document:
        spent = document["microseconds_per_image"]
        text = f"{spent:.1f} us an image, {1e6 / spent:,.0f} images/s"
    elif "share_of_run" in document:
        text = f"{document['share_of_run']:.2%} of a run"
    elif "providers" in document:
        rows = document["providers"]
        failed = [f"{row['operation']} by {row['provider']}" for row in rows if "fault" in row]
        text = f"{sum('seconds' in row for row in rows)} measured"
        text += "".join(
            f", {provider} {spent:.1f} us an image"
            for provider, spent in document.get("microseconds_per_image", {}).items()
        )
        text += f"; failed: {', '.join(failed)}" if failed else ""
    else:
        text = "done"
    return text if found["status"] == GOOD else f"NOT GOOD (status {found['status']}): {text}"


def describe_machine() -> dict[str, str]:
    """What the figures are of: the GPU and versions."""
    return {
        "gpu": torch.cuda.get_device_name(0),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


def read_record(path: Path, machine: dict[str, str]) -> dict[str, Any]:
    """The record of an earlier call, or an empty one. Raises InputError where it is another's.

    Sources may have changed since: every check has the hash of those that it measured.
    """
    if not path.exists():
        return {"machine": machine, "checks": {}}
    if path.stat().st_size > SIZE_LIMIT_BYTES:
        raise InputError(f"{path}: larger than 64 MiB: name another folder")
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = {name: record["machine"][name] for name in machine}
        checks = {name: dict(found) for name, found in record["checks"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: no record of this command: name another folder") from None
    for name, value in machine.items():
        if known[name] != value:
            raise InputError(
                f"{path}: its figures are of another {name}, {known[name]} and not {value}: "
                "name another folder"
            )
    return {"machine": machine, "checks": checks}


def write_record(folder: Path, checks: Sequence[Check], record: dict[str, Any]) -> None:
    """Write checks.json and checks.md."""
    with write_atomically(folder / "checks.json") as file:
        file.write(json.dumps(record, indent=1) + "\n")
    machine = record["machine"]
    sources = {found["source_sha256"][:12] for found in record["checks"].values()}
    lines = [
        f"{machine['gpu']}, torch {machine['torch']}, CUDA {machine['cuda']}, cuDNN "
        f"{machine['cudnn']}; sources {', '.join(sorted(sources)) or 'not measured'}",
        "",
        "| check | question | found | seconds | command |",
        "|---|---|---|---|---|",
    ]
    for check in checks:
        found = record["checks"].get(check.name)
        seconds = "" if found is None else f"{found['seconds']:.0f}"
        changes = ", ".join(f"{key} = {json.dumps(to)}" for (_, key), to in check.changes.items())
        command = f"`python -m {' '.join(check.arguments)}`" + (f", {changes}" if changes else "")
        cells = (check.name, check.question, summarize(found), seconds, command)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    with write_atomically(folder / "checks.md") as file:
        file.write("\n".join(lines) + "\n")


def choose(checks: Sequence[Check], words: Sequence[str], data: Path | None) -> list[Check]:
    """The checks whose name begins with one of the words, all for none. Raises InputError."""
    chosen = [
        check
        for check in checks
        if (data is not None or not check.wants_data)
        and (not words or any(check.name.startswith(word) for word in words))
    ]
    for word in words:
        if not any(check.name.startswith(word) for check in chosen):
            raise InputError(f"--only {word}: no check's name begins so (see --list)")
    return chosen


def main(arguments: Sequence[str], checks: Sequence[Check] = CHECKS) -> int:
    """Run what is left to run, and say what was found."""
    parser = Parser(prog="python -m perf.gpu_checks", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="where the figures go")
    parser.add_argument("--minutes", type=float, default=60.0, help="for all of it (default: 60)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="names begin with it")
    parser.add_argument("--data", type=Path, help="a packed data set, for the input's rate")
    parser.add_argument("--list", action="store_true", help="print the commands and leave")
    options = parser.parse_args(arguments)
    chosen = choose(checks, options.only, options.data)
    if options.list:
        for check in chosen:
            print(f"{check.name:24} python -m {' '.join(check.arguments)}")
        return GOOD
    if options.folder is None:
        raise InputError("name the folder that the figures go to")
    if not options.minutes > 0:
        raise InputError(f"--minutes must be more than 0, is {options.minutes}")
    if not torch.cuda.is_available():
        raise InputError("torch finds no GPU here (singularity --nv?): nothing to measure")
    deadline = time.monotonic() + 60 * options.minutes
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    record = read_record(folder / "checks.json", describe_machine())
    sources = hash_sources(ROOT, SOURCES)
    with open(folder / "checks.log", "a", encoding="utf-8") as log:
        for number, check in enumerate(chosen, 1):
            if is_good(record["checks"].get(check.name)):
                continue
            left = deadline - time.monotonic()
            if left <= 0:
                break
            print(f"[{number}/{len(chosen)}] {check.name}: {check.question}", file=sys.stderr)
            filled = fill_in(check, folder, options.data)
            found = run_check(filled, log, min(LIMIT_SECONDS, left))
            record["checks"][check.name] = {**found, "source_sha256": sources}
            write_record(folder, checks, record)
            print(f"    {summarize(found)} ({format_seconds(found['seconds'])})", file=sys.stderr)
    write_record(folder, checks, record)
    for check in chosen:
        print(f"{check.name:24} {summarize(record['checks'].get(check.name))}")
    good = all(is_good(record["checks"].get(check.name)) for check in chosen)
    return GOOD if good else NOT_GOOD


if __name__ == "__main__":
    run_command(main)
