"""Makes a response package of a finished campaign; refuses one that would not verify."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from scoring.exits import InputError
from scoring.log import FILE_LIMIT_BYTES
from scoring.package.agreement import hash_bytes
from scoring.package.archive_writer import write_archive
from scoring.package.description import FILE, write_description
from scoring.package.layout import (
    CAMPAIGN_FILE,
    CAMPAIGN_FOLDER,
    IMAGE_MANIFEST_FILE,
    MANIFEST_FILE,
    README_FILE,
    REPORT_FILE,
    SCORE_FILE,
    Image,
    Manifest,
    get_format,
    locate_description,
    locate_log,
    locate_results,
    locate_source,
    make_folder_name,
    write_manifest,
)
from scoring.package.objections import list_reasons, list_remarks, verify_finished
from scoring.package.order import Order, Parts, RefusalError, gather, read_file
from scoring.package.readme import Facts, write_readme
from scoring.package.stage import Stage
from scoring.rules import BENCHMARKS
from scoring.score import Score, score_folder


@dataclass(frozen=True)
class Built:
    """The package made; remarks: what its maker should know, a line each."""

    manifest: Manifest
    score: Score
    remarks: tuple[str, ...]


def build_package(order: Order) -> Built:
    """Make the package `order.output`, whole or not at all.

    Raises InputError where something given cannot be used, and RefusalError where the package would
    not verify.
    """
    form = _check_output(order.output)
    parts = gather(order)
    if not any(parts.campaign.logs.values()):
        raise RefusalError(list(parts.campaign.faults))
    # The temporary folder stands beside the output, so that giving it its name is one step.
    prefix, parent = f".{order.output.name}.", order.output.parent
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as temporary:
            return _build_in(Path(temporary), order, parts, form)
    except OSError as error:
        # Faults of reading have their own sentences: only writing is left to fail.
        reason = f"{error.strerror}: nothing was written"
        raise InputError(f"--output {order.output}: {reason}") from None


def _build_in(temporary: Path, order: Order, parts: Parts, form: str) -> Built:
    place = temporary / "package"
    stage = Stage(place / make_folder_name(parts.system.organization))
    score = _stage_results(order, parts, stage)
    if reasons := list_reasons(order, parts, score):
        raise RefusalError(reasons)
    manifest = _stage_rest(order, parts, stage, score)
    order.say(f"writing {order.output}")
    if form != "folder":
        place = temporary / "archive"
        write_archive(stage, form, place)
    if order.verify:
        order.say("verifying it")
        if reasons := verify_finished(order, place):
            raise RefusalError(reasons)
    _check_output(order.output)
    place.rename(order.output)
    return Built(manifest, score, tuple(list_remarks(order, parts, score)))


def _check_output(output: Path) -> str:
    """Give the form of the package to write. Raises InputError where it cannot be written."""
    form = get_format(output)
    if os.path.lexists(output):
        raise InputError(f"--output {output} is there already: remove it or name another")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: no such folder: make {output.parent} first")
    return form


def _stage_results(order: Order, parts: Parts, stage: Stage) -> Score:
    """Put the logs in place and score them there, beside the description as DIR/system.json."""
    system, campaign = parts.system.name, parts.campaign
    for benchmark, names in campaign.logs.items():
        for name in names:
            content = read_file(
                campaign.folder / benchmark / name, campaign.folder, FILE_LIMIT_BYTES
            )
            stage.add(locate_log(system, benchmark, name), content)
    description = write_description(parts.description)
    stage.add(locate_description(system), description)
    order.say(f"scoring {sum(map(len, campaign.logs.values()))} logs")
    results = stage.folder / locate_results(system)
    beside = results / FILE
    beside.write_bytes(description)
    score = score_folder(results, order.ruleset, order.profile, order.window)
    beside.unlink()
    return score


def _stage_rest(order: Order, parts: Parts, stage: Stage, score: Score) -> Manifest:
    system = parts.system.name
    for benchmark in BENCHMARKS:
        for path, content in parts.source.files.items():
            stage.add(f"{locate_source(system, benchmark)}/{path}", content)
    if parts.record is not None:
        stage.add(CAMPAIGN_FILE, parts.record)
    folder = parts.campaign.folder
    for name in (*parts.campaign.outputs, *parts.campaign.failed):
        stage.add(f"{CAMPAIGN_FOLDER}/{name}", read_file(folder / name, folder, FILE_LIMIT_BYTES))
    if parts.image_manifest is not None:
        stage.add(IMAGE_MANIFEST_FILE, parts.image_manifest)
    claim = json.dumps(score.describe(), indent=1, allow_nan=False)
    stage.add(SCORE_FILE, f"{claim}\n".encode())
    order.say("drawing the report")
    # Only here: drawing imports matplotlib, for which no refusal should wait.
    from scoring.report.page import write_page

    stage.add(REPORT_FILE, write_page(score).encode())
    manifest = Manifest(
        kit=parts.source.version,
        profile=order.profile.name,
        ruleset=order.ruleset,
        window=order.window,
        submitter=parts.system.organization,
        system=system,
        system_file=f"systems/{system}.toml",
        configurations=dict(parts.system.configurations),
        image=_describe_image(order, parts),
        source_sha256=parts.source_sha256,
        files={},
    )
    facts = Facts(manifest, score, stage.folder.name, frozenset(stage.entries))
    stage.add(README_FILE, write_readme(facts).encode())
    manifest = replace(manifest, files=dict(stage.entries))
    stage.add(MANIFEST_FILE, write_manifest(manifest))
    return manifest


def _describe_image(order: Order, parts: Parts) -> Image:
    """Identify the image: by the digest in its reference, or the SHA-256 of the file it is."""
    reference, digest = parts.system.image, ""
    named = re.search(r"@(sha256:[0-9a-f]{64})$", reference, re.ASCII)
    if named:
        digest = named.group(1)
    elif reference and Path(reference).is_file():
        order.say(f"hashing the image {reference}")
        digest = f"sha256:{_hash_file(Path(reference))}"
    manifest = parts.image_manifest
    return Image(reference, digest, hash_bytes(manifest) if manifest is not None else None)


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise InputError(f"the image {path} cannot be read: {error.strerror}") from None
    return digest.hexdigest()
