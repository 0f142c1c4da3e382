"""All that only a GPU can tell, measured in one call, the most telling first.

`python -m perf.gpu_checks FOLDER [--minutes N] [--only WORD ...] [--data DIR] [--list]` runs the
commands of perf.gpu_check_list, one after the other, each in a process of its own, on the first GPU
of this machine. FOLDER gets checks.json (every command's document, rewritten after each), checks.md
(a table of them), checks.log (what they wrote to stderr), the configurations that were varied, and
the profiles. Called again it goes on where it stopped; what failed is done again. Status 1: a check
failed, or there was no time for it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.commands import GOOD, NOT_GOOD, InputError, Parser, run_command
from harness.files import write_atomically
from harness.processes import adopt_orphans, run_tree
from harness.progress import format_seconds
from harness.provenance import hash_sources
from harness.tuning_files import read_text, replace_values
from perf.gpu_check_list import CHECKS, Check

ROOT = Path(__file__).resolve().parent.parent
SIZE_LIMIT_BYTES = 64 << 20
LIMIT_SECONDS = 600.0  # of one check: the longest is expected to take a third
SOURCES = ("harness", "resnet", "bert", "perf")
# Its output alone is read; what it says beside goes to the end of a file, the first argument.
SPLIT = ("sh", "-c", 'exec 2>>"$0"; exec "$@"')


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


def run_check(arguments: Sequence[str], log: Path, limit_seconds: float) -> dict[str, Any]:
    """Run one command; {"status", "seconds", "document"} or, where there is none, "fault".

    What it leaves running is ended, on an interrupt too. log: the file that its stderr is added to.
    """
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"\n$ python -m {' '.join(arguments)}\n")
    start, output = time.monotonic(), list[str]()
    command = [*SPLIT, str(log), sys.executable, "-m", *arguments]
    end = run_tree(command, output.append, limit_seconds, ROOT)
    found: dict[str, Any] = {"status": end.status, "seconds": round(time.monotonic() - start, 1)}
    try:
        found["document"] = json.loads("\n".join(output))
    except ValueError:
        found["fault"] = f"it {end.how} and gave no document: see checks.log"
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
        cells = (check.name, check.question, summarize(found), seconds, f"`{check.describe()}`")
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
            print(f"{check.name:24} {check.describe()}")
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
    adopt_orphans()
    for number, check in enumerate(chosen, 1):
        if is_good(record["checks"].get(check.name)):
            continue
        left = deadline - time.monotonic()
        if left <= 0:
            break
        print(f"[{number}/{len(chosen)}] {check.name}: {check.question}", file=sys.stderr)
        filled = fill_in(check, folder, options.data)
        found = run_check(filled, folder / "checks.log", min(LIMIT_SECONDS, left))
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
