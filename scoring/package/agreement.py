"""Do logs, system file, source and the campaign's record speak of one and the same campaign?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from scoring.findings import quote
from scoring.log import Event, LineError, parse_json
from scoring.package.system_file import SystemFile
from scoring.profile import Profile
from scoring.run import Run

SHOWN = 12


def check_logs(
    runs: Mapping[str, list[Run]], system: SystemFile, source_sha256: Mapping[str, str]
) -> Iterator[str]:
    """Compare what the logs say of submitter and source with what is delivered.

    Yields one sentence for each key and benchmark that differs, naming the first log and line.
    """
    words = {
        "submission_org": system.organization,
        "submission_platform": system.platform,
        "submission_status": system.status,
    }
    for benchmark, its in runs.items():
        for key, value in words.items():
            mend = f"the system file has {quote(value)}: name the one that was run"
            yield from _compare(its, key, value, mend)
        digest = source_sha256[benchmark]
        mend = f"the source here has {_shorten(digest)}: name the kit as it ran with --source"
        yield from _compare(its, "source_sha256", digest, mend)


def _shorten(value: Any) -> str:
    """Show the beginning of a hash, which is enough to tell two apart."""
    text = value if isinstance(value, str) and value.isalnum() else quote(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _compare(runs: list[Run], key: str, value: str, mend: str) -> Iterator[str]:
    wrong = [(run, event) for run in runs for event in _find_wrong(run, key, value)]
    if not wrong:
        return
    run, event = wrong[0]
    place = f"{run.name}:{event.line}" if event else run.name
    said = f"{key} is {quote(event.value, 40)}" if event else f"the log has no {key}"
    more = len({other.name for other, _ in wrong}) - 1
    others = f" (and {more} more logs)" if more else ""
    yield f"{place}: {said}, {mend}{others}"


def _find_wrong(run: Run, key: str, value: str) -> Iterator[Event | None]:
    """Give the lines with another value; None where the key is not logged at all."""
    events = run.get_events(key)
    if not events:
        yield None
    yield from (event for event in events if event.value != value)


def check_record(content: bytes, hashes: Mapping[str, str]) -> Iterator[str]:
    """Compare the campaign's record with the SHA-256 of the files delivered, by the names it uses.

    The record may hold more than these.
    """
    try:
        record = parse_json(content)
    except LineError as error:
        yield f"campaign.json: {error}"
        return
    if not isinstance(record, dict):
        yield "campaign.json: no JSON object"
        return
    for name, digest in hashes.items():
        recorded = record.get(name)
        if recorded is None:
            yield f"campaign.json: does not name {name}: name the system file that was run"
        elif recorded != digest:
            yield (
                f"campaign.json: {name} had SHA-256 {_shorten(recorded)} when the runs were made, "
                f"the file here has {_shorten(digest)}: deliver it as it ran"
            )


def check_nodes(system: SystemFile, profile: Profile) -> Iterator[str]:
    """Compare the system file's nodes with what the profile asks for."""
    if profile.nodes and system.nodes != profile.nodes:
        yield (
            f"the system file has {system.nodes} nodes, profile {profile.name} asks for "
            f"{profile.nodes}"
        )


def check_image_manifest(content: bytes) -> Iterator[str]:
    """Say what makes an image's manifest unreadable; its size has been bounded before."""
    try:
        manifest = json.loads(content)
    except (ValueError, RecursionError):
        yield "the image's manifest is no JSON"
        return
    if not isinstance(manifest, dict):
        yield "the image's manifest is no JSON object"


def hash_bytes(content: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(content).hexdigest()
