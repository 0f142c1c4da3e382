"""Reads of a system file (systems/NAME.toml) what a package and its examination need.

The trainers' own reader is stricter; this one stands apart, because an auditor does not read the
audited tree with the audited tree's code.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.exits import InputError
from scoring.findings import quote
from scoring.log import LineError, read_named
from scoring.package.layout import is_system_name
from scoring.rules import BENCHMARKS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SIZE_LIMIT_BYTES = 1 << 20


@dataclass(frozen=True)
class SystemFile:
    """A system as its file states it; `configurations` by benchmark, paths from the kit's root.

    image is empty where the ranks run without a container.
    """

    name: str
    organization: str
    platform: str
    status: str
    nodes: int
    ranks_per_node: int
    device: str
    one_machine: bool
    image: str
    profile: str
    configurations: Mapping[str, str]

    @property
    def accelerators_per_node(self) -> int:
        """Give the accelerators of a node: one a rank, none where the ranks compute on CPUs."""
        return self.ranks_per_node if self.device == "cuda" else 0


def read_system_file(path: Path) -> tuple[SystemFile, bytes]:
    """Read a system file; give it as read and as bytes.

    Raises InputError where it cannot be read, lacks a key, or its name is not its file's.
    """
    try:
        content = read_named(path, SIZE_LIMIT_BYTES)
    except LineError as error:
        raise InputError(f"--system {path}: {error}") from None
    return parse_system_file(content, path.name), content


def parse_system_file(content: bytes, file_name: str) -> SystemFile:
    """Read the bytes of a system file. Raises InputError naming file and key."""
    shown = file_name if file_name.isprintable() else quote(file_name)
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).replace("\n", " ") or "nested too deep"
        raise InputError(f"{shown}: not valid TOML: {reason}") from None

    def take(key: str, kind: type) -> Any:
        value: Any = table
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if type(value) is not kind:
            words = {str: "a text", int: "a whole number", bool: "true or false"}[kind]
            raise InputError(f"{shown}: '{key}' must be there and be {words}")
        return value

    name = take("name", str)
    if not is_system_name(name) or f"{name}.toml" != file_name:
        raise InputError(f"{shown}: name is {quote(name)}, must be the file's name without .toml")
    return SystemFile(
        name=name,
        organization=take("submission.organization", str),
        platform=take("submission.platform", str),
        status=take("submission.status", str),
        nodes=take("nodes.count", int),
        ranks_per_node=take("nodes.ranks_per_node", int),
        device=take("nodes.device", str),
        one_machine=take("nodes.one_machine", bool),
        image=take("container.image", str),
        profile=take("campaign.profile", str),
        configurations={b: take(f"benchmarks.{b}.config", str) for b in BENCHMARKS},
    )
