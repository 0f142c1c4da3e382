"""Watches a campaign under way: the verdict on what is there, and what is new since the last look.

Only result files that changed are a reason to judge again; the unfinished logs are read each time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from scoring.compliance import StockProcess
from scoring.convergence import load_references
from scoring.exits import InputError
from scoring.findings import Finding
from scoring.profile import Profile
from scoring.rules import BENCHMARKS
from scoring.run import Run
from scoring.score import Score, score_submission
from scoring.submission import SYSTEM_FILE, Submission, read_submission
from scoring.underway import RunUnderWay, observe_run, read_unfinished

# A result file without run_stop that changed within this time is one that is being written.
WRITING_SECONDS = 600.0
# While runs are missing, these say only that.
_UNTIL_COMPLETE = frozenset({"run-count", "rcp"})


# Size in bytes and time of change of files, by name.
Listing = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Look:
    """One look: the verdict so far (None before the first log), new runs and findings, the rest."""

    score: Score | None
    new_runs: list[Run]
    new_findings: list[Finding]
    under_way: list[RunUnderWay]
    complete: bool


@dataclass
class Watcher:
    """Looks at a campaign's folder again and again."""

    folder: Path
    ruleset: str
    profile: Profile
    _score: Score | None = None
    _listing: Listing | None = None
    _judged: Listing | None = None
    _writing: list[Run] = field(default_factory=list)
    _seen_runs: set[str] = field(default_factory=set)
    _seen_findings: set[tuple[str, str | None, str | None]] = field(default_factory=set)

    def look(self, now_seconds: float) -> Look:
        """Look once; `now_seconds` is the time since the epoch.

        Raises InputError where the folder cannot be read or the checkers cannot be run.
        """
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: no such folder: name that of a campaign's results")
        if not any((self.folder / benchmark).exists() for benchmark in BENCHMARKS):
            return Look(None, [], [], [], complete=False)
        # Before reading: what changes while it is read counts as changed the next time.
        listing = self._list_files()
        score = self._score
        new_runs: list[Run] = []
        new_findings: list[Finding] = []
        if score is None or self._writing or listing != self._listing:
            submission = read_submission(self.folder, self.profile)
            finished, self._writing = self._part(submission, now_seconds)
            self._listing = listing
            state = _select(listing, finished)
            if score is None or state != self._judged:
                with StockProcess() as process:
                    score = score_submission(process, finished, self.ruleset, self.profile, False)
                self._score, self._judged = score, state
                new_runs, new_findings = self._take_new(score)
        unfinished = [*self._writing, *read_unfinished(self.folder)]
        under_way = [self._observe(run, now_seconds, score) for run in unfinished if run.log.events]
        return Look(score, new_runs, new_findings, under_way, is_complete(score))

    def _part(self, submission: Submission, now_seconds: float) -> tuple[Submission, list[Run]]:
        """Part the finished runs from those that are being written under their final name."""
        writing: list[Run] = []
        results = {}
        for benchmark, result in submission.results.items():
            finished: list[Run] = []
            for run in result.runs:
                (writing if self._is_written(run, now_seconds) else finished).append(run)
            results[benchmark] = replace(result, runs=finished)
        return replace(submission, results=results), writing

    def _is_written(self, run: Run, now_seconds: float) -> bool:
        if run.stop is not None:
            return False
        try:
            changed = os.lstat(self.folder / run.name).st_mtime
        except OSError:
            return True
        return now_seconds - changed < WRITING_SECONDS

    def _list_files(self) -> Listing:
        """Give size and time of change of all that the verdict may depend on."""
        paths = [
            *(path for name in BENCHMARKS for path in (self.folder / name).glob("result_*.txt")),
            self.folder / SYSTEM_FILE,
        ]
        listing = {}
        for path in paths:
            try:
                status = os.lstat(path)
            except OSError:
                continue
            name = path.relative_to(self.folder).as_posix()
            listing[name] = (status.st_size, status.st_mtime_ns)
        return listing

    def _take_new(self, score: Score) -> tuple[list[Run], list[Finding]]:
        runs = [run for verdict in score.verdicts.values() for run in verdict.result.runs]
        new_runs = [run for run in runs if run.name not in self._seen_runs]
        self._seen_runs.update(run.name for run in runs)
        new_findings = []
        for finding in score.findings:
            key = (finding.rule, finding.benchmark, finding.file)
            waits = finding.rule in _UNTIL_COMPLETE and not is_full(score, finding.benchmark)
            if key not in self._seen_findings and not waits:
                self._seen_findings.add(key)
                new_findings.append(finding)
        return new_runs, new_findings

    def _observe(self, run: Run, now_seconds: float, score: Score) -> RunUnderWay:
        references = None
        if self.profile.rcp_test:
            references = load_references(self.ruleset, run.benchmark)
        verdict = score.verdicts.get(run.benchmark)
        return observe_run(run, now_seconds * 1000, verdict, references)


def _select(listing: Listing, submission: Submission) -> Listing:
    """Give the part of a listing that the verdict on a submission depends on."""
    names = {run.name for result in submission.results.values() for run in result.runs}
    return {name: state for name, state in listing.items() if name in names or name == SYSTEM_FILE}


def is_full(score: Score, benchmark: str | None) -> bool:
    """Say whether a benchmark has as many runs as make a result."""
    verdict = score.verdicts.get(benchmark or "")
    return verdict is not None and len(verdict.result.runs) >= verdict.result.runs_needed


def is_complete(score: Score) -> bool:
    """Say whether every benchmark that is there has as many runs as make a result."""
    return all(is_full(score, benchmark) for benchmark in score.verdicts)
