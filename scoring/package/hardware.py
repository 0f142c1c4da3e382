"""The steps of the machine: nodes and accelerators, the system description, the speed."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import Any

from scoring.audit.speed import compute_samples_per_second, find_published
from scoring.findings import Finding, quote
from scoring.package.description import check_description
from scoring.package.examination import PASSED, Check, Material, conclude, skip
from scoring.package.layout import locate_description
from scoring.package.system_file import SystemFile
from scoring.run import Run
from scoring.submission import Result, read_count

_NODES_KEY = "number_of_nodes"
_SPEED_RULES = ("implausible-throughput", "fast-run", "fast-stretch", "epoch-clock")


def check_nodes(material: Material) -> Check:
    """Compare nodes, hosts and ranks: profile, system file, description, and every log."""
    system, asked = material.system_file.value, material.profile.nodes
    if system is None:
        return skip("nodes", "the system file cannot be read")
    findings = []
    if asked and system.nodes != asked:
        message = f"the system file has {system.nodes} nodes; {asked} are asked for"
        findings.append(Finding("nodes-differ", message))
    described = read_count(material.description.value, _NODES_KEY)
    if described is not None and described != system.nodes:
        message = f"the description has {described} nodes, the system file {system.nodes}"
        findings.append(Finding("nodes-differ", message, file=_locate(material)))
    for run in material.all_runs:
        findings.extend(_check_run(material, system, run))
    ranks = system.nodes * system.ranks_per_node
    hosts = "one machine stands for them" if system.one_machine else "as many hosts in every log"
    good = f"{system.nodes} nodes ({hosts}) and {ranks} ranks, as the system file says"
    return conclude("nodes", findings, good)


def _locate(material: Material) -> str:
    return locate_description(material.system)


def _check_run(material: Material, system: SystemFile, run: Run) -> Iterator[Finding]:
    events = run.get_events(_NODES_KEY)
    if not events and run.log.events:
        yield run.remark("nodes-differ", f"the log has no {_NODES_KEY} with the run's hosts")
    for event in events:
        if isinstance(event.value, bool) or event.value != system.nodes:
            message = f"{_NODES_KEY} is {quote(event.value)}, the system file has {system.nodes}"
            yield run.remark("nodes-differ", message, event)
        hosts = _list_hosts(event.metadata.get("hosts"))
        wanted = 1 if system.one_machine and material.profile.demonstration else system.nodes
        if len(hosts) != wanted:
            message = f"{len(hosts)} hosts are listed ({_name(hosts)}), {wanted} expected"
            yield run.remark("nodes-differ", message, event)
        ranks, product = event.metadata.get("ranks"), system.nodes * system.ranks_per_node
        if isinstance(ranks, bool) or ranks != product:
            message = f"{quote(ranks)} ranks, the system file makes {product}"
            yield run.remark("nodes-differ", message, event)


def _list_hosts(value: Any) -> list[str]:
    """Give the distinct hosts of a list; case and blanks tell no two apart."""
    hosts = value if isinstance(value, list) else []
    return sorted({host.strip().lower() for host in hosts if isinstance(host, str)} - {""})


def _name(hosts: list[str]) -> str:
    shown = ", ".join(quote(host, 40) for host in hosts[:6])
    return f"{shown}, ..." if len(hosts) > 6 else shown or "none"


def check_system_description(material: Material) -> Check:
    """Check the MLPerf system description field by field."""
    description = material.description.value
    if description is None:
        finding = Finding("description", material.description.problem, file=_locate(material))
        return conclude("description", [finding], "")
    run = next((run for run in material.all_runs if run.get_text("submission_org")), None)
    findings = check_description(
        description,
        material.profile,
        material.system_file.value,
        run.get_text("submission_org") if run else None,
        run.get_text("submission_status") if run else None,
        _locate(material),
    )
    if description.get("system_name") != material.system:
        stated = quote(description.get("system_name"))
        message = f"system_name is {stated}, the package's system {material.system}"
        findings.append(Finding("description", message, file=_locate(material)))
    findings.extend(_check_framework(material, description))
    warnings = f", {len(findings)} warnings" if findings else ""
    return conclude("description", findings, f"its fields agree with logs and files{warnings}")


def _check_framework(material: Material, description: dict[str, Any]) -> Iterator[Finding]:
    """Look for torch's version, as the first log has it, in the description's framework."""
    framework = description.get("framework")
    for run in material.all_runs:
        event = run.get_last("source_sha256")
        torch = event.metadata.get("torch") if event else None
        if not isinstance(torch, str) or not isinstance(framework, str):
            continue
        if torch.partition("+")[0] not in framework:
            message = f"framework is {quote(framework)}, the logs ran with torch {quote(torch)}"
            yield Finding("framework-differs", message, file=_locate(material))
        return


def check_speed(material: Material) -> Check:
    """Compare samples per second and accelerator with the highest ever published."""
    score = material.score.value
    if score is None:
        return skip("speed", "there are no logs to take a speed from")
    if not material.profile.speed_checks:
        return skip("speed", f"profile {material.profile.name} does not judge speeds")
    found = [finding for finding in score.findings if finding.rule in _SPEED_RULES]
    words = [_compare_speed(result) for result in score.submission.results.values()]
    known = [text for text in words if text]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        # These are warnings: no figure proves a fraud, and no verdict is made without a person.
        return Check("speed", PASSED, f"a person must judge: {found[0].message}{more}")
    if len(known) < len(words):
        return skip("speed", "no published figure for the accelerator that the description names")
    return Check("speed", PASSED, "; ".join(known))


def _compare_speed(result: Result) -> str | None:
    name = (result.system or {}).get("accelerator_model_name")
    speeds = [s for run in result.runs if (s := compute_samples_per_second(run)) is not None]
    if not isinstance(name, str) or not result.accelerator_count or not speeds:
        return None
    published = find_published(name, result.benchmark)
    if published is None:
        return None
    speed = median(speeds) / result.accelerator_count
    return (
        f"{result.benchmark} {speed:.0f} samples/s per accelerator, "
        f"{100 * speed / published:.0f} % of the highest published"
    )
