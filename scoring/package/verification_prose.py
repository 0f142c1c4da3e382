"""A verification in words: one page for a terminal, the verdict first."""

from __future__ import annotations

from collections.abc import Iterator

from scoring.findings import make_printable
from scoring.package.claim import describe_claim
from scoring.package.examination import FAILED, Check
from scoring.package.verification import Verification
from scoring.prose import DEMONSTRATION, LETTERS, format_minutes, format_score, locate

FINDINGS_SHOWN = 15
STEP_LIMIT = 150
NAME_LIMIT = 100


def write_verification(verification: Verification) -> str:
    """Write verdict, figures, steps and findings as lines of text."""
    return "".join(f"{make_printable(line)}\n" for line in _write_lines(verification))


def _write_lines(verification: Verification) -> Iterator[str]:
    material = verification.material
    if material.profile.demonstration:
        frame = "#" * (len(DEMONSTRATION) + 4)
        yield from (frame, f"# {DEMONSTRATION} #", frame, "")
    state = "VALID" if verification.valid else "NOT VALID"
    judged = f"profile {material.profile.name}, ruleset {material.ruleset}"
    submitter = verification.submitter[:NAME_LIMIT]
    yield f"{state}: {submitter}, system {material.system}, judged by {judged}"
    yield ""
    yield from _write_figures(verification)
    yield "steps:"
    yield from (_write_step(check) for check in verification.checks)
    yield ""
    findings = verification.findings
    yield f"findings: {len(findings) or 'none'}"
    for finding in findings[:FINDINGS_SHOWN]:
        place = locate(finding)
        where = f"{place}: " if place else ""
        yield f"  {finding.severity:7} {finding.rule}: {where}{finding.message}"
    if len(findings) > FINDINGS_SHOWN:
        yield f"  ... and {len(findings) - FINDINGS_SHOWN} more: --json shows all"


def _write_figures(verification: Verification) -> Iterator[str]:
    claim = describe_claim(verification.material.claim.value) or {}
    score = verification.material.score.value
    claimed = claim.get("latency_minutes", {})
    yield f"{'':7}{'claimed':>16}{'from the logs':>16}"
    for name, letter in LETTERS.items():
        verdict = score.verdicts.get(name) if score else None
        derived = format_minutes(verdict.latency_minutes if verdict else None)
        yield f"  {letter:5}{format_minutes(claimed.get(name)):>16}{derived:>16}"
    derived = format_score(score.compute(normalized=False) if score else None)
    end = " (DEMONSTRATION)" if verification.material.profile.demonstration else ""
    yield f"  {'score':5}{format_score(claim.get('score')):>16}{derived:>16}{end}"
    yield ""


def _write_step(check: Check) -> str:
    message = check.message
    if len(message) > STEP_LIMIT:
        message = f"{message[: STEP_LIMIT - 3]}..."
    result = check.result.upper() if check.result == FAILED else check.result
    return f"  {result:12}  {check.name}: {message}"
