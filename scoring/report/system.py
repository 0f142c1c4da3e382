"""The page's summary of system, software and settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from scoring.prose import NAMES
from scoring.report.text import clean
from scoring.rules import BENCHMARKS, HYPERPARAMETER_KEYS
from scoring.score import Score

TEXT_LIMIT = 400
ROWS_SHOWN = 80
_LOG_KEYS = (
    *("submission_org", "submission_platform", "submission_status"),
    *("number_of_nodes", "source_sha256"),
)


def write_system(score: Score) -> Iterator[str]:
    """Write the system description, what the logs say of it, and the hyperparameters."""
    yield "<section><h2>System and software</h2>"
    system = score.submission.system
    if system is None:
        yield "<p>There is no system description that can be read.</p>"
    else:
        filled = [(key, value) for key, value in system.items() if value not in ("", None)]
        yield from _write_table(filled)
    yield "<h3>What the logs say</h3>"
    yield from _write_table(_read_logs(score))
    for benchmark in BENCHMARKS:
        verdict = score.verdicts.get(benchmark)
        runs = [run for run in verdict.result.runs if run.log.events] if verdict else []
        if runs:
            keys = ("global_batch_size", *HYPERPARAMETER_KEYS[benchmark])
            rows = [(key, runs[0].get_value(key)) for key in keys if runs[0].get_events(key)]
            yield f"<h3>{NAMES[benchmark]}: settings of {clean(runs[0].name)}</h3>"
            yield from _write_table(rows)
    version = clean(score.version)
    yield f'<p class="soft">Checked with mlperf-logging {version}.</p></section>'


def _read_logs(score: Score) -> list[tuple[str, Any]]:
    """List what the runs say of system and software: every value once, and what goes with it."""
    rows: dict[str, tuple[str, Any]] = {}
    for verdict in score.verdicts.values():
        for event in (e for run in verdict.result.runs for e in run.log.events):
            if event.key in _LOG_KEYS and event.value is not None:
                # Who logged the line is the same in every run of a kind, and no system's fact.
                more = {k: v for k, v in event.metadata.items() if k not in ("file", "lineno")}
                value = event.value if not more else {"value": event.value, **more}
                rows.setdefault(json.dumps([event.key, value]), (event.key, value))
    return sorted(rows.values(), key=lambda row: _LOG_KEYS.index(row[0]))


def _write_table(rows: list[tuple[str, Any]]) -> Iterator[str]:
    yield '<table class="names"><tbody>'
    for key, value in rows[:ROWS_SHOWN]:
        text = value if isinstance(value, str) else json.dumps(value)
        text = text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]} ..."
        name = key[:80].replace("_", " ")
        yield f"<tr><th>{clean(name)}</th><td>{clean(text)}</td></tr>"
    yield "</tbody></table>"
