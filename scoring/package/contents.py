"""The step of a package's files: all that the manifest lists, byte for byte, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator

from scoring.findings import Finding, quote
from scoring.package.examination import Check, Material, conclude
from scoring.package.layout import (
    CAMPAIGN_FILE,
    FAILED_FOLDER,
    IMAGE_MANIFEST_FILE,
    MANIFEST_FILE,
    OUTPUT_FOLDER,
    README_FILE,
    REPORT_FILE,
    SCORE_FILE,
    Manifest,
    get_log_number,
    is_failed_name,
    locate_description,
    locate_results,
    locate_source,
    make_folder_name,
)
from scoring.package.source import NEEDED, is_delivered
from scoring.rules import BENCHMARKS

_SINGLE_FILES = (
    *(MANIFEST_FILE, README_FILE, REPORT_FILE, SCORE_FILE, CAMPAIGN_FILE, IMAGE_MANIFEST_FILE),
)
_NEEDED = (README_FILE, SCORE_FILE)


def check_files(material: Material) -> Check:
    """Compare every file with the manifest, and every path with the layout."""
    manifest = material.manifest.value
    if manifest is None:
        finding = Finding("package-manifest", f"{material.manifest.problem}", file=MANIFEST_FILE)
        return conclude("files", [finding], "")
    count = len(manifest.files)
    findings = [
        *_check_submitter(material, manifest),
        *_compare(material, manifest),
        *_check_places(material),
        *_check_sources(material),
        *_check_numbers(material),
    ]
    size = sum(entry.bytes for entry in manifest.files.values())
    good = (
        f"all {count} files ({size / 1e6:.1f} MB) are those of the manifest, and no other is there"
    )
    return conclude("files", findings, good)


def _check_submitter(material: Material, manifest: Manifest) -> Iterator[Finding]:
    folder = material.package.submitter_folder
    if folder != make_folder_name(manifest.submitter):
        message = f"the folder {quote(folder)} is not that of submitter {quote(manifest.submitter)}"
        yield Finding("package-manifest", message, file=MANIFEST_FILE)


def _compare(material: Material, manifest: Manifest) -> Iterator[Finding]:
    there = material.package.files
    for path, entry in manifest.files.items():
        if path not in there:
            yield Finding("package-files", "listed in the manifest, but not there", file=path)
        elif there[path] != entry:
            message = (
                f"changed since the manifest was written: {there[path].bytes} bytes with SHA-256 "
                f"{there[path].sha256[:16]}..., listed {entry.bytes} with {entry.sha256[:16]}..."
            )
            yield Finding("package-files", message, file=path)
    for path in there:
        if path not in manifest.files and path != MANIFEST_FILE:
            yield Finding("package-files", "there, but not listed in the manifest", file=path)


def _check_places(material: Material) -> Iterator[Finding]:
    for path in material.package.files:
        if not _has_place(path, material.system):
            message = "stands where the layout has no file: nothing below has looked at it"
            yield Finding("package-files", message, file=path)
    for path in (*_NEEDED, locate_description(material.system)):
        if path not in material.package.files:
            yield Finding("package-files", "a package needs this file", file=path)


def _check_sources(material: Material) -> Iterator[Finding]:
    """Report a source that lacks what a rerun needs, or holds what none of this kit holds."""
    for benchmark in BENCHMARKS:
        paths = material.list_source(benchmark)
        for path in paths:
            if not is_delivered(path):
                place = material.locate_source_file(benchmark, path)
                message = "no source of this kit holds such a file: remove it"
                yield Finding("package-files", message, benchmark, place)
        for name in NEEDED:
            if not any(path == name or path.startswith(f"{name}/") for path in paths):
                place = material.locate_source_file(benchmark, name)
                yield Finding(
                    "package-files", "a package needs this of the source", benchmark, place
                )


def _check_numbers(material: Material) -> Iterator[Finding]:
    """Report a number among the logs that is missing: a run may have been left out."""
    for benchmark in BENCHMARKS:
        folder = f"{locate_results(material.system)}/{benchmark}/"
        names = [path.removeprefix(folder) for path in material.package.files]
        numbers = {get_log_number(name) for name in names} - {None}
        missing = next((n for n in range(len(numbers)) if n not in numbers), None)
        if missing is not None:
            message = "missing, while there are later runs: every run's log belongs here"
            place = f"{folder}result_{missing}.txt"
            yield Finding("package-files", message, benchmark, place)


def _has_place(path: str, system: str) -> bool:
    """Say whether the layout has a place for a file."""
    if path in (*_SINGLE_FILES, locate_description(system)):
        return True
    folder, _, name = path.rpartition("/")
    if folder == OUTPUT_FOLDER:
        return name.endswith(".txt")
    if folder == FAILED_FOLDER:
        return is_failed_name(name)
    if folder in (f"{locate_results(system)}/{benchmark}" for benchmark in BENCHMARKS):
        return get_log_number(name) is not None
    return path.startswith(tuple(f"{locate_source(system, name)}/" for name in BENCHMARKS))
