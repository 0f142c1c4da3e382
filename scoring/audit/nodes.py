"""Checks of the nodes: how many a result says it used, and on which hosts its runs were made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from scoring.findings import Finding, quote
from scoring.log import Event
from scoring.run import Run
from scoring.submission import SYSTEM_FILE, Result, parse_count, read_count

NODES_KEY = "number_of_nodes"
# "4xfast" counts nodes; "64 x NVIDIA A100" counts accelerators.
_LEADING_COUNT = re.compile(r"\s*(\d{1,6})x", re.ASCII | re.IGNORECASE)


def check_nodes(result: Result) -> Iterator[Finding]:
    """Refuse node counts that contradict each other or are not what is asked for."""
    asked = result.profile.nodes
    described = result.node_count
    if asked and described and described != asked:
        message = f"the system description has {described} nodes; {asked} are asked for"
        yield Finding("node-count", message, result.benchmark, SYSTEM_FILE)
    stated = (result.system or {}).get(NODES_KEY)
    if asked and described is None and stated not in (None, ""):
        message = (
            f"{NODES_KEY} of the system description is {quote(stated)}: "
            f"state the number alone; {asked} nodes are asked for"
        )
        yield Finding("node-count", message, result.benchmark, SYSTEM_FILE)
    for run in result.runs:
        counts = list(_find_counts(run, count_hosts=not result.profile.demonstration))
        wanted = asked or described or next((count for _, count, _ in counts if count), None)
        wrong = next((item for item in counts if item[1] != wanted), None)
        if wrong:
            source, count, line = wrong
            shown = "no number of" if count is None else count
            message = f"{source} {shown} nodes; {wanted} expected"
            yield run.remark("node-count", message, line)
        if asked and not counts and not described and run.log.events:
            if result.profile.demonstration:
                continue
            message = f"nothing says how many nodes were used; {asked} are asked for"
            yield run.remark("node-count", message, run.get_last("submission_platform"))


def _find_counts(run: Run, count_hosts: bool) -> Iterator[tuple[str, int | None, int]]:
    """Give what a log says of nodes: in words, the count (None: none can be read), the line.

    count_hosts: False where ranks on one machine stand for nodes.
    """
    platform = run.get_last("submission_platform")
    if platform and isinstance(platform.value, str):
        match = _LEADING_COUNT.match(platform.value)
        if match:
            yield "submission_platform says", int(match.group(1)), platform.line
    for line, system in run.log.systems:
        count = read_count(system, NODES_KEY)
        if count:
            yield ":::SYSJSON says", count, line
    for event in run.get_events(NODES_KEY):
        yield f"{NODES_KEY} {quote(event.value, 40)} says", parse_count(event.value), event.line
        if count_hosts and "hosts" in event.metadata:
            yield "the hosts listed are", len(_get_hosts(event)), event.line


def _get_hosts(event: Event) -> frozenset[str]:
    """Give the distinct hosts beside a node count; names differ by more than case and blanks."""
    hosts: Any = event.metadata.get("hosts")
    names = hosts if isinstance(hosts, list) else []
    return frozenset(
        name.strip().lower() for name in names if isinstance(name, str) and name.strip()
    )


def check_counts_same(result: Result) -> Iterator[Finding]:
    """Refuse runs of one result on different numbers of nodes."""
    events = [(run, run.get_last(NODES_KEY)) for run in result.runs]
    counts = [(run, event, parse_count(event.value)) for run, event in events if event]
    if len({count for _, _, count in counts}) < 2:
        return
    usual = Counter(count for _, _, count in counts).most_common(1)[0][0]
    for run, event, count in counts:
        # Where a number is asked for, check_nodes has named the runs that have another.
        if count != usual and not result.profile.nodes:
            message = f"{NODES_KEY} is {quote(event.value)} here, {quote(usual)} in other runs"
            yield run.remark("node-count", message, event)


def check_hosts(result: Result) -> Iterator[Finding]:
    """Report runs made on other hosts than the others, or that alone list none."""
    if result.profile.demonstration:
        return
    events = [(run, run.get_last(NODES_KEY)) for run in result.runs]
    listed = [(run, event, _get_hosts(event)) for run, event in events if event]
    hosts = Counter(names for _, _, names in listed if names)
    if not hosts:
        return
    usual = hosts.most_common(1)[0][0]
    for run, event, names in listed:
        if names != usual:
            others = sorted(names - usual) or sorted(usual - names)
            words = "not used by other runs" if names - usual else "used by other runs, not here"
            if not names:
                words = "used by other runs; no host is listed here"
            message = f"hosts {words}: {', '.join(quote(name, 40) for name in others[:8])}"
            yield run.remark("hosts-differ", message, event)
