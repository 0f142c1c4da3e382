"""Reads a JSON document that the user names: bounded, strict, one sentence where it is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scoring.exits import InputError
from scoring.log import LineError, parse_json, read_named


def read_document(path: Path, shown: str, limit_bytes: int, kind: str) -> dict[str, Any]:
    """Read a JSON object from a file.

    shown: how the sentence names the file; kind: what it should hold. Raises InputError.
    """
    try:
        value = parse_json(read_named(path, limit_bytes))
    except LineError as error:
        raise InputError(f"{shown}: {error}: give {kind}") from None
    if not isinstance(value, dict):
        raise InputError(f"{shown}: no JSON object: give {kind}")
    return value
