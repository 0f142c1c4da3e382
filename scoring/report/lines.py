"""The page's findings, each with the log line it points at."""

from __future__ import annotations

from collections.abc import Iterator

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
    yield "</section>"


def _write_finding(finding: Finding, text: bytes | None) -> str:
    severity = finding.severity
    place = clean(locate(finding))
    message = clean(finding.message)
    html = (
        f'<div class="finding {severity}"><p><b class="{severity}">{severity}: {finding.rule}</b> '
        f'<span class="place">{place}</span></p><p>{message}</p>'
    )
    if text is not None:
        line = (TOKEN + text[:QUOTE_LIMIT]).decode("utf-8", "replace").strip()
        line += " ..." if len(text) > QUOTE_LIMIT else ""
        html += f"<pre>{clean(line)}</pre>"
    return f"{html}</div>"
