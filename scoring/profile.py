"""Profiles: what is asked beside the MLPerf rules, as data files in `scoring/profiles/`."""

from __future__ import annotations

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


class ProfileError(Exception):
    """A profile that does not exist or cannot be read; the text names file and key."""


@dataclass(frozen=True)
class BenchmarkSizes:
    """Sizes of one benchmark's data and the distance of its evaluations; 0 is explained there."""

    train_samples: int
    eval_samples: int
    evaluation_interval_epochs: int
    evaluation_interval_samples: int


@dataclass(frozen=True)
class Profile:
    """What a result is judged by; `nodes` 0 asks for no particular number."""

    name: str
    demonstration: bool
    nodes: int
    rcp_test: bool
    speed_checks: bool
    resnet: BenchmarkSizes
    bert: BenchmarkSizes

    def get_sizes(self, benchmark: str) -> BenchmarkSizes:
        """Give the sizes of one benchmark."""
        return self.resnet if benchmark == "resnet" else self.bert


def list_profiles() -> list[str]:
    """List the names of the profiles there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_profile(name: str, folder: Path = FOLDER) -> Profile:
    """Read a profile by name; raises ProfileError for an unknown name, key or type."""
    known = sorted(path.stem for path in folder.glob("*.toml"))
    if name not in known:
        raise ProfileError(f"no profile {name!r}: there are {', '.join(known)}")
    path = folder / f"{name}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: not valid TOML: {error}") from None
    resnet, bert = (
        BenchmarkSizes(
            **_check(path, f"{benchmark}.", table.pop(benchmark, None), BenchmarkSizes, set())
        )
        for benchmark in BENCHMARKS
    )
    settings = _check(path, "", table, Profile, {"name", *BENCHMARKS})
    return Profile(name=name, resnet=resnet, bert=bert, **settings)


def _check(path: Path, prefix: str, table: Any, kind: type, apart: set[str]) -> dict[str, Any]:
    """Check that a table has exactly the keys of `kind` without `apart`, of the right types."""
    if not isinstance(table, dict):
        raise ProfileError(f"{path}: no section [{prefix.rstrip('.')}]")
    wanted = {field.name: field.type for field in fields(kind) if field.name not in apart}
    for key in sorted(set(table) ^ set(wanted)):
        raise ProfileError(
            f"{path}: key {prefix}{key} is {'unknown' if key in table else 'missing'}"
        )
    for key, value in table.items():
        expected = bool if wanted[key] == "bool" else int
        if type(value) is not expected or (expected is int and value < 0):
            raise ProfileError(f"{path}: {prefix}{key} must be a {expected.__name__}, from 0 on")
    return table
