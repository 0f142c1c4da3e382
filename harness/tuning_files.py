"""The tuned files: values replaced where they stand, every other character as it was."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.commands import InputError
from harness.files import write_atomically
from harness.systems import NAME
from harness.tuning_knobs import Key, Value

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SIZE_LIMIT_BYTES = 1 << 20
TUNED = re.compile(r"(.*)-tuned(?:-(\d{1,4}))?")
HEADER = re.compile(r"\s*\[\s*([\w.-]+)\s*\]\s*(#.*)?$")
# key = value, where the value is one plain number or text on this line.
LINE = re.compile(r"""(\s*([\w-]+)\s*=\s*)([+-]?\w+|"[^"\\]*"|'[^']*')(\s*(#.*)?)$""")


def read_text(path: Path) -> tuple[str, dict[str, Any]]:
    """Read a TOML file as text and as a table. Raises InputError where it is none."""
    try:
        if path.stat().st_size > SIZE_LIMIT_BYTES:
            raise InputError(f"{path}: larger than 1 MiB, which no configuration is")
        text = path.read_bytes().decode("utf-8")  # line ends stay as they are
        return text, tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such configuration file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None


def replace_values(file: Path, text: str, changes: Mapping[Key, Value]) -> str:
    """Replace values in the text of a TOML file; comments and all other keys stay.

    file: for messages. That nothing else has changed is checked by reading both texts again.
    Raises InputError where a value does not stand on a line of its own, as `key = value`.
    """
    wanted, lines, section = dict(changes), text.split("\n"), ""
    for number, line in enumerate(lines):
        if header := HEADER.match(line):
            section = header.group(1)
        elif (found := LINE.match(line)) and (section, found.group(2)) in wanted:
            written = json.dumps(wanted.pop((section, found.group(2))))
            lines[number] = f"{found.group(1)}{written}{found.group(4)}"
    changed = "\n".join(lines)
    expected = tomllib.loads(text)
    for (name, key), value in changes.items():
        table = expected
        for part in filter(None, name.split(".")):
            table = table.get(part, {})
        table[key] = value
    try:
        same = tomllib.loads(changed) == expected
    except tomllib.TOMLDecodeError:
        same = False
    if wanted or not same:
        names = ", ".join(f"{key} of [{name}]" if name else key for name, key in wanted or changes)
        raise InputError(
            f"{file}: cannot replace {names} where it stands: write each as a line 'key = value' "
            "below its [section]"
        )
    return changed


def name_tuned(name: str) -> str:
    """The name of a system's tuned copy: NAME-tuned, of that NAME-tuned-2, and so on.

    Its campaigns get a folder of their own, and its file stands beside the other in systems/.
    Raises InputError where that is no name of a system.
    """
    found = TUNED.fullmatch(name)
    stem, number = (found.group(1), int(found.group(2) or 1) + 1) if found else (name, 1)
    tuned = f"{stem}-tuned" if number == 1 else f"{stem}-tuned-{number}"
    if not NAME.fullmatch(tuned):
        raise InputError(f"the tuned system '{tuned}' would have too long a name: take a shorter")
    return tuned


def change_system(system_file: Path, benchmarks: Iterable[str]) -> tuple[str, str]:
    """Name and text of the tuned system file, which names the tuned configurations.

    Raises InputError where a value does not stand on a line of its own.
    """
    text, table = read_text(system_file)
    tuned = name_tuned(str(table["name"]))
    places: dict[Key, Value] = {("", "name"): tuned}
    for benchmark in benchmarks:
        places[f"benchmarks.{benchmark}", "config"] = _place(benchmark, tuned)
    return tuned, replace_values(system_file, text, places)


def write_tuned(
    folder: Path, system_file: Path, tuned: Mapping[str, tuple[Path, Mapping[Key, Value]]]
) -> Path:
    """Write BENCHMARK/configs/NAME.toml for each benchmark and systems/NAME.toml, as they have to
    stand in the kit: there logs carry their hash, and a package takes them from there.

    tuned: benchmark -> its present configuration file and the values to replace. Returns the
    system file. Raises InputError and OSError.
    """
    name, text = change_system(system_file, tuned)
    for benchmark, (file, changes) in tuned.items():
        changed = replace_values(file, read_text(file)[0], changes)
        _write(folder / _place(benchmark, name), changed)
    target = folder / "systems" / f"{name}.toml"
    _write(target, text)
    return target


def _place(benchmark: str, name: str) -> str:
    return f"{benchmark}/configs/{name}.toml"


def _write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(target) as file:
        file.write(text)
