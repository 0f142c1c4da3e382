"""Judges one benchmark: which runs are usable, the latency, the convergence, all findings."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from scoring.audit import audit_result
from scoring.convergence import Convergence, Reference, check_convergence
from scoring.findings import ERROR, Finding, quote, sort_findings
from scoring.latency import WindowChoice, choose_window, compute_olympic_mean, get_minutes
from scoring.rules import TARGETS, is_number
from scoring.run import Run
from scoring.submission import Result

NOT_APPLIED = "not applied: the reference points are those of the real benchmark"


@dataclass(frozen=True)
class Verdict:
    """What one benchmark's runs are worth; latencies in minutes."""

    result: Result
    members: list[Run]
    window: WindowChoice | None
    convergence: Convergence
    latency_minutes: float | None
    dropped: dict[str, str]
    findings: list[Finding]

    @property
    def valid(self) -> bool:
        """Say whether no finding is an error."""
        return not any(finding.severity == ERROR for finding in self.findings)

    @property
    def latency_minutes_normalized(self) -> float | None:
        """Give the latency scaled to the reference's mean; None where the test did not pass."""
        factor = self.convergence.scaling_factor
        if self.latency_minutes is None or factor is None or self.convergence.result != "pass":
            return None
        return self.latency_minutes * factor

    def describe(self) -> dict[str, Any]:
        """Give the verdict in the terms of the scoring contract."""
        batches = {run.global_batch_size for run in self.members} - {None}
        document = {
            "valid": self.valid,
            "latency_minutes": self.latency_minutes,
            "latency_minutes_rcp_normalized": self.latency_minutes_normalized,
            "global_batch_size": batches.pop() if len(batches) == 1 else None,
            "runs": [self._describe_run(run) for run in self.result.runs],
            "rcp": self.convergence.describe(),
        }
        if self.window:
            document["window"] = self.window.describe()
        return document

    def _describe_run(self, run: Run) -> dict[str, Any]:
        point = run.convergence_point if run.converged else None
        epochs = point if run.benchmark == "resnet" else None
        samples = point
        if run.benchmark == "resnet" and point is not None:
            size = run.get_value("train_samples")
            samples = point * size if is_number(size) else None
        return {
            "file": run.name,
            "minutes": run.minutes,
            "status": run.status if run.status in ("success", "aborted") else None,
            "converged": run.converged,
            "compliant": run.compliant,
            "epochs_to_converge": epochs,
            "samples_to_converge": samples,
            "dropped": self.dropped.get(run.name),
        }


def find_unusable_reasons(run: Run) -> list[tuple[int | None, str]]:
    """Say why a run cannot count as a converged one: (line, reason), empty where it can.

    Source: scoring rules: no run_stop, no success, no accuracy at target, or not compliant; a
    file that cannot be read whole is no run either.
    """
    reasons: list[tuple[int | None, str]] = []
    problems = [*run.log.problems, *run.find_value_problems()]
    for problem in problems:
        if problem.rule in ("parse-error", "no-log-lines"):
            reasons.append((problem.line, problem.message))
    if not run.log.events:
        return reasons
    last = run.log.events[-1].line
    if run.start is None or run.stop is None:
        reasons.append((last, f"no {'run_stop' if run.start else 'run_start'}"))
    else:
        if run.minutes is None:
            reasons.append((run.stop.line, "run_stop is not after run_start"))
        if run.status != "success":
            reasons.append((run.stop.line, "run_stop does not say success"))
    if run.first_pass is None:
        target = TARGETS[run.benchmark]
        reasons.append((last, f"no accuracy from {target} up and below 1"))
    elif run.ends_below_target:
        event = run.evaluations_by_time[-1].event
        reasons.append((event.line, "the last accuracy is below the target"))
    if not run.compliant:
        texts = run.compliance_messages or [(None, "the compliance checker refuses the log")]
        reasons.extend((line, f"not compliant: {text}") for line, text in texts)
    return reasons


def choose_members(result: Result, use_window: bool) -> tuple[list[Run], WindowChoice | None]:
    """Choose the runs that make the result: all, or a window of them (rules, M > N)."""
    needed = result.runs_needed
    if use_window and len(result.runs) >= needed:
        window = choose_window(result.runs, needed)
        return list(window.chosen.runs), window
    return list(result.runs), None


def judge_convergence(
    result: Result,
    members: list[Run],
    references: list[Reference] | None,
    stock: dict[str, Any] | None,
) -> Convergence:
    """Judge convergence; a refusal by the stock checker stands even where ours would pass."""
    if references is None:
        return Convergence("missing", NOT_APPLIED)
    convergence = check_convergence(members, references, result.runs_needed)
    if stock is None:
        return convergence
    if stock["passed"] is False and convergence.result == "pass":
        return replace(convergence, result="fail", stock_message=stock["message"])
    return replace(convergence, stock_message=stock["message"])


def judge_result(
    result: Result,
    members: list[Run],
    window: WindowChoice | None,
    convergence: Convergence,
) -> Verdict:
    """Bring checks, usable runs, latency and convergence together."""
    unusable = [run for run in members if run.unusable]
    count_is_right = len(members) == result.runs_needed
    findings = audit_result(result)
    if not count_is_right:
        findings.append(_make_count_finding(result))
    rule = "one-unusable-run" if len(unusable) == 1 else "too-many-unusable"
    findings.extend(_make_unusable_finding(run, rule) for run in unusable)
    if result.profile.rcp_test and convergence.result != "pass" and result.runs:
        findings.append(Finding("rcp", _explain_convergence(convergence), result.benchmark))
    latency = None
    dropped = {}
    if count_is_right and len(unusable) <= 1:
        ordered = sorted(members, key=get_minutes)
        latency = compute_olympic_mean([get_minutes(run) for run in members])
        dropped = {ordered[0].name: "fastest", ordered[-1].name: "slowest"}
    return Verdict(
        result=result,
        members=members,
        window=window,
        convergence=convergence,
        latency_minutes=latency if latency is not None and math.isfinite(latency) else None,
        dropped=dropped,
        findings=sort_findings(findings),
    )


def _make_count_finding(result: Result) -> Finding:
    needed, there = result.runs_needed, len(result.runs)
    advice = "; --window chooses among more runs than needed" if there > needed else ""
    if there < needed and result.packed:
        more = f" and {len(result.packed) - 1} more" if len(result.packed) > 1 else ""
        advice = f"; packed logs are not read: unpack {quote(result.packed[0])}{more}"
    message = f"{there} runs, {needed} are asked for{advice}"
    return Finding("run-count", message, result.benchmark)


def _make_unusable_finding(run: Run, rule: str) -> Finding:
    line, reason = run.unusable[0]
    more = f" (and {len(run.unusable) - 1} more reasons)" if len(run.unusable) > 1 else ""
    consequence = "it counts as the slowest" if rule == "one-unusable-run" else "one is allowed"
    if run.log.problems_of("parse-error"):
        consequence += "; mlperf-logging's package check would reject the whole set for it"
    return run.remark(rule, f"unusable run: {reason}{more}; {consequence}", line)


def _explain_convergence(convergence: Convergence) -> str:
    text = f"convergence test: {convergence.result}: {convergence.message}"
    if convergence.mean is not None and convergence.minimum_mean is not None:
        text += f"; mean {convergence.mean:.3f}, smallest allowed {convergence.minimum_mean:.3f}"
    if convergence.stock_message and convergence.stock_message != convergence.message:
        text += f"; mlperf-logging says: {convergence.stock_message}"
    return text
