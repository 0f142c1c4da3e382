"""Compiled loops: the decorator that makes them, and the folder that keeps their machine code.

Only modules that hold loops import this one, and with it numba; no trainer does.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba.extending import intrinsic

from harness.commands import InputError
from harness.private_folders import find_private_folder

PACKAGE = Path(__file__).resolve().parent


def hash_sources() -> str:
    """Hash every module of this package that holds loops.

    The cache of numba looks at the file of a function alone and would keep calling the machine
    code of a callee that has changed in another file; so each state of the sources has its folder.
    """
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.glob("*.py")):
        content = path.read_bytes()
        if b"from bert.compilation import" in content or path.samefile(__file__):
            digest.update(content)
    return digest.hexdigest()[:16]


def is_writable(folder: Path) -> bool:
    """Make a folder where it is missing, and say whether files can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def choose_cache_folder(given: str, package: Path, temporary: Path) -> Path:
    """Choose where machine code is kept.

    given: what the user asks for, may be empty; package: where the sources are, best if it can be
    written to, for then all nodes that share it compile once; temporary: where else, on this node.
    Raises InputError where none of them serves.
    """
    name = f"loops-{hash_sources()}"
    if given:
        if is_writable(Path(given) / name):
            return Path(given) / name
        raise InputError(f"NUMBA_CACHE_DIR={given} cannot be written to: name another folder")
    folder = package / "__pycache__" / name
    if not is_writable(folder):
        mend = "name another folder for compiled loops in NUMBA_CACHE_DIR"
        folder = find_private_folder(temporary, mend) / name
        if not is_writable(folder):
            raise InputError(f"{folder} cannot be written to: name a folder in NUMBA_CACHE_DIR")
    return folder


CACHE_FOLDER = choose_cache_folder(numba.config.CACHE_DIR, PACKAGE, Path(tempfile.gettempdir()))
numba.config.CACHE_DIR = str(CACHE_FOLDER)

# Whole numbers wrap and nothing is checked at run time, as in C: every loop says in its docstring
# what its caller guarantees. No references are counted either, since the caller holds every array
# as long as the call lasts: counting took a third of the time in loops that call short functions.
# Such a loop cannot make an array; numba refuses to compile it.
compiled = numba.njit(cache=True, error_model="numpy", _nrt=False)
# The same for short functions, or those called at one place: passing arrays takes time.
inlined = numba.njit(cache=True, error_model="numpy", inline="always", _nrt=False)
# For loops that return an array that they make.
allocating = numba.njit(cache=True, error_model="numpy")


@intrinsic
def count_trailing_zeros(context: Any, number: Any) -> Any:
    """Count the zeros below the lowest one of a whole number, which is not zero: an instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return number(number), generate
