"""The layout of a response package: the paths in it, the names allowed, and its manifest.

Both who makes a package and who examines it read this. A package is a folder, .tar, .tar.gz, .tgz
or .zip that holds one folder, the submitter's. Source of the layout: the result repositories of
MLPerf Training (systems/, benchmarks/, results/), with a manifest and the campaign's records added.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.exits import InputError
from scoring.findings import quote
from scoring.log import LineError, parse_json
from scoring.rules import BENCHMARKS

SCHEMA = 1
MANIFEST_FILE = "package.json"
README_FILE = "README.md"
SCORE_FILE = "score.json"
REPORT_FILE = "report.html"
CAMPAIGN_FOLDER = "campaign"
CAMPAIGN_FILE = f"{CAMPAIGN_FOLDER}/campaign.json"
OUTPUT_FOLDER = f"{CAMPAIGN_FOLDER}/output"
FAILED_FOLDER = f"{CAMPAIGN_FOLDER}/failed"
IMAGE_MANIFEST_FILE = "image/manifest.json"
# One of an image with 600 packages and 900 files of the kit has some 0.1 MB.
IMAGE_MANIFEST_LIMIT_BYTES = 1 << 20

PATH_LIMIT = 240
# A name as git, tar, zip and any file system take it: no blank, no leading dot or dash.
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,126}", re.ASCII)
_SYSTEM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
_LOG_NAME = re.compile(r"result_(0|[1-9]\d{0,5})\.txt", re.ASCII)
_FAILED_NAME = re.compile(r"(resnet|bert)_\d{1,6}_\d{1,6}\.(json|txt|output\.txt)", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ARCHIVES = {".tar": "tar", ".tar.gz": "tar.gz", ".tgz": "tar.gz", ".zip": "zip"}
_OTHER_ARCHIVES = (".gz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".tbz2", ".txz", ".tzst")


class ManifestError(ValueError):
    """A manifest that cannot be used: one sentence that names the key."""


@dataclass(frozen=True)
class FileEntry:
    """One file of the package: its SHA-256 in hex and its size in bytes."""

    sha256: str
    bytes: int


@dataclass(frozen=True)
class Image:
    """The container image the runs used; empty texts where ranks ran without one."""

    reference: str
    digest: str
    manifest_sha256: str | None


@dataclass(frozen=True)
class Manifest:
    """What package.json says of the package.

    kit: version of the kit. system_file and configurations: paths inside the delivered source.
    source_sha256: by benchmark, over the folders harness and the benchmark's. files: every file of
    the package but package.json, by its path below the submitter's folder.
    """

    kit: str
    profile: str
    ruleset: str
    window: bool
    submitter: str
    system: str
    system_file: str
    configurations: dict[str, str]
    image: Image
    source_sha256: dict[str, str]
    files: dict[str, FileEntry]


# -- paths and names --------------------------------------------------------------------------


def locate_description(system: str) -> str:
    """Give the path of the MLPerf system description."""
    return f"systems/{system}.json"


def locate_source(system: str, benchmark: str) -> str:
    """Give the folder of the source delivered for a benchmark."""
    return f"benchmarks/{benchmark}/implementations/{system}"


def locate_results(system: str) -> str:
    """Give the folder that holds resnet/ and bert/ with the logs."""
    return f"results/{system}"


def locate_log(system: str, benchmark: str, name: str) -> str:
    """Give the path of one run's log."""
    return f"{locate_results(system)}/{benchmark}/{name}"


def is_package_path(text: str) -> bool:
    """Say whether a text is a path that a package may hold: relative, plain names, not too long."""
    return len(text) <= PATH_LIMIT and all(_SEGMENT.fullmatch(part) for part in text.split("/"))


def is_system_name(text: str) -> bool:
    """Say whether a text can be a system's name, as the system files have them."""
    return bool(_SYSTEM_NAME.fullmatch(text))


def is_failed_name(name: str) -> bool:
    """Say whether a name is a failed attempt's: of its record, its log, or what ranks wrote."""
    return bool(_FAILED_NAME.fullmatch(name))


def get_log_number(name: str) -> int | None:
    """Give n of result_<n>.txt; None for any other name, leading zeros included."""
    match = _LOG_NAME.fullmatch(name)
    return int(match.group(1)) if match else None


def make_folder_name(submitter: str) -> str:
    """Make the name of the package's folder of a submitter's name.

    What a path must not hold becomes "_". Raises InputError for a name of several lines, with
    control characters, or of which nothing is left.
    """
    if not submitter.isprintable():
        raise InputError(
            f"the submitter's name {quote(submitter)} holds a line end or a control character: "
            f"give it as one printable line"
        )
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", submitter).lstrip("._+-").rstrip("_")[:100]
    if not name:
        raise InputError(
            f"the submitter's name {quote(submitter)} holds no letter or digit of ASCII, of which "
            f"the package's folder could be named"
        )
    return name


def get_format(path: Path) -> str:
    """Give a package's form by its name's suffix: "tar", "tar.gz", "zip", else "folder".

    Raises InputError for the suffix of an archive that is not made here.
    """
    name = path.name.lower()
    for suffix, form in _ARCHIVES.items():
        if name.endswith(suffix):
            return form
    if name.endswith(_OTHER_ARCHIVES):
        raise InputError(f"{path}: a package is a folder, .tar, .tar.gz, .tgz or .zip")
    return "folder"


# -- the manifest -----------------------------------------------------------------------------


def write_manifest(manifest: Manifest) -> bytes:
    """Write a manifest as the JSON of package.json; the same manifest gives the same bytes."""
    document = {"schema": SCHEMA, **vars(manifest)}
    document["image"] = vars(manifest.image)
    document["files"] = {path: vars(entry) for path, entry in sorted(manifest.files.items())}
    return f"{json.dumps(document, indent=1)}\n".encode("ascii")


def parse_manifest(content: bytes) -> Manifest:
    """Read package.json strictly: every key there, none unknown, every value of its kind.

    Raises ManifestError with one sentence that names the key.
    """
    try:
        document = parse_json(content)
    except LineError as error:
        raise ManifestError(str(error)) from None
    table = _take_table(document, "", ("schema", *Manifest.__annotations__))
    schema = table.pop("schema")
    if isinstance(schema, bool) or schema != SCHEMA:
        raise ManifestError(f"'schema' is {quote(schema)}; {SCHEMA} is the one known here")
    for key in ("kit", "profile", "ruleset", "submitter", "system"):
        _take_text(table[key], key)
    if not is_system_name(table["system"]):
        raise ManifestError(f"'system' {quote(table['system'])} is no system's name")
    if not isinstance(table["window"], bool):
        raise ManifestError("'window' must be true or false")
    _take_path(table["system_file"], "system_file")
    for name, path in _take_table(table["configurations"], "configurations.", BENCHMARKS).items():
        _take_path(path, f"configurations.{name}")
    for name, digest in _take_table(table["source_sha256"], "source_sha256.", BENCHMARKS).items():
        _take_sha256(digest, f"source_sha256.{name}")
    table["image"] = _parse_image(table["image"])
    table["files"] = _parse_files(table["files"])
    return Manifest(**table)


def _parse_image(value: Any) -> Image:
    table = _take_table(value, "image.", tuple(Image.__annotations__))
    for key in ("reference", "digest"):
        _take_text(table[key], f"image.{key}")
    if table["manifest_sha256"] is not None:
        _take_sha256(table["manifest_sha256"], "image.manifest_sha256")
    return Image(**table)


def _parse_files(value: Any) -> dict[str, FileEntry]:
    if not isinstance(value, dict):
        raise ManifestError("'files' must be an object")
    files = {}
    for path, entry in value.items():
        key = f"files.{path}"
        _take_path(path, key)
        if path == MANIFEST_FILE:
            raise ManifestError(f"'files' lists {MANIFEST_FILE}, which cannot hold its own hash")
        table = _take_table(entry, f"{key}.", tuple(FileEntry.__annotations__))
        _take_sha256(table["sha256"], f"{key}.sha256")
        size = table["bytes"]
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ManifestError(f"{quote(f'{key}.bytes')} must be a whole number from 0 on")
        files[path] = FileEntry(**table)
    return files


def _take_table(value: Any, prefix: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """Check that a value is an object with exactly these keys, and copy it."""
    if not isinstance(value, dict):
        name = quote(prefix.rstrip(".")) if prefix else "the manifest"
        raise ManifestError(f"{name} must be an object")
    for key in (*keys, *value):
        if key not in value or key not in keys:
            state = "unknown" if key in value else "missing"
            raise ManifestError(f"key {quote(prefix + key)} is {state}")
    return dict(value)


def _take_text(value: Any, key: str) -> None:
    if not isinstance(value, str):
        raise ManifestError(f"{quote(key)} must be text")


def _take_path(value: Any, key: str) -> None:
    if not isinstance(value, str) or not is_package_path(value):
        raise ManifestError(f"{quote(key)}: {quote(value)} is no path that a package may hold")


def _take_sha256(value: Any, key: str) -> None:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ManifestError(f"{quote(key)} must be a SHA-256 in hex")
