"""The page's findings, each with the log line it points at, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator

from scoring.explanation import load_explanations
from scoring.findings import Finding
from scoring.log import TOKEN
from scoring.prose import locate
from scoring.report.text import clean
from scoring.score import Score

FINDINGS_SHOWN = 300
QUOTE_LIMIT = 400


def write_findings(score: Score) -> Iterator[str]:
    """Write all findings, worst first, with the lines they quote."""
    yield "<section><h2>Findings</h2>"
    findings = score.findings
    if not findings:
        yield "<p>None: every check passed.</p>"
    table = {
        run.name: {event.line: event.text for event in run.log.events}
        for verdict in score.verdicts.values()
        for run in verdict.result.runs
    }
    for finding in findings[:FINDINGS_SHOWN]:
        yield _write_finding(finding, table.get(finding.file or "", {}).get(finding.line or 0))
    if len(findings) > FINDINGS_SHOWN:
        yield f"<p>And {len(findings) - FINDINGS_SHOWN} more: score --json lists all.</p>"
    yield from write_explanations([finding.rule for finding in findings])
    yield "</section>"


def write_explanations(rules: list[str]) -> Iterator[str]:
    """Write what findings mean, once each, where the findings link to."""
    table = load_explanations()
    known = [table[rule] for rule in dict.fromkeys(rules) if rule in table]
    if not known:
        return
    yield '<h3>What they mean</h3><dl class="meanings">'
    for explanation in known:
        yield (
            f'<dt id="about-{explanation.slug}">{explanation.slug}</dt>'
            f"<dd><p>{clean(explanation.meaning)}</p>"
            f"<p><b>Source:</b> {clean(explanation.source)}</p>"
            f"<p><b>Mend:</b> {clean(explanation.mend)}</p>"
            f"<p><b>May be innocent:</b> {clean(explanation.innocent)}</p></dd>"
        )
    yield "</dl>"


def _write_finding(finding: Finding, text: bytes | None) -> str:
    severity = finding.severity
    place = clean(locate(finding))
    message = clean(finding.message)
    rule = finding.rule
    if rule in load_explanations():
        rule = f'<a href="#about-{rule}">{rule}</a>'
    html = (
        f'<div class="finding {severity}"><p><b class="{severity}">{severity}: {rule}</b> '
        f'<span class="place">{place}</span></p><p>{message}</p>'
    )
    if text is not None:
        line = (TOKEN + text[:QUOTE_LIMIT]).decode("utf-8", "replace").strip()
        line += " ..." if len(text) > QUOTE_LIMIT else ""
        html += f"<pre>{clean(line)}</pre>"
    return f"{html}</div>"
