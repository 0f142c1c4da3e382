"""Folders of this user alone, on this node: where compilers keep what a run makes them compile.

An image is read-only; a home is often on storage that all nodes share, or is not there at all; the
temporary folder is everybody's. So the kit has one folder there, in which no other user can write.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from harness.commands import InputError

# Variable, then the folder that it names. The ranks of a node share each of these caches. Numba's
# is chosen in bert/compilation.py, since beside the sources is better; no rank imports numba.
CACHES = {
    "TRITON_CACHE_DIR": "triton",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "CUDA_CACHE_PATH": "cuda",
    "HF_HOME": "huggingface",
    "MPLCONFIGDIR": "matplotlib",
}


def find_host_user(user: int, mapping: Path = Path("/proc/self/uid_map")) -> int:
    """Find which user of the host a user is: an image that is built with --fakeroot maps its own.

    mapping: lines of first user here, first user there, how many. /tmp being the host's, one name
    for one user keeps root inside apart from the host's root.
    """
    try:
        lines = mapping.read_text(encoding="ascii").splitlines()
    except OSError:
        return user
    for here, there, count in (map(int, line.split()) for line in lines):
        if here <= user < here + count:
            return there + user - here
    return user


def find_private_folder(place: Path, mend: str) -> Path:
    """Return this user's own folder in a place that everyone may write to.

    Loading machine code is running it, so a folder that another user could have filled is refused.
    Raises InputError naming it, and the mend: what else than removing it helps.
    """
    folder = place / f"lp-mlperf-kit-{find_host_user(os.getuid())}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        private = private and not found.st_mode & 0o077
    except FileExistsError:
        private = False
    if not private:
        raise InputError(
            f"{folder} is not a folder that this user alone may use: remove it, or {mend}"
        )
    return folder


def choose_cache_folders(environment: Mapping[str, str], place: Path) -> dict[str, str]:
    """Name a folder below `place` for each cache that the environment gives none.

    Raises InputError as find_private_folder does; OSError where nothing can be made in `place`.
    """
    missing = [name for name in CACHES if not environment.get(name)]
    if not missing:
        return {}
    private = find_private_folder(place, "name another temporary folder in TMPDIR")
    return {name: str(private / CACHES[name]) for name in missing}
