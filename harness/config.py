"""Strict, complete TOML configuration, read into frozen dataclasses.

Every key must be there and every key must be known: a misspelt or forgotten setting is an error
with the file, the section and the key, never a default. A field that MLPerf names declares its
log key with `logged`, so that the log says what the run used.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from harness.commands import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

T = TypeVar("T")
SIZE_LIMIT_BYTES = 1 << 20


def logged(key: str) -> Any:
    """Declare a configuration field whose value is logged under an MLPerf key."""
    return dataclasses.field(metadata={"mlperf_key": key})


def logged_values(config: Any) -> dict[str, Any]:
    """Collect {MLPerf key: value} of every declared field, sections included, in file order."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            values.update(logged_values(value))
        elif "mlperf_key" in field.metadata:
            values[field.metadata["mlperf_key"]] = value
    return values


def load_config(path: Path | str, kind: type[T]) -> T:
    """Read a TOML file into the dataclass `kind`, whose dataclass fields are the sections.

    Raises InputError naming file, section and key for an unreadable file, a syntax error, an
    unknown or missing key, a wrong type, or whatever a section's `__post_init__` refuses.
    """
    path = Path(path)
    try:
        if path.stat().st_size > SIZE_LIMIT_BYTES:
            raise InputError(f"{path}: larger than 1 MiB, which no configuration is")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such configuration file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    return _build(table, kind, str(path), "")


def _build(table: dict[str, Any], kind: type[T], file: str, section: str) -> T:
    where = f"{file}: [{section}]" if section else f"{file}:"
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in table:
        if key not in names:
            raise InputError(f"{where} unknown key '{key}' (known: {', '.join(names)})")
    values = {}
    for name in names:
        if name not in table:
            raise InputError(f"{where} key '{name}' is missing ({_describe(hints[name])})")
        inner = f"{section}.{name}" if section else name
        values[name] = _convert(table[name], hints[name], file, inner)
    try:
        return kind(**values)
    except ValueError as error:
        raise InputError(f"{where} {error}") from None


def _convert(value: Any, hint: Any, file: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise InputError(f"{file}: '{key}' must be a section [{key}]")
        return _build(value, hint, file, key)  # type: ignore[arg-type]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list):
        return _convert_list(value, arguments, file, key)
    if origin is dict and isinstance(value, dict):
        return {name: _convert(item, arguments[1], file, f"{key}.{name}")
                for name, item in value.items()}  # fmt: skip
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise InputError(f"{file}: '{key}' must be a finite number, is {value}")
        return float(value)
    if isinstance(hint, type) and type(value) is hint:
        return value
    if origin is typing.Literal and value in arguments:
        return value
    raise InputError(f"{file}: '{key}' must be {_describe(hint)}, is {value!r}")


def _convert_list(value: list[Any], kinds: tuple[Any, ...], file: str, key: str) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    if len(kinds) != len(value):
        raise InputError(f"{file}: '{key}' must have {len(kinds)} values, has {len(value)}")
    pairs = enumerate(zip(value, kinds, strict=True))
    return tuple(_convert(item, kind, file, f"{key}[{i}]") for i, (item, kind) in pairs)


def _describe(hint: Any) -> str:
    plain = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
    if hint in plain:
        return plain[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(repr(argument) for argument in arguments)
    if origin is tuple:
        return "a list"
    if isinstance(hint, types.GenericAlias) or dataclasses.is_dataclass(hint):
        return "a section"
    return str(hint)


def check(condition: bool, sentence: str) -> None:
    """Refuse a configuration value: for the `__post_init__` of a section. Raises ValueError."""
    if not condition:
        raise ValueError(sentence)
