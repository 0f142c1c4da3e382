"""What a search has tried: kept after every trial, so that the same command goes on with it."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from harness.commands import InputError
from harness.files import write_atomically
from harness.tuning_probes import STEP_KEYS, Measured

ROOT = Path(__file__).resolve().parent.parent
SIZE_LIMIT_BYTES = 64 << 20
BASE_COLUMNS = ("number", "benchmark", "knob", "settings", "beside", "round", "status")


Key = tuple[str, str, str, str, int]


@dataclass(frozen=True)
class Trial:
    """One trial. knob, settings and round say what it was made for; round 0 finds the steps.

    beside: what was kept of earlier knobs when it was made; local_batch: samples of a micro-batch.
    """

    benchmark: str
    knob: str
    settings: str
    beside: str
    round: int
    local_batch: int
    measured: Measured

    @property
    def key(self) -> Key:
        """What makes a trial the same as one of an earlier call."""
        return (self.benchmark, self.knob, self.settings, self.beside, self.round)


def describe_origin(files: Mapping[str, Path], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the trials of one folder have in common: files by their hash, machine, sources.

    Raises OSError where a file cannot be read.
    """
    from harness.provenance import hash_sources  # needs torch

    origin: dict[str, Any] = {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
    }
    origin.update(settings)
    origin["machine"] = f"{platform.node()}: {_describe_processor()}"
    for number, file in enumerate(sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))):
        origin[f"GPU {number}"] = file.read_text(encoding="utf-8", errors="replace").split("\n")[0]
    origin["sources"] = hash_sources(ROOT, ("harness", "resnet", "bert"))
    return origin


def _describe_processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


class Record:
    """tried.json and tried.csv of one folder."""

    def __init__(self, folder: Path, origin: dict[str, Any]) -> None:
        self.folder, self.origin = folder, origin
        self.trials: list[Trial] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """Hold the folder and read what was tried before.

        Raises InputError while another search holds it, and where it belongs to another
        configuration or machine, or holds something else.
        """
        file = self.folder / "tried.json"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            others = any(path.name[0] != "." for path in self.folder.iterdir())
        except (FileExistsError, NotADirectoryError):
            raise InputError(f"{self.folder} is no folder: name another with --output") from None
        if others and not file.is_file():
            raise InputError(
                f"{self.folder} holds files but no tried.json: name a new folder with --output"
            )
        with open(self.folder / ".lock", "w", encoding="ascii") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"another search is running in {self.folder}") from None
            if file.is_file():
                self._read(file)
            yield

    def _read(self, file: Path) -> None:
        if file.stat().st_size > SIZE_LIMIT_BYTES:
            raise InputError(f"{file}: larger than 64 MiB, which no search writes")
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            origin = dict(document["made_of"])
            trials = [_read_trial(row) for row in document["trials"]]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(
                f"{file}: not what a search writes: remove it, or name another folder with --output"
            ) from None
        names = [*self.origin, *(name for name in origin if name not in self.origin)]
        changed = [name for name in names if origin.get(name) != self.origin.get(name)]
        if changed:
            onward = (
                " (a search across ranks goes on from what was kept on one node, if it gets the "
                "tuned system's name)"
            )
            raise InputError(
                f"{self.folder} holds trials that differ in: {', '.join(changed)}: they are not "
                "comparable, so name a new folder with --output"
                f"{onward if '--knobs' in changed else ''}"
            )
        self.trials = trials

    def find(self, key: Key) -> Measured | None:
        """A trial made before, but not one that time cut off."""
        for trial in self.trials:
            if trial.key == key and trial.measured.status != "cut off":
                return self.weigh(trial)
        return None

    def weigh(self, trial: Trial) -> Measured:
        """What a trial measured, its rate as with the tokens a sequence of the first trial.

        BERT's probe draws other sequences for another micro-batch, so that sequences a second
        of two sizes are not of the same work; tokens are.
        """
        mine = trial.measured.tokens_per_micro_batch / trial.local_batch
        for other in self.trials:
            if other.benchmark == trial.benchmark and other.measured.tokens_per_micro_batch > 0:
                factor = mine / (other.measured.tokens_per_micro_batch / other.local_batch)
                rate = trial.measured.samples_per_second * (factor or 1.0)
                return replace(trial.measured, samples_per_second=rate)
        return trial.measured

    def add(self, trial: Trial) -> None:
        """Keep a trial: when this returns it is on the disk."""
        self.trials.append(trial)
        with write_atomically(self.folder / "tried.json") as file:
            rows = [asdict(one) for one in self.trials]
            json.dump({"schema": 1, "made_of": self.origin, "trials": rows}, file, indent=1)
        with write_atomically(self.folder / "tried.csv") as file:
            writer = csv.writer(file, lineterminator="\n")
            steps = (f"step_seconds_{key}" for key in STEP_KEYS)
            writer.writerow([*BASE_COLUMNS, "samples_per_second", *steps, "seconds", "message"])
            for number, one in enumerate(self.trials, 1):
                found = one.measured
                writer.writerow(
                    [number, *one.key, found.status, found.samples_per_second,
                      *(found.step_seconds.get(k, "") for k in STEP_KEYS),
                     found.seconds, found.message]
                )  # fmt: skip


def _read_trial(row: Any) -> Trial:
    """Raises ValueError, KeyError or TypeError for anything that `add` does not write."""
    kinds = {
        "status": str, "seconds": float, "samples_per_second": float, "step_seconds": dict,
        "device": str, "message": str, "misused": bool, "tokens_per_micro_batch": float,
    }  # fmt: skip
    values = {field.name: row["measured"][field.name] for field in fields(Measured)}
    wrong = [name for name, kind in kinds.items() if type(values[name]) is not kind]
    if wrong or values["status"] not in ("measured", "failed", "cut off"):
        raise ValueError
    if values["status"] == "measured" and not 0 < values["samples_per_second"] < 1e15:
        raise ValueError
    step = values["step_seconds"]
    if step and set(step) != set(STEP_KEYS):
        raise ValueError
    if any(type(value) is not float or not 0 < value < 1e15 for value in step.values()):
        raise ValueError
    if values["status"] == "measured" and row["knob"].startswith("steps") and not step:
        raise ValueError
    names = ("benchmark", "knob", "settings", "beside")
    if any(type(row[name]) is not str for name in names):
        raise ValueError
    if any(type(row[name]) is not int for name in ("round", "local_batch")):
        raise ValueError
    if row["local_batch"] < 1 or not 0 <= values["tokens_per_micro_batch"] < 1e15:
        raise ValueError
    found = Measured(**values)
    return Trial(
        row["benchmark"],
        row["knob"],
        row["settings"],
        row["beside"],
        row["round"],
        row["local_batch"],
        found,
    )
