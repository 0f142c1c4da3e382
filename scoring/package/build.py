"""Makes a response package of a finished campaign; refuses one that would not verify."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scoring.exits import InputError
from scoring.findings import ERROR, WARNING, Finding
from scoring.log import FILE_LIMIT_BYTES, LineError, read_bounded
from scoring.package import agreement
from scoring.package.archive_writer import write_archive
from scoring.package.campaign import RECORD, CampaignFolder, find_campaign
from scoring.package.description import (
    FILE,
    check_description,
    read_description,
    write_description,
)
from scoring.package.draft import draft_description
from scoring.package.layout import (
    CAMPAIGN_FILE,
    IMAGE_MANIFEST_FILE,
    MANIFEST_FILE,
    OUTPUT_FOLDER,
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
from scoring.package.machine import read_machine
from scoring.package.readme import Facts, write_readme
from scoring.package.source import ROOT, Source, hash_benchmark_sources, read_source
from scoring.package.stage import Stage
from scoring.package.system_file import SystemFile, read_system_file
from scoring.profile import Profile
from scoring.prose import locate
from scoring.rules import BENCHMARKS
from scoring.score import Score, score_folder

IMAGE_MANIFEST_LIMIT_BYTES = 32 << 20
RECORD_LIMIT_BYTES = 1 << 20
DEMONSTRATION_MEND = (
    "these are results of the demonstration, which are no submission: --rfp demo packages them, "
    "marked as what they are"
)


class RefusalError(Exception):
    """A campaign that would not verify: `reasons`, one sentence each."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


@dataclass(frozen=True)
class Order:
    """What is to be packaged, and by which rules. source: the kit's root; say: takes progress."""

    results: Path
    system: Path
    output: Path
    profile: Profile
    ruleset: str
    window: bool
    description: Path | None
    image_manifest: Path | None
    source: Path = ROOT
    say: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Built:
    """The package made; remarks: what its maker should know, a line each."""

    manifest: Manifest
    score: Score
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class _Parts:
    """All that goes into a package, before anything is written."""

    system: SystemFile
    campaign: CampaignFolder
    source: Source
    description: dict[str, Any]
    record: bytes | None
    image_manifest: bytes | None


def build_package(order: Order) -> Built:
    """Make the package `order.output`, whole or not at all.

    Raises InputError where something given cannot be used, and RefusalError where the package would
    not verify.
    """
    form = _check_output(order.output)
    parts = _gather(order)
    # The temporary folder stands beside the output, so that giving it its name is one step.
    prefix, parent = f".{order.output.name}.", order.output.parent
    try:
        with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as temporary:
            return _build_in(Path(temporary), order, parts, form)
    except OSError as error:
        # What is read has been read: only writing is left to fail.
        reason = f"{error.strerror}: nothing was written"
        raise InputError(f"--output {order.output}: {reason}") from None


def _build_in(temporary: Path, order: Order, parts: _Parts, form: str) -> Built:
    place = temporary / "package"
    stage = Stage(place / make_folder_name(parts.system.organization))
    score = _stage_results(order, parts, stage)
    hashes = hash_benchmark_sources(parts.source.files)
    findings = _check_description(order, parts)
    reasons = _list_reasons(order, parts, score, findings, hashes)
    if reasons:
        raise RefusalError(reasons)
    manifest = _stage_rest(order, parts, stage, score, hashes)
    order.say(f"writing {order.output}")
    if form != "folder":
        place = temporary / "archive"
        write_archive(stage, form, place)
    _check_output(order.output)
    place.rename(order.output)
    return Built(manifest, score, tuple(_list_remarks(order, parts, score, findings)))


def _check_output(output: Path) -> str:
    """Give the form of the package to write. Raises InputError where it cannot be written."""
    form = get_format(output)
    if os.path.lexists(output):
        raise InputError(f"--output {output} is there already: remove it or name another")
    if not output.parent.is_dir():
        raise InputError(f"--output {output}: no such folder: make {output.parent} first")
    return form


# -- what goes in -----------------------------------------------------------------------------


def _gather(order: Order) -> _Parts:
    system, content = read_system_file(order.system)
    if system.one_machine and not order.profile.demonstration:
        raise RefusalError([DEMONSTRATION_MEND])
    campaign = find_campaign(order.results, system.name)
    source = _add_system_file(read_source(order.source), system, content)
    record = None
    if campaign.has_record:
        record = _read(campaign.folder / RECORD, campaign.folder, RECORD_LIMIT_BYTES)
    image_manifest = None
    if order.image_manifest:
        place = order.image_manifest.absolute()
        image_manifest = _read(place, place.resolve().parent, IMAGE_MANIFEST_LIMIT_BYTES)
    description = _choose_description(order, system, campaign)
    return _Parts(system, campaign, source, description, record, image_manifest)


def _read(path: Path, root: Path, limit_bytes: int) -> bytes:
    try:
        return read_bounded(path, root, limit_bytes)
    except LineError as error:
        raise InputError(f"{path} {error}") from None


def _add_system_file(source: Source, system: SystemFile, content: bytes) -> Source:
    """Deliver the system file in the source, wherever it was given from."""
    path = f"systems/{system.name}.toml"
    if source.files.get(path, content) != content:
        raise InputError(
            f"--system: the kit holds another {path}: rename one of the two, so that the package "
            f"says which was run"
        )
    return Source({**source.files, path: content}, source.left_out)


def _choose_description(
    order: Order, system: SystemFile, campaign: CampaignFolder
) -> dict[str, Any]:
    path = order.description or campaign.folder / FILE
    if order.description or os.path.lexists(path):
        return read_description(path)
    if order.profile.demonstration:
        return dict(draft_description(system, read_machine()).description)
    raise InputError(
        f"{path}: no system description: draft one on a node of the system with 'python -m scoring "
        f"describe --system {order.system} --output {path}', and fill in what it leaves empty"
    )


def _stage_results(order: Order, parts: _Parts, stage: Stage) -> Score:
    """Put the logs in place and score them there, beside the description as DIR/system.json."""
    system, campaign = parts.system.name, parts.campaign
    for benchmark, names in campaign.logs.items():
        for name in names:
            content = _read(campaign.folder / benchmark / name, campaign.folder, FILE_LIMIT_BYTES)
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


def _stage_rest(
    order: Order, parts: _Parts, stage: Stage, score: Score, hashes: dict[str, str]
) -> Manifest:
    system = parts.system.name
    for benchmark in BENCHMARKS:
        for path, content in parts.source.files.items():
            stage.add(f"{locate_source(system, benchmark)}/{path}", content)
    if parts.record is not None:
        stage.add(CAMPAIGN_FILE, parts.record)
    for output in parts.campaign.outputs:
        folder = parts.campaign.folder
        content = _read(folder / output, folder, FILE_LIMIT_BYTES)
        stage.add(f"{OUTPUT_FOLDER}/{Path(output).name}", content)
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
        source_sha256=hashes,
        files={},
    )
    facts = Facts(manifest, score, stage.folder.name, frozenset(stage.entries))
    stage.add(README_FILE, write_readme(facts).encode())
    manifest = replace(manifest, files=dict(stage.entries))
    stage.add(MANIFEST_FILE, write_manifest(manifest))
    return manifest


def _describe_image(order: Order, parts: _Parts) -> Image:
    """Identify the image: by the digest in its reference, or the SHA-256 of the file it is."""
    reference, digest = parts.system.image, ""
    named = re.search(r"@(sha256:[0-9a-f]{64})$", reference, re.ASCII)
    if named:
        digest = named.group(1)
    elif reference and Path(reference).is_file():
        order.say(f"hashing the image {reference}")
        digest = f"sha256:{_hash_file(Path(reference))}"
    manifest = parts.image_manifest
    return Image(reference, digest, agreement.hash_bytes(manifest) if manifest else None)


def _hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# -- what speaks against it -------------------------------------------------------------------


def _check_description(order: Order, parts: _Parts) -> list[Finding]:
    system = parts.system
    return check_description(
        parts.description, order.profile, system, system.organization, system.status
    )


def _list_reasons(
    order: Order,
    parts: _Parts,
    score: Score,
    findings: list[Finding],
    hashes: dict[str, str],
) -> list[str]:
    """List every reason why the package would not verify."""
    reasons = list(parts.campaign.faults)
    errors = [f for f in (*score.findings, *findings) if f.severity == ERROR]
    if any(f.rule == "demonstration" for f in errors):
        return [DEMONSTRATION_MEND]
    reasons += dict.fromkeys(f"{f.rule}: {locate(f)}: {f.message}" for f in errors)
    system, files = parts.system, parts.source.files
    runs = {name: verdict.result.runs for name, verdict in score.verdicts.items()}
    reasons += agreement.check_nodes(system, order.profile)
    reasons += agreement.check_logs(runs, system, hashes)
    configurations = set(system.configurations.values())
    for path in sorted(configurations - set(files)):
        reasons.append(f"the system file names {path}, which is not in the source delivered")
    if parts.record is not None:
        named = {f"{system.name}.toml": files[f"systems/{system.name}.toml"]}
        named.update({path: files[path] for path in sorted(configurations & set(files))})
        digests = {name: agreement.hash_bytes(content) for name, content in named.items()}
        reasons += agreement.check_record(parts.record, digests)
    if parts.image_manifest is not None:
        reasons += agreement.check_image_manifest(parts.image_manifest)
    return reasons


def _list_remarks(
    order: Order, parts: _Parts, score: Score, findings: list[Finding]
) -> Iterator[str]:
    """Say what a reviewer will see, and what was not packaged."""
    for finding in (*score.findings, *findings):
        if finding.severity == WARNING:
            yield f"warning: {finding.rule}: {locate(finding)}: {finding.message}"
    if parts.record is None:
        yield f"note: the campaign's folder has no {RECORD}: nothing shows that the settings stayed"
    for name in parts.campaign.unfinished:
        yield f"note: {name}: a run that was begun and has not finished: it is not in the package"
    left_out = parts.source.left_out
    if left_out:
        shown = ", ".join(left_out[:3]) + (" ..." if len(left_out) > 3 else "")
        yield f"note: {len(left_out)} files of the kit are not of a kind that is delivered: {shown}"
    if parts.system.image and parts.image_manifest is None:
        yield "note: no --image-manifest: a reviewer cannot compare an image built again with yours"
