"""The step of the container image: what was delivered of it, and what a rebuilt one holds.

An image's manifest lists every package with its version and every file of the kit with its hash.
A reviewer builds the image again from the delivered recipe and compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scoring.findings import Finding, quote
from scoring.package.document import read_document
from scoring.package.examination import Check, Material, conclude, parse_object, read_part, skip
from scoring.package.layout import (
    IMAGE_MANIFEST_FILE,
    IMAGE_MANIFEST_LIMIT_BYTES,
    MANIFEST_FILE,
    Manifest,
)
from scoring.run import Run


def read_rebuilt_manifest(path: Path) -> dict[str, Any]:
    """Read the manifest of a rebuilt image. Raises InputError where it is no JSON object."""
    shown = f"--image-manifest {path}"
    return read_document(path, shown, IMAGE_MANIFEST_LIMIT_BYTES, "an image's manifest")


def check_image(material: Material, rebuilt: dict[str, Any] | None) -> Check:
    """Compare what package, system file and a rebuilt image say of the container image."""
    manifest, system = material.manifest.value, material.system_file.value
    if manifest is None:
        return skip("image", "the package's manifest cannot be read")
    findings = [*_check_words(material, manifest)]
    for run in material.all_runs:
        findings.extend(_check_run(run, manifest.image.manifest_sha256))
    delivered = IMAGE_MANIFEST_FILE in material.package.files
    if rebuilt is not None:
        findings.extend(_compare_rebuilt(material, rebuilt))
    if findings:
        return conclude("image", findings, "")
    if rebuilt is not None:
        return conclude("image", [], "the rebuilt image holds the same packages and files")
    if system and not system.image and not manifest.image.reference:
        return skip("image", "the runs were made without a container image")
    if not delivered:
        return skip("image", "the package holds no manifest of the image: none can be compared")
    return skip("image", "build the image again and give its manifest with --image-manifest")


def _check_words(material: Material, manifest: Manifest) -> Iterator[Finding]:
    """Compare the image's reference and the hash of its manifest with what is delivered."""
    system, image = material.system_file.value, manifest.image
    if system and image.reference != system.image:
        message = (
            f"the image is {quote(image.reference)} in the manifest, {quote(system.image)} in the "
            f"system file"
        )
        yield Finding("image-differs", message, file=MANIFEST_FILE)
    entry = material.package.files.get(IMAGE_MANIFEST_FILE)
    if (entry.sha256 if entry else None) != image.manifest_sha256:
        message = "the image's manifest is not the one whose hash the package states"
        yield Finding("image-differs", message, file=IMAGE_MANIFEST_FILE)


def _check_run(run: Run, stated: str | None) -> Iterator[Finding]:
    """Compare the hash that a run made of its own image's manifest with the package's."""
    for event in run.get_events("source_sha256"):
        logged = event.metadata.get("image_manifest_sha256")
        if logged is None and stated is not None:
            message = "the run was not made in an image with a manifest, but the package has one"
            yield run.remark("image-differs", message, event)
        elif logged is not None and stated is not None and logged != stated:
            message = f"the run's image had the manifest {quote(logged, 20)}, the package's is "
            yield run.remark("image-differs", f"{message}{quote(stated, 20)}", event)


def _compare_rebuilt(material: Material, rebuilt: dict[str, Any]) -> Iterator[Finding]:
    part = read_part(material.package, IMAGE_MANIFEST_FILE, parse_object)
    if part.value is None:
        yield Finding("image-differs", part.problem, file=IMAGE_MANIFEST_FILE)
        return
    for message in _list_differences(part.value, rebuilt, ""):
        yield Finding("image-differs", message, file=IMAGE_MANIFEST_FILE)


def _list_differences(delivered: Any, rebuilt: Any, place: str) -> Iterator[str]:
    """Describe each package, file or field in which two manifests differ."""
    if isinstance(delivered, dict) and isinstance(rebuilt, dict):
        for key in sorted({*delivered, *rebuilt}):
            inner = f"{place}.{key}" if place else key
            if key not in rebuilt:
                yield f"{quote(inner)} is in the delivered image only"
            elif key not in delivered:
                yield f"{quote(inner)} is in the rebuilt image only"
            else:
                yield from _list_differences(delivered[key], rebuilt[key], inner)
    elif json.dumps(delivered, sort_keys=True) != json.dumps(rebuilt, sort_keys=True):
        yield f"{quote(place)} is {quote(delivered)} as delivered, {quote(rebuilt)} rebuilt"
