"""Failed attempts: what is read off the ranks' words, and that no record is ever replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.attempts import (
    Attempt,
    find_reason,
    list_attempts,
    next_attempt,
    record_attempt,
)

MPIRUN = """\
some warning
error: lost the connection to another rank, which ended
--------------------------------------------------------------------------
prterun noticed that process rank 2 with PID 41 on node node3 exited on
signal 9 (Killed).
--------------------------------------------------------------------------
"""

LEFT = """\
--------------------------------------------------------------------------
prterun has exited due to process rank 2 with PID 9 on node node3 exiting
improperly. There are three reasons this could occur:

2. this process called "init", but exited without calling "finalize".
--------------------------------------------------------------------------
RuntimeError: an echo of it
"""
LOST_DAEMON = """\
some warning
------------------------------------------------------------
A daemon failed to report back after being spawned. This could
be due to several factors, including inability to find it.

  Local host:    node1
  Remote host:   node3
  Daemon exit status: 255

This may also be caused by a firewall on the remote host. Please
try again.
------------------------------------------------------------
"""

PMIX = """\
[node1:04682] plm:ssh: Warning: setpgid(4687,4687) failed in parent with errno=Permission denied(13)
--------------------------------------------------------------------------
Sorry!  You were supposed to get help about:
    find-available:not-valid
But I couldn't open the help file:
    /opt/openmpi/share/pmix/help-pmix-mca-base.txt: No such file or directory.
Sorry!
--------------------------------------------------------------------------
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PMIX, None),
        (f"the last word of a rank\n{PMIX}", "the last word of a rank"),
        (MPIRUN, "prterun noticed that process rank 2 with PID 41 on node node3 exited on signal 9 "
         "(Killed)."),
        ("error: lost the connection to another rank\nerror: /d/x: no such shard\nlast\n",
         "error: /d/x: no such shard"),
        ("slurmstepd: error: *** CANCELLED ***\nTraceback:\nRuntimeError: Timed out after 20000ms",
         "RuntimeError: Timed out after 20000ms"),
        ("srun: error: node3: task 2: Killed\nsrun: Terminating StepId=1.0\n"
         "srun: error: node1: task 0: Killed\n", "srun: error: node3: task 2: Killed"),
        ("error: lost the connection to x\nsrun: Job step aborted: Waiting\n"
         "srun: error: node1: task 0: Killed\n", "error: lost the connection to x"),
        ("srun: Job step aborted: Waiting\nsrun: error: nodes1-2: tasks 0-1: Killed\n"
         "slurmstepd: error: *** STEP 2.0 ON node1 CANCELLED AT x ***\n",
         "slurmstepd: error: *** STEP 2.0 ON node1 CANCELLED AT x ***"),
        (LEFT, "prterun has exited due to process rank 2 with PID 9 on node node3 exiting "
         "improperly."),
        (LOST_DAEMON, "mpirun has no connection to its daemon on node3: off, or cut off"),
        ("srun: error: Node failure on node3\n", "srun: error: Node failure on node3"),
        ("a\nerror: lost the connection to x\n", "error: lost the connection to x"),
        ("first\n  last  \n\n-----------------\n", "last"),
        ("a\x1b[2Jb\n", "a [2Jb"),
        ("", None),
    ],
)  # fmt: skip
def test_the_most_telling_line_is_the_reason(tmp_path: Path, text: str, reason: str | None) -> None:
    output = tmp_path / "output.txt"
    output.write_text(text)
    assert find_reason(output) == reason


def test_the_end_of_a_long_output_is_read_and_a_long_line_cut(tmp_path: Path) -> None:
    output = tmp_path / "output.txt"
    output.write_bytes(b"error: early\n" + b"\xff" * 200_000 + b"\nerror: late " + b"x" * 1000)
    reason = find_reason(output)
    assert reason is not None and reason.startswith("error: late xxx") and len(reason) == 300
    assert find_reason(tmp_path / "none.txt") is None


def make_attempt(benchmark: str, run: int, attempt: int) -> Attempt:
    return Attempt(benchmark, run, attempt, "why", 1, True, "2024-02-01T00:00:00+00:00", {"a": "1"})


def test_records_are_numbered_listed_and_never_replaced(tmp_path: Path) -> None:
    folder, log, output = tmp_path / "failed", tmp_path / "log", tmp_path / "output"
    assert next_attempt(folder, "bert", 1) == 0 and list_attempts(folder) == []
    wanted = []
    for benchmark, run in (("bert", 1), ("bert", 1), ("bert", 10), ("resnet", 0)):
        log.write_text("log")
        attempt = make_attempt(benchmark, run, next_attempt(folder, benchmark, run))
        record_attempt(folder, attempt, log, output)
        wanted.append(attempt)
        assert not log.exists()
    assert [attempt.attempt for attempt in wanted] == [0, 1, 0, 0]
    assert list_attempts(folder) == [wanted[3], *wanted[:3]]
    assert (folder / "bert_1_1.txt").read_text() == "log"
    assert not (folder / "bert_1_1.output.txt").exists()  # there was none


def test_a_damaged_record_keeps_its_number_and_hides_no_other(tmp_path: Path) -> None:
    log = tmp_path / "log"
    record_attempt(tmp_path / "failed", make_attempt("bert", 0, 0), log, log)
    for number, text in ((1, "{"), (2, "[]"), (3, '{"reason": 1}')):
        (tmp_path / "failed" / f"bert_0_{number}.json").write_text(text)
    (tmp_path / "failed" / "notes.json").write_text("{}")
    assert len(list_attempts(tmp_path / "failed")) == 1
    assert next_attempt(tmp_path / "failed", "bert", 0) == 4
