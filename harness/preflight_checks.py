"""One line a check: what was found, what is wanted, and what to do where they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Verdict = Literal["ok", "failed", "not checkable", "not applicable"]
# What rank 0 writes on its standard output: a marked line a check, and a last one.
MARK, END = "preflight-check: ", "preflight-end"
LONGEST_FOUND = 1000
VERDICTS = ("ok", "failed", "not checkable", "not applicable")


@dataclass(frozen=True)
class Check:
    """One line of the table. mend: what to do, empty where nothing is to be done."""

    name: str
    verdict: Verdict
    found: str
    wanted: str = ""
    mend: str = ""


def judge(name: str, good: bool, found: str, wanted: str, mend: str) -> Check:
    """Make the check of a condition; the mend is told only where it is needed."""
    return Check(name, "ok" if good else "failed", found, wanted, "" if good else mend)


def judge_same(name: str, values: Mapping[str, str], mend: str, wanted: str = "") -> Check:
    """Check that all nodes have the same value, and that it is `wanted` where that is stated.

    values: by host. What differs is shown as each value with its hosts.
    """
    hosts: dict[str, list[str]] = {}
    for host, value in values.items():
        hosts.setdefault(value, []).append(host)
    good = len(hosts) == 1 and (not wanted or wanted in hosts)
    parts = [f"{value} ({', '.join(names)})" for value, names in hosts.items()]
    found = next(iter(hosts)) if len(hosts) == 1 else "; ".join(parts)
    return judge(name, good, found, wanted or "the same on all nodes", mend)


def judge_least(
    name: str, values: Mapping[str, float], least: float, unit: tuple[str, float], mend: str
) -> Check:
    """Check that the smallest of the nodes' values reaches `least`. unit: its name and size."""
    host = min(values, key=lambda name: values[name])
    word, size = unit
    found = f"{values[host] / size:,.1f} {word}" + (f" ({host})" if len(values) > 1 else "")
    return judge(name, values[host] >= least, found, f">= {least / size:,.1f} {word}", mend)


def describe(system: str, checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as one JSON document."""
    failed = count(checks, "failed")
    return {
        "schema": 1,
        "system": system,
        "good": not failed,
        "failed": failed,
        "checks": [asdict(check) for check in checks],
    }


def write_check(check: Check) -> str:
    """One check as a line for the host, short enough for a launcher to pass on in one piece."""
    return MARK + json.dumps(asdict(replace(check, found=check.found[:LONGEST_FOUND])))


def read_check(line: str) -> Check:
    """Read what `write_check` wrote. Raises ValueError for anything else."""
    try:
        document = json.loads(line.removeprefix(MARK))
        check = Check(**document)
    except (TypeError, RecursionError):
        raise ValueError("no check") from None
    if check.verdict not in VERDICTS or not all(
        isinstance(text, str) for text in document.values()
    ):
        raise ValueError("no check")
    return check


def count(checks: Sequence[Check], verdict: Verdict) -> int:
    """How many checks have this verdict."""
    return sum(check.verdict == verdict for check in checks)


def write_table(system: str, checks: Sequence[Check]) -> list[str]:
    """The table's lines, a mend below each failed one, and the verdict last."""
    width = max((len(check.name) for check in checks), default=0)
    lines = []
    for check in checks:
        wanted = f"  (wanted: {check.wanted})" if check.wanted else ""
        lines.append(f"{check.name:<{width}}  {check.verdict:<14}  {check.found}{wanted}")
        if check.mend:
            lines.append(f"{'':<{width}}  -> {check.mend}")
    failed, unknown = count(checks, "failed"), count(checks, "not checkable")
    verdict = f"NOT READY, {failed} check(s) failed" if failed else "ready"
    lines.append(f"{system}: {verdict}, {count(checks, 'ok')} ok, {unknown} not checkable")
    return [make_printable(line) for line in lines]


def make_printable(text: str) -> str:
    """Replace control characters: a node's words must not move the cursor or end the line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
