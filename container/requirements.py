"""Prints the part of a lock that this Python lacks: what an image must add to its base.

A base's own packages serve at any version, but for DALI and the libraries that it loads, which are
those of the lock: resnet/pipelines.py:CACHE_SINCE tells of a base's older DALI that goes wrong.

python3 requirements.py LOCK; standard library only, since it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

OWN = "nvidia-"  # in the lock: DALI, and the decoders and nvCOMP that it loads


def normalize(name: str) -> str:
    """Spell a distribution's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def split_lock(text: str) -> list[tuple[str, str]]:
    """Split a lock into (name, its lines with version, marker and hashes), in order."""
    blocks = re.findall(r"^[A-Za-z0-9].*(?:\n[ \t]+.*)*", text, re.M)
    return [(normalize(re.split(r"[=<>!~ \[;]", block, maxsplit=1)[0]), block) for block in blocks]


def list_installed() -> dict[str, str]:
    """Name the distributions that can be imported here, with their versions."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        if name := distribution.metadata["Name"]:
            found.setdefault(normalize(name), distribution.version)  # the first is imported
    return found


def lacks(name: str, block: str, installed: dict[str, str]) -> bool:
    """Whether a block of the lock is to be installed beside what is there."""
    if name not in installed:
        return True
    return name.startswith(OWN) and f"=={installed[name]} " not in block.splitlines()[0] + " "


def main() -> None:
    """Print the blocks of the lock whose distribution is not installed, or is another DALI."""
    installed = list_installed()
    for name, block in split_lock(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if lacks(name, block, installed):
            print(block)


if __name__ == "__main__":
    main()
