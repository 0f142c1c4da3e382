"""Checks of who and what: division, benchmark, names, system description."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from scoring.findings import Finding, quote
from scoring.submission import SYSTEM_FILE, Result

# The words of a log for the status texts that a system description may have under 4.0.0.
_STATUS_WORDS = {
    "available on-premise": "onprem",
    "available cloud": "cloud",
    "research, development, or internal (rdi)": "research",
    "preview": "preview",
}


def check_demonstration(result: Result) -> Iterator[Finding]:
    """Keep demonstrations and real results apart."""
    wanted = result.profile.demonstration
    for run in result.runs:
        event = run.get_last("demonstration")
        if event and not wanted:
            message = "this is the log of a demonstration: it can never be a submission"
            yield run.remark("demonstration", message, event)
        if wanted and run.log.events and not (event and event.value is True):
            message = "the log does not say that it is a demonstration; score it without --rfp demo"
            yield run.remark("not-a-demonstration", message, event or run.log.events[0])


def check_division(result: Result) -> Iterator[Finding]:
    """Refuse any division but closed, in a log or in the system description."""
    for run in result.runs:
        event = next(
            (e for e in run.get_events("submission_division") if e.value != "closed"), None
        )
        if event:
            message = f"the division is {quote(event.value)}, not closed"
            yield run.remark("division", message, event)
    if result.system is None:
        return
    division = result.system.get("division")
    if division != "closed":
        # By any other writing the stock package check leaves out seeds and convergence.
        message = f"the division of the system description is {quote(division)}, not closed"
        yield Finding("division", message, result.benchmark, "system.json")


def check_benchmark(result: Result) -> Iterator[Finding]:
    """Refuse a log of another benchmark than its folder's."""
    for run in result.runs:
        for event in run.get_events("submission_benchmark"):
            if event.value != result.benchmark:
                message = f"submission_benchmark is {quote(event.value)} in {result.benchmark}/"
                yield run.remark("identity", message, event)
                break


def check_platform(result: Result) -> Iterator[Finding]:
    """Report runs that name another platform than the others."""
    names = [(run, run.get_value("submission_platform")) for run in result.runs]
    named = [(run, quote(value)) for run, value in names if value is not None]
    if len({value for _, value in named}) < 2:
        return
    usual = Counter(value for _, value in named).most_common(1)[0][0]
    for run, value in named:
        if value != usual:
            message = f"the platform is {value} here, {usual} in other runs"
            yield run.remark("platform-differs", message, run.get_last("submission_platform"))


def check_description(result: Result) -> Iterator[Finding]:
    """Refuse a system description that cannot be read; note names that the logs do not have."""
    if result.system_problem:
        message = f"the system description {result.system_problem}: deliver a JSON object"
        yield Finding("system-json", message, result.benchmark, SYSTEM_FILE)
    system = result.system
    if system is None:
        return
    run = next((run for run in result.runs if run.get_text("submission_org")), None)
    submitter = system.get("submitter")
    if run and submitter != run.get_text("submission_org"):
        message = (
            f"submitter {quote(submitter)}, in the log {quote(run.get_text('submission_org'))}"
        )
        yield Finding("submitter-json", message, result.benchmark, "system.json")
    name = system.get("system_name")
    if name != result.folder_name:
        message = f"system_name {quote(name)}, the folder is {quote(result.folder_name)}"
        yield Finding("system-name-json", message, result.benchmark, "system.json")
    run = next((run for run in result.runs if run.get_text("submission_status")), None)
    status = system.get("status")
    text = status.strip().lower() if isinstance(status, str) else ""
    if run and _STATUS_WORDS.get(text, text) != run.get_text("submission_status"):
        logged = quote(run.get_text("submission_status"))
        message = f"status {quote(status)}, in the log {logged}"
        yield Finding("status-json", message, result.benchmark, "system.json")
