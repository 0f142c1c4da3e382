"""Writes the page: the verdict first, then each benchmark, the findings, the system.

Everything that came out of a file is escaped; the page holds no script, loads nothing, and its
content policy forbids both.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from scoring.prose import DEMONSTRATION, LETTERS, NAMES
from scoring.report.benchmark import write_benchmark
from scoring.report.lines import write_findings
from scoring.report.system import write_system
from scoring.report.text import clean
from scoring.rules import BENCHMARKS
from scoring.score import Score

_STYLE = Path(__file__).parent / "style.css"


def write_page(score: Score) -> str:
    """Write the whole page."""
    return write_document("MLPerf Training score", _write_body(score))


def write_document(title: str, parts: Iterable[str]) -> str:
    """Write a page that holds its style and forbids everything else; `parts` are clean HTML."""
    style = _STYLE.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def write_banner(score: Score) -> Iterator[str]:
    """Write, in large letters, that a demonstration is one."""
    if score.profile.demonstration:
        yield (
            f'<p class="demonstration">{DEMONSTRATION}<small>Small models, made-up data, a laptop. '
            "The procedure is the real one, the figures mean nothing.</small></p>"
        )


def _write_body(score: Score) -> Iterator[str]:
    yield from write_banner(score)
    names = " and ".join(NAMES[name] for name in BENCHMARKS if name in score.verdicts)
    of = "Demonstration of " if score.profile.demonstration else ""
    yield f"<h1>{of}MLPerf Training, closed division: {names}</h1>"
    state = ("good", "VALID") if score.valid else ("bad", "NOT VALID")
    yield f'<p class="verdict {state[0]}">{state[1]}</p>'
    yield f"<p>{_summarize(score)}</p>"
    yield from _write_figures(score)
    for benchmark in BENCHMARKS:
        if benchmark in score.verdicts:
            yield from write_benchmark(score.verdicts[benchmark])
    yield from write_findings(score)
    yield from write_system(score)


def _summarize(score: Score) -> str:
    counts = dict.fromkeys(("error", "warning", "note"), 0)
    for finding in score.findings:
        counts[finding.severity] += 1
    words = ", ".join(
        f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items()
    )
    profile = f"profile {score.profile.name} ({score.profile.title})"
    text = f"Judged by ruleset {score.ruleset}, {profile}: {words}."
    errors = [finding for finding in score.findings if finding.severity == "error"]
    if errors:
        text += f" First error: {errors[0].rule}: {errors[0].message}."
    return clean(text)


def _write_figures(score: Score) -> Iterator[str]:
    yield '<div class="figures">'
    plain, scaled = score.compute(normalized=False), score.compute(normalized=True)
    weights = {name: score.profile.get_weight(name) for name in BENCHMARKS}
    formula = " + ".join(f"{weights[name]:g}/{LETTERS[name]}" for name in BENCHMARKS)
    rows = [(f"score = {formula}", plain, scaled, ".4f", "")]
    for benchmark in BENCHMARKS:
        verdict = score.verdicts.get(benchmark)
        if verdict:
            label = f"{LETTERS[benchmark]}, {NAMES[benchmark]}"
            normalized = verdict.latency_minutes_normalized
            rows.append((label, verdict.latency_minutes, normalized, ".3f", " min"))
    for label, value, other, form, unit in rows:
        shown = "none" if value is None else f"{value:{form}}{unit}"
        beside = "not scaled" if other is None else f"scaled to reference: {other:{form}}{unit}"
        yield f"<div><span>{label}</span><b>{shown}</b><span>{beside}</span></div>"
    yield "</div>"
