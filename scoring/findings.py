"""Findings: what a check has to say of a result, each with its slug, severity, file and line.

The severities are those of the review practice: an error invalidates the benchmark, a warning
needs a person, a note informs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

ERROR, WARNING, NOTE = "error", "warning", "note"

_SLUGS = {
    ERROR: (
        "marker-twice same-run-twice same-curve-twice eval-outside-run work-before-run-start "
        "gbs-differs hp-differs software-differs same-seed hp-table cadence-resnet cadence-bert "
        "division init-over-30min eval-time-order run-count too-many-unusable rcp identity "
        "node-count no-seed demonstration not-a-demonstration system-json description "
        "package-profile package-manifest package-files log-too-large benchmark-missing "
        "claim-differs source-differs call-site configuration-differs system-file-differs "
        "campaign-differs nodes-differ image-differs"
    ),
    WARNING: (
        "success-below-target epoch-clock fast-stretch fast-run clock-back "
        "train-samples-vs-eval accuracy-granularity dataset-size runs-overlap marker-missing "
        "parse-error no-log-lines nul-bytes target-reached-not-success code-line-differs "
        "cache-clear-missing cache-clear-value cache-clear-early work-after-run-stop "
        "evals-after-pass block-chain epoch-numbering late-run-start spread-over-7d "
        "gbs-not-divisible platform-differs hosts-differ planted-scaling one-unusable-run "
        "implausible-throughput description-empty framework-differs failed-runs"
    ),
    NOTE: ("not-utf8 idle-gap file-order file-names submitter-json system-name-json status-json"),
}
SEVERITIES = {slug: severity for severity, slugs in _SLUGS.items() for slug in slugs.split()}
_ORDER = {ERROR: 0, WARNING: 1, NOTE: 2}


@dataclass(frozen=True)
class Finding:
    """One remark on a result; `file` is relative to the examined folder, `line` counts from 1."""

    rule: str
    message: str
    benchmark: str | None = None
    file: str | None = None
    line: int | None = None

    def __post_init__(self) -> None:
        """Keep the message one line, whatever a file name in it may hold."""
        object.__setattr__(self, "message", make_printable(self.message))

    @property
    def severity(self) -> str:
        """Give the severity of the rule."""
        return SEVERITIES[self.rule]

    def describe(self) -> dict[str, Any]:
        """Give the finding in the terms of the scoring contract."""
        return {
            "severity": self.severity,
            "rule": self.rule,
            "benchmark": self.benchmark,
            "file": self.file,
            "line": self.line,
            "message": self.message,
        }


def sort_findings(findings: list[Finding]) -> list[Finding]:
    """Order findings by severity, benchmark, rule, file and line."""
    return sorted(
        findings,
        key=lambda f: (
            _ORDER[f.severity],
            f.benchmark or "",
            f.rule,
            f.file or "",
            f.line or 0,
        ),
    )


def make_printable(text: str) -> str:
    """Show control characters, as a hostile log or file name may hold, by their numbers."""
    return "".join(letter if letter.isprintable() else f"\\u{{{ord(letter):x}}}" for letter in text)


def quote(value: Any, limit: int = 80) -> str:
    """Show a value that came out of a log in printable ASCII, cut to `limit` characters.

    Terminal escapes and control characters in a hostile log must not reach a terminal raw.
    """
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= limit else text[: limit - 3] + "..."
