"""The kit's source as a package delivers it: by an allow list, with the hash the logs carry."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from scoring.exits import InputError
from scoring.findings import quote
from scoring.log import LineError, read_bounded
from scoring.package.layout import is_package_path
from scoring.rules import BENCHMARKS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    *("bert", "container", "demo", "docs", "harness", "perf", "resnet", "scoring", "scripts"),
    *("systems", "tests"),
)
# By the name in the kit, the name in the package, where no name begins with a dot. Docker and
# podman look for Dockerfile.dockerignore before .dockerignore.
FILES = {
    ".dockerignore": "Dockerfile.dockerignore",
    **{
        name: name
        for name in (
            *("CHANGELOG.md", "Dockerfile", "Dockerfile.dockerignore", "LICENSE", "README.md"),
            *("Singularity.def", "pyproject.toml", "run_and_time.sh"),
        )
    },
}
NEEDED = ("harness", "resnet", "bert", "run_and_time.sh", "pyproject.toml", "LICENSE")
_TEXTS = ".md .txt .json .csv .html .css .svg .png"
_CODE = ".py .pyi .sh .sbatch .c .cc .cpp .cu .cuh .h .hpp .cmake .patch .diff"
_SETTINGS = ".toml .in .lock .def .yaml .yml .cfg .ini"
_TEST_DATA = ".npz .xz"
SUFFIXES = frozenset(" ".join((_TEXTS, _CODE, _SETTINGS, _TEST_DATA)).split())
FILE_LIMIT_BYTES = 16 << 20
# Made by tools, never by a hand: left out without a word.
_MADE = re.compile(r"\..*|__pycache__|.*\.py[co]|.*\.egg-info|build|.*~", re.ASCII)
_HASHED_SUFFIXES = (".py", ".toml")


@dataclass(frozen=True)
class Source:
    """Files by their path from the kit's root, and the paths that the allow list left out."""

    files: dict[str, bytes]
    left_out: tuple[str, ...]

    @property
    def version(self) -> str:
        """Give the kit's version, as pyproject.toml states it. Raises InputError without one."""
        try:
            table = tomllib.loads(self.files["pyproject.toml"].decode("utf-8"))
            version = table["project"]["version"]
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError):
            version = None
        if not isinstance(version, str):
            raise InputError("pyproject.toml: no version of the kit: give [project] version")
        return version


def read_source(root: Path = ROOT) -> Source:
    """Read the kit's source below `root`.

    Raises InputError where the kit is not there, where a file is a link or too large, and where a
    file that the logged hash covers has a name that cannot be delivered.
    """
    for name in NEEDED:
        if not (root / name).exists():
            raise InputError(
                f"{root} holds no {name}: a package delivers the kit's source as it ran: name its "
                f"folder with --source"
            )
    files: dict[str, bytes] = {}
    left_out: list[str] = []
    for path in _list_paths(root):
        if _is_allowed(path):
            files[FILES.get(path, path)] = _read_file(root, path)
        elif _is_hashed(path):
            raise InputError(
                f"{quote(path)} belongs to the sources whose hash the logs carry, but a package "
                f"cannot hold that name: rename or remove it"
            )
        elif not any(_MADE.fullmatch(part) for part in path.split("/")):
            left_out.append(path)
    return Source(files, tuple(left_out))


def hash_sources(files: Mapping[str, bytes], folders: Sequence[str]) -> str:
    """SHA-256 over names and contents of the .py and .toml files below these folders, in hex.

    files: contents by path from the kit's root. The same construction as the trainers' own, whose
    result every log carries as source_sha256.
    """
    digest = hashlib.sha256()
    for folder in folders:
        paths = [path for path in files if path.startswith(f"{folder}/")]
        for path in sorted(paths, key=lambda path: path.split("/")):
            if PurePosixPath(path).suffix in _HASHED_SUFFIXES:
                digest.update(f"{path}\0{len(files[path])}\0".encode())
                digest.update(files[path])
    return digest.hexdigest()


def hash_benchmark_sources(files: Mapping[str, bytes]) -> dict[str, str]:
    """Give the hash that the logs of each benchmark carry."""
    return {benchmark: hash_sources(files, ("harness", benchmark)) for benchmark in BENCHMARKS}


def is_delivered(path: str) -> bool:
    """Say whether a file may stand at this path, from the kit's root, in a package's source.

    What the logged hash does not cover must not take the place of what it does: Python imports
    harness/ranks.so before harness/ranks.py, and a folder torch/ beside it before the library.
    """
    return path in FILES.values() if "/" not in path else _is_allowed(path)


def _is_allowed(path: str) -> bool:
    if "/" not in path:
        return path in FILES
    if path.partition("/")[0] not in FOLDERS:
        return False
    name = PurePosixPath(path)
    if any(_MADE.fullmatch(part) for part in name.parts) or not is_package_path(path):
        return False
    # Scripts and recipes have no suffix; what they are is told by their folder.
    is_script = not name.suffix and name.parts[0] in ("scripts", "container")
    return name.suffix in SUFFIXES or is_script


def _is_hashed(path: str) -> bool:
    folder = PurePosixPath(path).parts[0]
    return folder in ("harness", *BENCHMARKS) and PurePosixPath(path).suffix in _HASHED_SUFFIXES


def _list_paths(root: Path) -> Iterator[str]:
    """List the files below the allowed folders, sorted; caches are not entered."""
    tops = [name for name in (*FILES, *FOLDERS) if os.path.lexists(root / name)]
    for top in tops:
        _refuse_link(root, top)
        if top in FILES:
            yield top
            continue
        for folder, folders, names in os.walk(root / top, onerror=_raise):
            folders[:] = sorted(name for name in folders if name != "__pycache__")
            for name in (*folders, *sorted(names)):
                path = Path(folder, name).relative_to(root).as_posix()
                _refuse_link(root, path)
                if name in names:
                    yield path


def _refuse_link(root: Path, path: str) -> None:
    if (root / path).is_symlink():
        raise InputError(f"{quote(path)} is a link: a package holds none; replace it")


def _raise(error: OSError) -> None:
    """Let os.walk stop at a folder that it cannot list, rather than leave it out."""
    raise error


def _read_file(root: Path, path: str) -> bytes:
    if not stat.S_ISREG(os.lstat(root / path).st_mode):
        raise InputError(f"{path} is no regular file: a package delivers only such; remove it")
    try:
        return read_bounded(root / path, root, FILE_LIMIT_BYTES)
    except LineError as error:
        raise InputError(f"{path} {error}") from None
