"""Runs that failed: each stays on record with its log, what its ranks wrote, and the reason.

A run that never logged run_stop gives no result, and the campaign makes the run anew; but nothing
of it is deleted. Which of these count against a result (a crash of the machine, or of the
submission's own code) is for the submitter to argue and for the reviewer to judge.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.files import write_atomically

TAIL_BYTES = 1 << 16
REASON_CHARACTERS = 300
RECORD = re.compile(r"(resnet|bert)_(\d{1,6})_(\d{1,6})\.json", re.ASCII)

# The most telling first: a rank's own sentence; what a launcher noticed; a traceback's last line;
# other ranks' echo, that the connection was lost; and that a launcher ended the rest.
TELLING = (
    re.compile(r"^error: (?!lost the connection|interrupted)"),
    re.compile(
        r"noticed that process|exiting( improperly|$)|lost communication|[Nn]ode failure|NODE FAIL"
        r"|^ssh: |daemon failed to report back|Watchdog caught collective operation timeout"
        r"|No space left|task \d+: (Killed|Exited)|DUE TO (TIME LIMIT|NODE FAILURE)"
    ),
    re.compile(r"^(\w+\.)*\w*(Error|Exception)\b"),
    re.compile(r"^error: lost the connection"),
    re.compile(r"CANCELLED|exited (on|with)|exited without|terminated|Killed"),
)
# Once srun ends a step, the tasks it kills say nothing of the cause.
ENDING = re.compile(r"Job step aborted|STEP .* CANCELLED|Terminating StepId")
ENDED = re.compile(r"srun: error: .*task.*: (Killed|Terminated|Exited)")
RULE = re.compile(r"-{10,}")
# What launchers write of good runs, too: mpirun of its ssh, PMIx of a plugin that it does not need.
IDLE = re.compile(
    r"plm:ssh: Warning: setpgid|^Sorry!|find-available:not-valid|^But I couldn't open the help file"
    r"|help-pmix-[\w-]+\.txt: No such file"
)
# mpirun says the same of a daemon that never started and of one that ssh has lost.
LOST_DAEMON = re.compile(r"daemon failed to report back")
REMOTE_HOST = re.compile(r"Remote host:\s+(\S+)")


@dataclass(frozen=True)
class Attempt:
    """One failed attempt at a run, as its record says."""

    benchmark: str
    run: int
    attempt: int
    reason: str
    # None: ended by the campaign (its time limit, an interrupt), or not known.
    launcher_status: int | None
    # Whether run_start stands in its log: before that, no run in the rules' sense had begun.
    clock_started: bool
    recorded_utc: str
    settings: dict[str, str]

    @property
    def name(self) -> str:
        """The stem of its three files: .json, .txt (the log, if any), .output.txt."""
        return f"{self.benchmark}_{self.run}_{self.attempt}"


def find_reason(output: Path) -> str | None:
    """Find the most telling line at the end of what launcher and ranks wrote; None without any."""
    try:
        with open(output, "rb") as file:
            file.seek(max(0, output.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    return choose_reason(text.splitlines())


def choose_reason(lines: Sequence[str]) -> str | None:
    """Find the most telling of the lines that launcher and ranks wrote; None without any."""
    lines = ["".join(c if c.isprintable() else " " for c in line) for line in lines]
    ending = next((n for n, line in enumerate(lines) if ENDING.search(line)), len(lines))
    lines = [line for n, line in enumerate(lines) if n <= ending or not ENDED.search(line)]
    for pattern in TELLING:
        for number, line in enumerate(lines):
            if pattern.search(line):
                return _describe(lines, number)[:REASON_CHARACTERS]
    last = [
        line.strip()
        for line in lines
        if line.strip() and not RULE.match(line) and not IDLE.search(line)
    ]
    return last[-1][:REASON_CHARACTERS] if last else None


def _describe(lines: list[str], number: int) -> str:
    if LOST_DAEMON.search(lines[number]):
        for line in lines[number:]:
            if host := REMOTE_HOST.search(line):
                return f"mpirun has no connection to its daemon on {host[1]}: off, or cut off"
    return _join_paragraph(lines, number).split(" There are three reasons")[0]


def _join_paragraph(lines: list[str], number: int) -> str:
    """A launcher's message stands between two rules and is broken into lines."""
    if number == 0 or not RULE.match(lines[number - 1]):
        return lines[number].strip()
    taken = []
    for line in lines[number:]:
        if not line.strip() or RULE.match(line):
            break
        taken.append(line.strip())
    return " ".join(taken)


def list_attempts(folder: Path) -> list[Attempt]:
    """Read the records of failed attempts, by benchmark, run and attempt.

    A record that cannot be read is passed over here; its files stay.
    """
    found = []
    for file in folder.glob("*.json"):
        if RECORD.fullmatch(file.name) is None:
            continue
        try:
            found.append(Attempt(**json.loads(file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            continue
    return sorted(found, key=lambda a: (a.benchmark != "resnet", a.run, a.attempt))


def next_attempt(folder: Path, benchmark: str, run: int) -> int:
    """The number of the next attempt at a run: one more than any file of it says."""
    prefix = f"{benchmark}_{run}_"
    names = (file.name for file in folder.glob(f"{prefix}*"))
    numbers = (name.removeprefix(prefix).split(".")[0] for name in names)
    return 1 + max((int(n) for n in numbers if n.isdigit()), default=-1)


def record_attempt(folder: Path, attempt: Attempt, log: Path, output: Path) -> None:
    """Put a failed attempt on record; its log and output are moved beside the record.

    The record comes first, so that a full disk leaves log and output where they were and the next
    start records them. Raises OSError.
    """
    folder.mkdir(exist_ok=True)
    with write_atomically(folder / f"{attempt.name}.json") as file:
        json.dump(asdict(attempt), file, indent=1)
        file.write("\n")
    for source, suffix in ((log, "txt"), (output, "output.txt")):
        if source.exists():
            os.rename(source, folder / f"{attempt.name}.{suffix}")
