"""What is to be packaged: the order, and all that it names, read before anything is written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.exits import InputError
from scoring.log import LineError, read_bounded, read_named
from scoring.package.campaign import RECORD, CampaignFolder, find_campaign
from scoring.package.description import FILE, read_description
from scoring.package.draft import draft_description
from scoring.package.layout import IMAGE_MANIFEST_LIMIT_BYTES
from scoring.package.machine import read_machine
from scoring.package.source import ROOT, Source, hash_benchmark_sources, read_source
from scoring.package.system_file import SystemFile, read_system_file
from scoring.profile import Profile

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
    """What is to be packaged, and by which rules.

    source: the root of the kit as it ran. verify: examine the finished package as its reviewer
    will. say: takes progress.
    """

    results: Path
    system: Path
    output: Path
    profile: Profile
    ruleset: str
    window: bool
    description: Path | None
    image_manifest: Path | None
    source: Path = ROOT
    verify: bool = False
    say: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Parts:
    """All that goes into a package, before anything is written.

    source_sha256: by benchmark, as its logs must carry it.
    """

    system: SystemFile
    campaign: CampaignFolder
    source: Source
    source_sha256: dict[str, str]
    description: dict[str, Any]
    record: bytes | None
    image_manifest: bytes | None


def gather(order: Order) -> Parts:
    """Read all that an order names.

    Raises InputError where something cannot be used, and RefusalError for a demonstration that is
    not ordered as one.
    """
    system, content = read_system_file(order.system)
    campaign = find_campaign(order.results, system.name)
    if system.one_machine and not order.profile.demonstration:
        raise RefusalError([DEMONSTRATION_MEND])
    source = _add_system_file(read_source(order.source), system, content)
    record = None
    if campaign.has_record:
        record = read_file(campaign.folder / RECORD, campaign.folder, RECORD_LIMIT_BYTES)
    image_manifest = None
    if order.image_manifest:
        try:
            image_manifest = read_named(order.image_manifest, IMAGE_MANIFEST_LIMIT_BYTES)
        except LineError as error:
            raise InputError(f"--image-manifest {order.image_manifest}: {error}") from None
    return Parts(
        system=system,
        campaign=campaign,
        source=source,
        source_sha256=hash_benchmark_sources(source.files),
        description=_choose_description(order, system, campaign),
        record=record,
        image_manifest=image_manifest,
    )


def read_file(path: Path, root: Path, limit_bytes: int) -> bytes:
    """Read a regular file below `root`. Raises InputError where it is none, or too large."""
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
