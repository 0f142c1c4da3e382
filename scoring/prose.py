"""The score in words, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from scoring.findings import Finding, make_printable
from scoring.rules import BENCHMARKS
from scoring.score import Score
from scoring.verdict import Verdict

LETTERS = {"resnet": "R", "bert": "B"}
NAMES = {"resnet": "ResNet-50", "bert": "BERT-large"}
DEMONSTRATION = "DEMONSTRATION - NOT AN MLPERF RESULT"
FINDINGS_SHOWN = 60


def write_prose(score: Score) -> str:
    """Write the verdict, the latencies, the runs and the findings as lines of text."""
    return "".join(f"{make_printable(line)}\n" for line in _write_lines(score))


def _write_lines(score: Score) -> Iterator[str]:
    if score.profile.demonstration:
        frame = "#" * (len(DEMONSTRATION) + 4)
        yield from (frame, f"# {DEMONSTRATION} #", frame, "")
    profile = score.profile
    yield f"judged by ruleset {score.ruleset} and profile {profile.name}: {profile.title}"
    yield ""
    for benchmark in BENCHMARKS:
        verdict = score.verdicts.get(benchmark)
        if verdict:
            yield from _write_verdict(verdict)
    findings = score.findings
    if findings:
        yield "findings:"
    for finding in findings[:FINDINGS_SHOWN]:
        yield f"  {finding.severity:7} {finding.rule}: {locate(finding)}: {finding.message}"
    if len(findings) > FINDINGS_SHOWN:
        yield f"  ... and {len(findings) - FINDINGS_SHOWN} more: --json shows all"
    yield ""
    yield from _write_end(score)


def locate(finding: Finding) -> str:
    """Give benchmark or file and line of a finding."""
    place = finding.file or finding.benchmark or ""
    if finding.benchmark and not place.startswith(finding.benchmark):
        place = f"{finding.benchmark}, {place}"
    return f"{place}:{finding.line}" if finding.line else place


def _write_verdict(verdict: Verdict) -> Iterator[str]:
    name = verdict.result.benchmark
    state = "valid" if verdict.valid else "NOT VALID"
    yield f"{NAMES[name]}: {state}, {LETTERS[name]} = {format_minutes(verdict.latency_minutes)}"
    for run in verdict.result.runs:
        minutes = format_minutes(run.minutes)
        remark = f", dropped as the {word}" if (word := verdict.dropped.get(run.name)) else ""
        remark += ", unusable" if run.unusable else ""
        yield f"  {run.name}: {minutes}{remark}"
    if verdict.window:
        files = ", ".join(run.name for run in verdict.members)
        yield f"  window that counts: {files}"
    convergence = verdict.convergence
    yield f"  convergence test: {convergence.result} ({convergence.message})"
    if verdict.latency_minutes_normalized is not None:
        scaled = format_minutes(verdict.latency_minutes_normalized)
        yield f"  scaled to the reference's mean: {scaled}"
    yield ""


def _write_end(score: Score) -> Iterator[str]:
    end = " (DEMONSTRATION)" if score.profile.demonstration else ""
    for benchmark in BENCHMARKS:
        verdict = score.verdicts.get(benchmark)
        if verdict:
            yield f"{LETTERS[benchmark]} = {format_minutes(verdict.latency_minutes)}"
    yield f"valid: {'yes' if score.valid else 'NO'}{end}"
    plain, scaled = score.compute(normalized=False), score.compute(normalized=True)
    yield f"score = {format_score(plain)} (scaled to reference means: {format_score(scaled)}){end}"


def format_minutes(minutes: float | None) -> str:
    """Write minutes for people."""
    return "none" if minutes is None else f"{minutes:.4f} min"


def format_score(score: float | None) -> str:
    """Write a score for people."""
    return "none" if score is None else f"{score:.6f}"
