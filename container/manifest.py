"""Writes what an image holds: every package with its version, every source file with its SHA-256.

python manifest.py KIT FOLDER writes FOLDER/manifest.json and FOLDER/packages.txt. Each run logs the
manifest's own SHA-256; a reviewer who builds the image again compares the two manifests. That of a
cuda image also says whose apex it has and what was built (FOLDER/apex.json, by build_apex.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path

SCHEMA = 1


def list_packages() -> dict[str, str]:
    """Name every distribution that can be imported, and its version; the first found counts."""
    packages: dict[str, str] = {}
    for found in metadata.distributions():
        packages.setdefault(found.metadata["Name"], found.version)
    return dict(sorted(packages.items(), key=lambda item: item[0].lower()))


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder, by its path there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def main() -> None:
    """Write both files."""
    kit, folder = Path(sys.argv[1]), Path(sys.argv[2])
    packages = list_packages()
    manifest = {
        "schema": SCHEMA,
        "base_image": os.environ.get("BASE_IMAGE", ""),
        "device": os.environ.get("DEVICE", "cuda"),
        "python": platform.python_version(),
        "packages": packages,
        "files": hash_files(kit),
    }
    if manifest["device"] == "cuda":
        manifest["apex"] = json.loads((folder / "apex.json").read_text(encoding="utf-8"))
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    lines = "".join(f"{name}=={version}\n" for name, version in packages.items())
    (folder / "packages.txt").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
