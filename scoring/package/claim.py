"""The steps of the result itself: the score derived from the logs, and the claim beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from scoring.findings import ERROR, WARNING, Finding, quote
from scoring.package.examination import FAILED, Check, Material, conclude, skip
from scoring.package.layout import MANIFEST_FILE, SCORE_FILE
from scoring.prose import LETTERS, format_minutes, format_score
from scoring.rules import BENCHMARKS
from scoring.score import Score

RELATIVE_TOLERANCE = 1e-9
# The reviewer's version of mlperf-logging may be another; findings are compared apart.
_NOT_COMPARED = ("mlperf_logging", "findings")
_ABSENT = object()


def check_profile(material: Material) -> Check:
    """Compare what the package was made for with what it is judged by."""
    manifest, name = material.manifest.value, material.profile.name
    if manifest is None:
        return skip("profile", f"judged by profile {name}; the manifest cannot be read")
    findings = []
    if manifest.profile != name:
        mend = "; to look at a demonstration, verify with --rfp demo"
        message = (
            f"made for profile {quote(manifest.profile)}, judged by {quote(name)}"
            f"{mend if manifest.profile == 'demo' else ''}"
        )
        findings.append(Finding("package-profile", message, file=MANIFEST_FILE))
    if manifest.ruleset != material.ruleset:
        message = f"made for ruleset {quote(manifest.ruleset)}, judged by {material.ruleset}"
        findings.append(Finding("package-profile", message, file=MANIFEST_FILE))
    return conclude("profile", findings, f"profile {name}, ruleset {material.ruleset}")


def check_score(material: Material) -> Check:
    """Say what the logs alone are worth; both benchmarks must be there and valid."""
    findings = list(material.refused_logs)
    score = material.score.value
    if score is None:
        findings.append(Finding("benchmark-missing", material.score.problem))
        return conclude("score", findings, "")
    for benchmark in BENCHMARKS:
        if benchmark not in score.verdicts:
            message = f"no logs of {benchmark}: a score needs both benchmarks"
            findings.append(Finding("benchmark-missing", message, benchmark))
    manifest = material.manifest.value
    chosen = ", of the runs chosen among more than needed" if manifest and manifest.window else ""
    words = f"{_summarize(score)}{chosen}"
    check = conclude("score", findings, f"derived from the logs alone: {words}")
    if check.result != FAILED and not score.valid:
        errors = [finding for finding in score.findings if finding.severity == ERROR]
        message = f"{len(errors)} errors, first {errors[0].rule}: {errors[0].message}"
        return Check("score", FAILED, message, check.findings)
    return check


def _summarize(score: Score) -> str:
    figures = [
        f"{LETTERS[name]} = {format_minutes(verdict.latency_minutes)}"
        for name, verdict in score.verdicts.items()
    ]
    warnings = sum(finding.severity == WARNING for finding in score.findings)
    value = format_score(score.compute(normalized=False))
    return f"{', '.join(figures)}, score = {value}, {warnings} warnings"


def check_claim(material: Material) -> Check:
    """Compare the claimed score, number for number, with the derived one."""
    claim, score = material.claim.value, material.score.value
    if claim is None:
        finding = Finding("claim-differs", material.claim.problem, file=SCORE_FILE)
        return conclude("claim", [finding], "")
    if score is None:
        return skip("claim", "nothing was derived that the claim could be compared with")
    derived = score.describe()
    findings = [
        Finding("claim-differs", message, file=SCORE_FILE)
        for message in (
            *_compare(claim, derived, ""),
            *_compare_findings(claim.get("findings"), derived["findings"]),
        )
    ]
    count = sum(1 for _ in _list_numbers(derived))
    good = f"score.json agrees with the logs: all {count} numbers to 1e-9, and every finding"
    return conclude("claim", findings, good)


def _compare(claimed: Any, derived: Any, field: str) -> Iterator[str]:
    """Describe each field in which two documents differ."""
    if isinstance(claimed, dict) and isinstance(derived, dict):
        for key in sorted({*claimed, *derived}, key=str):
            if field or key not in _NOT_COMPARED:
                inner = f"{field}.{key}" if field else key
                yield from _compare(claimed.get(key, _ABSENT), derived.get(key, _ABSENT), inner)
    elif isinstance(claimed, list) and isinstance(derived, list) and len(claimed) == len(derived):
        for index, pair in enumerate(zip(claimed, derived, strict=True)):
            yield from _compare(*pair, f"{field}[{index}]")
    elif not _agree(claimed, derived):
        yield f"{quote(field)[1:-1]} is {_show(claimed)} in the claim, {_show(derived)} by the logs"


def _show(value: Any) -> str:
    if value is _ABSENT:
        return "missing"
    return f"a list of {len(value)}" if isinstance(value, list) else quote(value)


def _agree(claimed: Any, derived: Any) -> bool:
    if isinstance(claimed, bool) or isinstance(derived, bool) or claimed is None or derived is None:
        return claimed is derived
    if isinstance(claimed, int | float) and isinstance(derived, int | float):
        return math.isclose(claimed, derived, rel_tol=RELATIVE_TOLERANCE, abs_tol=0.0)
    return type(claimed) is type(derived) and bool(claimed == derived)


def _compare_findings(claimed: Any, derived: list[dict[str, Any]]) -> Iterator[str]:
    """Describe findings that only one of two lists has; their words are not compared."""
    listed = claimed if isinstance(claimed, list) else []
    if not all(isinstance(finding, dict) for finding in listed) or claimed is not listed:
        yield "findings is no list of findings in the claim"
        return
    ours, theirs = Counter(map(_identify, derived)), Counter(map(_identify, listed))
    for places, words in ((ours - theirs, "by the logs"), (theirs - ours, "in the claim")):
        for (rule, file), count in sorted(places.items()):
            yield f"finding {quote(rule)} on {quote(file)} is there {words} only ({count} times)"


def _identify(finding: dict[str, Any]) -> tuple[str, str]:
    place = finding.get("file") or finding.get("benchmark") or ""
    return str(finding.get("rule")), str(place)


def _list_numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "findings":
                yield from _list_numbers(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _list_numbers(inner)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def describe_claim(claim: dict[str, Any] | None) -> dict[str, Any] | None:
    """Give the few claimed figures that a reader looks for; None where there is no claim."""
    if claim is None:
        return None
    benchmarks = claim.get("benchmarks")
    table = benchmarks if isinstance(benchmarks, dict) else {}
    latencies = {
        name: _take_number(part.get("latency_minutes"))
        for name, part in table.items()
        if name in BENCHMARKS and isinstance(part, dict)
    }
    valid = claim.get("valid")
    return {
        "valid": valid if isinstance(valid, bool) else None,
        "score": _take_number(claim.get("score")),
        "score_rcp_normalized": _take_number(claim.get("score_rcp_normalized")),
        "latency_minutes": latencies,
    }


def _take_number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None
