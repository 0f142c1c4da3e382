"""What an examination of a package works with: its parts as far as they can be read, and its steps.

A part that is missing or broken stops the steps that need it and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from scoring.exits import InputError
from scoring.findings import ERROR, Finding
from scoring.log import LineError, parse_json
from scoring.package.layout import Manifest, ManifestError, locate_source
from scoring.package.reading import OpenedPackage
from scoring.package.system_file import SystemFile
from scoring.profile import Profile
from scoring.run import Run
from scoring.score import Score

T = TypeVar("T")

PASSED, FAILED, NOT_POSSIBLE = "passed", "failed", "not possible"
PART_LIMIT_BYTES = 1 << 20
FINDINGS_LIMIT = 20


@dataclass(frozen=True)
class Part(Generic[T]):
    """A part of a package as read: its value, or the problem in half a sentence."""

    value: T | None
    problem: str = ""


@dataclass(frozen=True)
class Check:
    """One step of the examination: its name, what came of it, one sentence, its findings."""

    name: str
    result: str
    message: str
    findings: tuple[Finding, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Give the step for the JSON document."""
        return {
            "name": self.name,
            "result": self.result,
            "message": self.message,
            "findings": len(self.findings),
        }


@dataclass(frozen=True)
class Material:
    """A package's parts. `system` is its system's name; `score` is derived from the logs alone."""

    package: OpenedPackage
    profile: Profile
    ruleset: str
    manifest: Part[Manifest]
    system: str
    score: Part[Score]
    claim: Part[dict[str, Any]]
    description: Part[dict[str, Any]]
    system_file: Part[SystemFile]
    configurations: dict[str, Part[dict[str, Any]]]
    refused_logs: tuple[Finding, ...]

    @property
    def runs(self) -> dict[str, list[Run]]:
        """Give the runs by benchmark, as far as the logs can be scored."""
        if self.score.value is None:
            return {}
        return {name: r.runs for name, r in self.score.value.submission.results.items()}

    @property
    def all_runs(self) -> list[Run]:
        """Give the runs of all benchmarks."""
        return [run for runs in self.runs.values() for run in runs]

    def list_source(self, benchmark: str) -> list[str]:
        """List the delivered source files of a benchmark by their paths from the kit's root."""
        prefix = f"{locate_source(self.system, benchmark)}/"
        names = (name for name in self.package.files if name.startswith(prefix))
        return sorted(name.removeprefix(prefix) for name in names)

    def locate_source_file(self, benchmark: str, path: str) -> str:
        """Give the package's path of a file of the delivered source."""
        return f"{locate_source(self.system, benchmark)}/{path}"


def read_part(
    package: OpenedPackage, path: str, parse: Callable[[bytes], T], limit: int = PART_LIMIT_BYTES
) -> Part[T]:
    """Read and parse one file of a package; what is wrong becomes the part's problem."""
    if path not in package.files:
        return Part(None, f"{path} is missing")
    if package.files[path].bytes > limit:
        return Part(None, f"{path} is larger than {limit >> 20} MiB")
    try:
        return Part(parse(package.read(path, limit)))
    except (LineError, ManifestError, InputError, ValueError, RecursionError) as error:
        text = str(error).replace("\n", " ") or "nested too deep"
        return Part(None, f"{path}: {text}")


def parse_object(content: bytes) -> dict[str, Any]:
    """Read a JSON object strictly. Raises LineError."""
    value = parse_json(content)
    if not isinstance(value, dict):
        raise LineError("no JSON object")
    return value


def conclude(name: str, findings: Iterable[Finding], good: str) -> Check:
    """Make a step of its findings: failed with the first error, else passed with `good`."""
    shown = limit_findings(list(findings))
    errors = [finding for finding in shown if finding.severity == ERROR]
    if not errors:
        return Check(name, PASSED, good, tuple(shown))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Check(name, FAILED, f"{errors[0].message}{more}", tuple(shown))


def skip(name: str, reason: str) -> Check:
    """Make a step that cannot be taken."""
    return Check(name, NOT_POSSIBLE, reason)


def limit_findings(findings: list[Finding]) -> list[Finding]:
    """Keep the first findings of a step and say how many more there are."""
    if len(findings) <= FINDINGS_LIMIT:
        return findings
    rest = findings[FINDINGS_LIMIT:]
    worst = next((finding for finding in rest if finding.severity == ERROR), rest[0])
    more = Finding(worst.rule, f"and {len(rest)} more findings of this step", worst.benchmark)
    return [*findings[:FINDINGS_LIMIT], more]
