"""What speaks against packaging a campaign, and what its maker should know all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scoring.exits import InputError
from scoring.findings import ERROR, WARNING, Finding
from scoring.package import agreement
from scoring.package.campaign import RECORD
from scoring.package.description import check_description
from scoring.package.order import DEMONSTRATION_MEND, Order, Parts
from scoring.package.reading import open_package
from scoring.package.verification import verify_package
from scoring.prose import locate
from scoring.score import Score


def list_reasons(order: Order, parts: Parts, score: Score) -> list[str]:
    """List every reason why a package of these parts would not verify, a sentence each."""
    reasons = list(parts.campaign.faults)
    findings = _list_findings(order, parts, score)
    if any(finding.rule == "demonstration" for finding in findings):
        return [DEMONSTRATION_MEND]
    reasons += dict.fromkeys(_show(f) for f in findings if f.severity == ERROR)
    system, files = parts.system, parts.source.files
    runs = {name: verdict.result.runs for name, verdict in score.verdicts.items()}
    reasons += agreement.check_nodes(system, order.profile)
    reasons += agreement.check_logs(runs, system, parts.source_sha256)
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


def verify_finished(order: Order, place: Path) -> list[str]:
    """Examine the finished package as its reviewer will; give the errors found.

    place: where it stands until it gets its name.
    """
    try:
        with open_package(place) as package:
            findings = verify_package(package, order.ruleset, order.profile, None).findings
    except InputError as error:
        return [str(error).replace(str(place), str(order.output))]
    return [_show(finding) for finding in findings if finding.severity == ERROR]


def list_remarks(order: Order, parts: Parts, score: Score) -> Iterator[str]:
    """Say what a reviewer will see, and what was not packaged."""
    for finding in _list_findings(order, parts, score):
        if finding.severity == WARNING:
            yield f"warning: {_show(finding)}"
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


def _list_findings(order: Order, parts: Parts, score: Score) -> list[Finding]:
    """List the findings of the score and of the system description."""
    system = parts.system
    described = check_description(
        parts.description, order.profile, system, system.organization, system.status
    )
    return [*score.findings, *described]


def _show(finding: Finding) -> str:
    place = locate(finding)
    words = f"{place}: {finding.message}" if place else finding.message
    return f"{finding.rule}: {words}"
