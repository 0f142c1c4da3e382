"""Examines a response package: everything is derived anew from the logs and compared.

The steps stand in the order in which a reviewer asks: is it whole, what is it worth, is that what
was claimed, was it made with what was delivered, and on the machine that is described.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.exits import InputError
from scoring.findings import ERROR, Finding, sort_findings
from scoring.package.call_sites import check_call_sites
from scoring.package.claim import check_claim, check_profile, check_score, describe_claim
from scoring.package.configuration import check_configurations, parse_configuration
from scoring.package.contents import check_files
from scoring.package.examination import Check, Material, Part, parse_object, read_part
from scoring.package.hardware import check_nodes, check_speed, check_system_description
from scoring.package.image import check_image
from scoring.package.layout import (
    MANIFEST_FILE,
    SCORE_FILE,
    Manifest,
    get_log_number,
    is_system_name,
    locate_description,
    locate_results,
    locate_source,
    parse_manifest,
)
from scoring.package.reading import OpenedPackage
from scoring.package.records import check_campaign, check_sources, check_system_file
from scoring.package.system_file import SystemFile, parse_system_file
from scoring.profile import Profile
from scoring.rules import BENCHMARKS
from scoring.score import Score, score_folder
from scoring.submission import SYSTEM_FILE

SCHEMA = 1
UNKNOWN_SYSTEM = "unknown"
# Logs of this kit have a few hundred lines. Parsed, a line takes some forty times its size.
LOG_LIMIT_BYTES = 4 << 20
LOGS_LIMIT_BYTES = 12 << 20


@dataclass(frozen=True)
class Verification:
    """An examined package."""

    material: Material
    checks: tuple[Check, ...]

    @property
    def findings(self) -> list[Finding]:
        """Give the findings of all steps and of the score, worst first."""
        score = self.material.score.value
        own = [finding for check in self.checks for finding in check.findings]
        return sort_findings([*own, *(score.findings if score else [])])

    @property
    def valid(self) -> bool:
        """Say whether no finding is an error."""
        return not any(finding.severity == ERROR for finding in self.findings)

    @property
    def submitter(self) -> str:
        """Give the submitter's name as the package states it."""
        manifest = self.material.manifest.value
        return manifest.submitter if manifest else self.material.package.submitter_folder

    def describe(self) -> dict[str, Any]:
        """Give the verification as one document."""
        score = self.material.score.value
        return {
            "schema": SCHEMA,
            "valid": self.valid,
            "profile": self.material.profile.name,
            "demonstration": self.material.profile.demonstration,
            "submitter": self.submitter,
            "system": self.material.system,
            "claim": describe_claim(self.material.claim.value),
            "score": score.describe() if score else None,
            "checks": [check.describe() for check in self.checks],
            "findings": [finding.describe() for finding in self.findings],
        }


def verify_package(
    package: OpenedPackage, ruleset: str, profile: Profile, rebuilt_image: dict[str, Any] | None
) -> Verification:
    """Examine an opened package. What is wrong with it becomes findings, never an exception.

    rebuilt_image: the manifest of an image that the reviewer built. Raises InputError where the
    examination itself cannot be made.
    """
    material = _gather(package, ruleset, profile)
    checks = (
        check_profile(material),
        check_files(material),
        check_score(material),
        check_claim(material),
        check_sources(material),
        check_call_sites(material),
        check_configurations(material),
        check_system_file(material),
        check_campaign(material),
        check_nodes(material),
        check_system_description(material),
        check_image(material, rebuilt_image),
        check_speed(material),
    )
    return Verification(material, checks)


def _gather(package: OpenedPackage, ruleset: str, profile: Profile) -> Material:
    """Read the parts of a package, as far as they can be read."""
    manifest = read_part(package, MANIFEST_FILE, parse_manifest)
    system = manifest.value.system if manifest.value else _guess_system(package)
    system_file = _read_system_file(package, system, manifest.value)
    use_window = manifest.value.window if manifest.value else False
    score, refused_logs = _derive_score(package, system, ruleset, profile, use_window)
    return Material(
        package=package,
        profile=profile,
        ruleset=ruleset,
        manifest=manifest,
        system=system,
        score=score,
        claim=read_part(package, SCORE_FILE, parse_object),
        description=read_part(package, locate_description(system), parse_object),
        system_file=system_file,
        configurations=_read_configurations(package, system, system_file.value),
        refused_logs=refused_logs,
    )


def _guess_system(package: OpenedPackage) -> str:
    """Give the system of a package without a manifest: the name of its only folder of results."""
    paths = (path.split("/") for path in package.files)
    names = {parts[1] for parts in paths if parts[0] == "results" and len(parts) > 2}
    name = names.pop() if len(names) == 1 else ""
    return name if is_system_name(name) else UNKNOWN_SYSTEM


def _read_system_file(
    package: OpenedPackage, system: str, manifest: Manifest | None
) -> Part[SystemFile]:
    name = manifest.system_file if manifest else f"systems/{system}.toml"
    path = f"{locate_source(system, BENCHMARKS[0])}/{name}"
    return read_part(package, path, lambda text: parse_system_file(text, name.rsplit("/", 1)[-1]))


def _read_configurations(
    package: OpenedPackage, system: str, system_file: SystemFile | None
) -> dict[str, Part[dict[str, Any]]]:
    """Read the configurations that the system file names: those are what the trainers read."""
    if system_file is None:
        return {name: Part(None, "the system file cannot be read") for name in BENCHMARKS}
    return {
        name: read_part(
            package,
            f"{locate_source(system, name)}/{system_file.configurations[name]}",
            parse_configuration,
        )
        for name in BENCHMARKS
    }


def _derive_score(
    package: OpenedPackage, system: str, ruleset: str, profile: Profile, use_window: bool
) -> tuple[Part[Score], tuple[Finding, ...]]:
    """Score the package's logs and description, laid out as a campaign's folder is."""
    logs, refused = _choose_logs(package, system)
    if not logs:
        return Part(None, f"{locate_results(system)} holds no logs that can be scored"), refused
    with tempfile.TemporaryDirectory(dir=package.private) as place:
        folder = Path(place) / system
        for path in logs:
            target = folder / path.removeprefix(f"{locate_results(system)}/")
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(package.folder / path, target)
        if locate_description(system) in package.files:
            os.link(package.folder / locate_description(system), folder / SYSTEM_FILE)
        try:
            return Part(score_folder(folder, ruleset, profile, use_window)), refused
        except InputError as error:
            problem = str(error).replace(str(folder), locate_results(system))
            return Part(None, problem), refused


def _choose_logs(package: OpenedPackage, system: str) -> tuple[list[str], tuple[Finding, ...]]:
    """Choose the logs that are small enough to be logs of this kit."""
    chosen, refused, total = [], [], 0
    for benchmark in BENCHMARKS:
        prefix = f"{locate_results(system)}/{benchmark}/"
        names = [path.removeprefix(prefix) for path in package.files if path.startswith(prefix)]
        for name in sorted(name for name in names if get_log_number(name) is not None):
            size = package.files[prefix + name].bytes
            total += size
            if size <= LOG_LIMIT_BYTES and total <= LOGS_LIMIT_BYTES:
                chosen.append(prefix + name)
                continue
            total -= size
            message = (
                f"{size / 1e6:.1f} MB: a log of this kit has some 0.1; beyond "
                f"{LOG_LIMIT_BYTES >> 20} MiB, or {LOGS_LIMIT_BYTES >> 20} in all, none is read"
            )
            refused.append(Finding("log-too-large", message, benchmark, f"{benchmark}/{name}"))
    return chosen, tuple(refused)
