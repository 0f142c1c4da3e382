"""Looks at the apex that this Python imports: is it NVIDIA's, with all that the kit calls?

What the kit calls stands in apex.toml. PyPI's "apex" is an unrelated package of the same name.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PIN = Path(__file__).resolve().with_name("apex.toml")


@dataclass(frozen=True)
class Extension:
    """A compiled module of apex: the variable that asks for it, arguments of each function."""

    variable: str
    functions: dict[str, int]


@dataclass(frozen=True)
class Pin:
    """The commit of apex that is built where the base has none that serves, and what of it."""

    repository: str
    commit: str
    extensions: dict[str, Extension]


def read_pin(file: Path = PIN) -> Pin:
    """Read apex.toml."""
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    extensions = {name: Extension(**row) for name, row in table["extensions"].items()}
    return Pin(table["repository"], table["commit"], extensions)


def find_folder() -> Path | None:
    """Find the folder of the package that `import apex` takes, without importing it."""
    importlib.invalidate_caches()
    spec = find_spec("apex")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def find_version() -> str:
    """Give apex's version as its distribution states it; a base image may have it without one."""
    try:
        return metadata.version("apex")
    except metadata.PackageNotFoundError:
        return "unknown"


def find_stranger(folder: Path) -> str | None:
    """Say that a folder holds another package than NVIDIA's apex; None where it is NVIDIA's."""
    if all((folder / part / "__init__.py").is_file() for part in ("contrib", "optimizers")):
        return None
    return (
        f"the package apex in {folder} is not NVIDIA's, but most likely PyPI's of the same name, "
        "which is unrelated: remove it from the base image (pip uninstall apex)"
    )


def find_faults(pin: Pin) -> list[str]:
    """Import apex and all that the kit uses of it; returns what is wrong, a sentence each."""
    folder = find_folder()
    if folder is None:
        return ["apex is not installed"]
    if stranger := find_stranger(folder):
        return [stranger]
    faults = []
    for name in ("torch", "apex", *pin.extensions):
        try:
            module = importlib.import_module(name)
        except Exception as error:  # noqa: BLE001  whatever it is, this apex does not serve
            faults.append(f"{name} cannot be imported: {error}")
            continue
        if name in pin.extensions:
            faults += check_functions(module, pin.extensions[name].functions)
    return faults


def check_functions(module: object, functions: dict[str, int]) -> list[str]:
    """Compare an extension's functions with those that are called, by their numbers of arguments.

    pybind11 writes each signature into the first line of the docstring. Other numbers are another
    apex than the kit was written for; found here, they cannot stop the first step of a run.
    """
    faults = []
    for name, count in functions.items():
        place = f"{getattr(module, '__name__', '?')}.{name}"
        function = getattr(module, name, None)
        if function is None:
            faults.append(f"{place} is not there")
            continue
        found = len(re.findall(r"\barg\d+:", (function.__doc__ or "").split("\n")[0]))
        if found != count:
            faults.append(f"{place} takes {found} arguments, {count} are given")
    return faults


def main() -> None:
    """Print what was found as one line of JSON: folder, version, stranger, faults."""
    folder = find_folder()
    found = {
        "folder": None if folder is None else str(folder),
        "version": find_version(),
        "stranger": None if folder is None else find_stranger(folder),
        "faults": find_faults(read_pin()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
