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


def write_system(score: Score) -> Iterator[str]:
    """Write the system description, what the logs say of it, and the hyperparameters."""
    yield "<section><h2>System and software</h2>"
    system = score.submission.system
    if system is None:
        yield "<p>The folder holds no system.json; the logs say:</p>"
        yield from _write_table(_read_logs(score))
    else:
        filled = [(key, value) for key, value in system.items() if value not in ("", None)]
        yield from _write_table(filled)
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
    keys = ("submission_org", "submission_platform", "submission_status", "number_of_nodes")
    rows: dict[tuple[str, str], Any] = {}
    for verdict in score.verdicts.values():
        for run in verdict.result.runs:
            for key in keys:
                value = run.get_value(key)
                if value is not None:
                    rows.setdefault((key, json.dumps(value)), value)
    return [(key, value) for (key, _), value in rows.items()]


def _write_table(rows: list[tuple[str, Any]]) -> Iterator[str]:
    yield '<table class="names"><tbody>'
    for key, value in rows[:ROWS_SHOWN]:
        text = value if isinstance(value, str) else json.dumps(value)
        text = text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]} ..."
        name = key[:80].replace("_", " ")
        yield f"<tr><th>{clean(name)}</th><td>{clean(text)}</td></tr>"
    yield "</tbody></table>"
