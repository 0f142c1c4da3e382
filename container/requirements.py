"""Prints the part of a lock that this Python lacks: what an image must add to its base.

python3 requirements.py LOCK; standard library only, since it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path


def normalize(name: str) -> str:
    """Spell a distribution's name as PyPI compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def split_lock(text: str) -> list[tuple[str, str]]:
    """Split a lock into (name, its lines with version, marker and hashes), in order."""
    blocks = re.findall(r"^[A-Za-z0-9].*(?:\n[ \t]+.*)*", text, re.M)
    return [(normalize(re.split(r"[=<>!~ \[;]", block, maxsplit=1)[0]), block) for block in blocks]


def list_installed() -> set[str]:
    """Name the distributions that can be imported here."""
    names = (found.metadata["Name"] for found in metadata.distributions())
    return {normalize(name) for name in names if name}


def main() -> None:
    """Print the blocks of the lock whose distribution is not installed."""
    installed = list_installed()
    for name, block in split_lock(Path(sys.argv[1]).read_text(encoding="utf-8")):
        if name not in installed:
            print(block)


if __name__ == "__main__":
    main()
