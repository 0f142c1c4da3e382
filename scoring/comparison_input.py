"""Opens what is compared: a folder of logs, or a response package, and scores it."""

from __future__ import annotations

from pathlib import Path

from scoring.exits import InputError
from scoring.package.layout import (
    MANIFEST_FILE,
    ManifestError,
    locate_description,
    locate_results,
    parse_manifest,
)
from scoring.package.reading import OpenedPackage, open_package
from scoring.profile import Profile
from scoring.rules import BENCHMARKS
from scoring.score import Score, score_folder
from scoring.submission import SYSTEM_FILE, SYSTEM_LIMIT_BYTES


def score_side(path: Path, ruleset: str, profile: Profile, use_window: bool) -> Score:
    """Score a folder that holds resnet/ or bert/, or the results of a package.

    A package that was made with --window is judged so. Raises InputError for what is neither, and
    for a package with no results or those of several systems.
    """
    if not path.exists():
        raise InputError(f"{path}: no such folder or package")
    if path.is_dir() and any((path / benchmark).exists() for benchmark in BENCHMARKS):
        return score_folder(path, ruleset, profile, use_window)
    with open_package(path) as package:
        folder = _find_results(path, package)
        use_window = use_window or _says_window(package)
        return score_folder(folder, ruleset, profile, use_window)


def _find_results(path: Path, package: OpenedPackage) -> Path:
    """Find the one system's results, and lay its description beside them."""
    logs = [name.split("/") for name in package.files if name.startswith("results/")]
    systems = sorted({parts[1] for parts in logs if len(parts) == 4 and parts[2] in BENCHMARKS})
    if not systems:
        raise InputError(
            f"{path}: holds no results/<system>/<benchmark>/: give a package or a folder of logs"
        )
    if len(systems) > 1:
        raise InputError(
            f"{path}: holds the results of {', '.join(systems)}: compare one system at a time"
        )
    folder = package.folder / locate_results(systems[0])
    description = locate_description(systems[0])
    if description in package.files:
        # The package was unpacked into a private folder: nothing of the user's is written to.
        content = package.read(description, SYSTEM_LIMIT_BYTES)
        (folder / SYSTEM_FILE).write_bytes(content)
    return folder


def _says_window(package: OpenedPackage) -> bool:
    if MANIFEST_FILE not in package.files:
        return False
    try:
        return parse_manifest(package.read(MANIFEST_FILE)).window
    except ManifestError:
        # That the manifest is broken is for `verify` to say; the logs can be compared without.
        return False
