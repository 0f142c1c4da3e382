"""Judges logs that lie in memory: the whole scoring but for the stock checkers' process.

Every log counts as compliant here, so what is found not valid is so by the kit's own checks.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from scoring.convergence import load_references
from scoring.log import parse_log
from scoring.profile import load_profile
from scoring.run import Run
from scoring.score import Score
from scoring.submission import Result, Submission
from scoring.verdict import choose_members, find_unusable_reasons, judge_convergence, judge_result

load_profile_once = cache(load_profile)
load_references_once = cache(load_references)


def read_run(benchmark, name, content):
    """Read one run from bytes."""
    return Run(benchmark, parse_log(f"{benchmark}/{name}", content))


def judge_runs(benchmark, runs, profile="mlperf", system=None):
    """Give the score of one benchmark's runs."""
    demands = load_profile_once(profile)
    result = Result(benchmark, runs, demands, system, "folder", False)
    for run in runs:
        run.compliant = True
        run.unusable = find_unusable_reasons(run)
    members, window = choose_members(result, len(runs) > result.runs_needed)
    references = load_references_once("4.0.0", benchmark) if demands.rcp_test else None
    convergence = judge_convergence(result, members, references, None)
    verdict = judge_result(result, members, window, convergence)
    submission = Submission(Path("folder"), {benchmark: result}, system)
    return Score(submission, demands, "4.0.0", "none", {benchmark: verdict})
