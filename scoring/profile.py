"""Profiles: what is asked beside the MLPerf rules, as data files.

Those of `scoring/profiles/` have names; any other request for proposals is one more file like
them, given by its path. docs/scoring.md explains the keys.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scoring.rules import BENCHMARKS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FOLDER = Path(__file__).parent / "profiles"
DEFAULT = "mlperf"
FILE_LIMIT_BYTES = 1 << 16
NUMBER_LIMIT = 10**12
TITLE_LIMIT = 120
# Below three runs nothing is left between the fastest and the slowest.
RUNS_LIMITS = (3, 100)
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")
_KINDS = {"bool": "true or false", "int": "a whole number from 0 on", "str": "text"}


class ProfileError(Exception):
    """A profile that does not exist or cannot be read; the text names file and key."""


@dataclass(frozen=True)
class BenchmarkSizes:
    """Runs of one benchmark, sizes of its data, distance of its evaluations.

    train_samples 0: free; the interval is in epochs for ResNet and in samples for BERT, where 0
    stands for the formula of the rules.
    """

    runs: int
    train_samples: int
    eval_samples: int
    evaluation_interval_epochs: int
    evaluation_interval_samples: int


@dataclass(frozen=True)
class ScoreWeights:
    """What each benchmark's latency in minutes is divided into for the score."""

    resnet: float
    bert: float


@dataclass(frozen=True)
class Profile:
    """What a result is judged by; `nodes` 0 asks for no particular number."""

    name: str
    title: str
    demonstration: bool
    nodes: int
    rcp_test: bool
    speed_checks: bool
    score: ScoreWeights
    resnet: BenchmarkSizes
    bert: BenchmarkSizes

    def get_sizes(self, benchmark: str) -> BenchmarkSizes:
        """Give the sizes of one benchmark."""
        return self.resnet if benchmark == "resnet" else self.bert

    def get_runs(self, benchmark: str) -> int:
        """Give the number of runs that make a result of one benchmark."""
        return self.get_sizes(benchmark).runs

    def get_weight(self, benchmark: str) -> float:
        """Give the weight of one benchmark in the score, minutes."""
        return self.score.resnet if benchmark == "resnet" else self.score.bert


def list_profiles(folder: Path = FOLDER) -> list[str]:
    """List the names of the profiles there are."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_profile(name: str, folder: Path = FOLDER) -> Profile:
    """Read a profile by its name, or by the path of a TOML file (with a / or ending in .toml).

    Raises ProfileError for an unknown name, and for a file with an unknown or missing key, a
    value of another type, or one that no result could be judged by.
    """
    known = list_profiles(folder)
    if name in known:
        return _read_profile(folder / f"{name}.toml")
    if "/" not in name and not name.endswith(".toml"):
        raise ProfileError(
            f"no profile {name!r}: there are {', '.join(known)}, or give the path of a TOML file"
        )
    path = Path(name)
    if not os.path.isfile(path):
        raise ProfileError(f"no profile file {name!r}; by name there are {', '.join(known)}")
    if path.stem in known and path.resolve() != (folder / f"{path.stem}.toml").resolve():
        raise ProfileError(f"{name!r}: {path.stem} is the name of another profile: rename the file")
    if not _NAME.fullmatch(path.stem):
        raise ProfileError(
            f"{name!r}: the file's name names the profile: use small letters, digits, - and _"
        )
    return _read_profile(path)


def _read_profile(path: Path) -> Profile:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > FILE_LIMIT_BYTES:
        raise ProfileError(f"{path}: larger than {FILE_LIMIT_BYTES >> 10} KiB: no profile")
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except RecursionError:
        raise ProfileError(f"{path}: not valid TOML: nested too deep") from None
    except ValueError as error:
        raise ProfileError(f"{path}: not valid TOML: {error}") from None
    weights = ScoreWeights(**_check_weights(path, table.pop("score", None)))
    resnet, bert = (
        _check_sizes(path, benchmark, table.pop(benchmark, None)) for benchmark in BENCHMARKS
    )
    settings = _check(path, "", table, Profile, {"name", "score", *BENCHMARKS})
    _expect(path, "title", 1 <= len(settings["title"]) <= TITLE_LIMIT, f"1-{TITLE_LIMIT} letters")
    _expect(path, "title", settings["title"].isprintable(), "one line of text")
    return Profile(name=path.stem, score=weights, resnet=resnet, bert=bert, **settings)


def _check(path: Path, prefix: str, table: Any, kind: type, apart: set[str]) -> dict[str, Any]:
    """Check that a table has exactly the keys of `kind` without `apart`, of the right types."""
    wanted = {field.name: str(field.type) for field in fields(kind) if field.name not in apart}
    _check_keys(path, prefix, table, set(wanted))
    for key, value in table.items():
        good = type(value).__name__ == wanted[key]
        if type(value) is int:
            good = good and 0 <= value <= NUMBER_LIMIT
        _expect(path, f"{prefix}{key}", good, _KINDS[wanted[key]])
    checked: dict[str, Any] = table
    return checked


def _check_keys(path: Path, prefix: str, table: Any, wanted: set[str]) -> None:
    if not isinstance(table, dict):
        raise ProfileError(f"{path}: no section [{prefix.rstrip('.')}]")
    for key in sorted(set(table) ^ wanted):
        state = "unknown" if key in table else "missing"
        raise ProfileError(f"{path}: key {prefix}{key} is {state}")


def _check_weights(path: Path, table: Any) -> dict[str, float]:
    _check_keys(path, "score.", table, set(BENCHMARKS))
    for key, value in table.items():
        good = type(value) in (int, float) and 0 < value <= NUMBER_LIMIT
        _expect(path, f"score.{key}", good, "a number above 0")
    return {key: float(value) for key, value in table.items()}


def _check_sizes(path: Path, benchmark: str, table: Any) -> BenchmarkSizes:
    """Check one benchmark's section, beyond its types: no key that would have no effect."""
    prefix = f"{benchmark}."
    sizes = BenchmarkSizes(**_check(path, prefix, table, BenchmarkSizes, set()))
    low, high = RUNS_LIMITS
    _expect(path, f"{prefix}runs", low <= sizes.runs <= high, f"from {low} to {high}")
    _expect(path, f"{prefix}eval_samples", sizes.eval_samples > 0, "above 0")
    epochs, samples = sizes.evaluation_interval_epochs, sizes.evaluation_interval_samples
    if benchmark == "resnet":
        _expect(path, f"{prefix}evaluation_interval_epochs", epochs > 0, "above 0")
        _expect(path, f"{prefix}evaluation_interval_samples", samples == 0, "0: it is in epochs")
    else:
        _expect(path, f"{prefix}evaluation_interval_epochs", epochs == 0, "0: it is in samples")
    return sizes


def _expect(path: Path, key: str, good: bool, wanted: str) -> None:
    if not good:
        raise ProfileError(f"{path}: {key} must be {wanted}")
