"""Scores a folder of run logs: reads, checks, judges, and gives R, B and the score."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoring.compliance import StockProcess, check_compliance, check_ruleset
from scoring.convergence import load_references
from scoring.findings import Finding, sort_findings
from scoring.profile import Profile
from scoring.rules import BENCHMARKS
from scoring.run import Run
from scoring.submission import Submission, read_submission
from scoring.verdict import (
    Verdict,
    choose_members,
    find_unusable_reasons,
    judge_convergence,
    judge_result,
)

SCHEMA = 1


@dataclass(frozen=True)
class Score:
    """The judged submission; `version` is that of mlperf-logging."""

    submission: Submission
    profile: Profile
    ruleset: str
    version: str
    verdicts: dict[str, Verdict]

    @property
    def valid(self) -> bool:
        """Say whether every benchmark that is there is valid."""
        return all(verdict.valid for verdict in self.verdicts.values())

    @property
    def findings(self) -> list[Finding]:
        """Give all findings, worst first."""
        return sort_findings([f for verdict in self.verdicts.values() for f in verdict.findings])

    def compute(self, normalized: bool) -> float | None:
        """Give the sum of weight over latency; None unless both benchmarks are there and valid.

        The weights are the profile's: 7.19/R + 9.05/B in all that are shipped.
        """
        total = 0.0
        for benchmark in BENCHMARKS:
            verdict = self.verdicts.get(benchmark)
            if verdict is None or not verdict.valid:
                return None
            latency = verdict.latency_minutes_normalized if normalized else verdict.latency_minutes
            if not latency:
                return None
            total += self.profile.get_weight(benchmark) / latency
        return total

    def describe(self) -> dict[str, Any]:
        """Give the score in the terms of the scoring contract."""
        return {
            "schema": SCHEMA,
            "ruleset": self.ruleset,
            "profile": self.profile.name,
            "profile_title": self.profile.title,
            "demonstration": self.profile.demonstration,
            "valid": self.valid,
            "score": self.compute(normalized=False),
            "score_rcp_normalized": self.compute(normalized=True),
            "benchmarks": {name: verdict.describe() for name, verdict in self.verdicts.items()},
            "findings": [finding.describe() for finding in self.findings],
            "mlperf_logging": self.version,
        }


def score_folder(folder: Path, ruleset: str, profile: Profile, use_window: bool) -> Score:
    """Score the logs in a folder; raises InputError where they cannot be read at all."""
    with StockProcess() as process:
        submission = read_submission(folder, profile)
        return score_submission(process, submission, ruleset, profile, use_window)


def score_submission(
    process: StockProcess, submission: Submission, ruleset: str, profile: Profile, use_window: bool
) -> Score:
    """Score logs that have been read; `process` is asked once.

    Raises InputError for a ruleset that there is not, and where the checkers cannot be run.
    """
    results = submission.results
    check_ruleset(ruleset, list(results))
    runs = [run for result in results.values() for run in result.runs]
    windowed = {
        name
        for name, result in results.items()
        if use_window and len(result.runs) > result.runs_needed
    }
    groups = {name: r.runs for name, r in results.items() if name not in windowed}
    stock = check_compliance(process, ruleset, runs, groups if profile.rcp_test else {})
    for run in runs:
        run.unusable = find_unusable_reasons(run)
    chosen = {name: choose_members(result, use_window) for name, result in results.items()}
    answers = dict(stock.convergence)
    if windowed and profile.rcp_test:
        # The window depends on which runs are usable, so its convergence is asked afterwards.
        answers.update(_ask_windows(ruleset, {name: chosen[name][0] for name in windowed}))
    verdicts = {}
    for name, result in results.items():
        members, window = chosen[name]
        references = load_references(ruleset, name) if profile.rcp_test else None
        convergence = judge_convergence(result, members, references, answers.get(name))
        verdicts[name] = judge_result(result, members, window, convergence)
    return Score(submission, profile, ruleset, stock.version, verdicts)


def _ask_windows(ruleset: str, groups: dict[str, list[Run]]) -> dict[str, dict[str, Any]]:
    runs = [run for members in groups.values() for run in members]
    with StockProcess() as process:
        return check_compliance(process, ruleset, runs, groups).convergence
