"""What a launcher starts ends with it, whatever happens."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import processes
from harness.processes import adopt_orphans, list_descendants, run_tree

# A process that outlives its parent, in a session of its own, and says its number.
ORPHAN = (
    "import subprocess, sys; "
    "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
    "start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL); "
    "print(p.pid, flush=True); {then}"
)


def is_alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"


def run(then: str, limit_seconds: float, relay: object = None) -> tuple[int | None, list[str]]:
    lines: list[str] = []
    command = [sys.executable, "-c", ORPHAN.format(then=then)]
    end = run_tree(command, relay or lines.append, limit_seconds, Path.cwd())
    assert end.how in (f"ended with status {end.status}", "was ended at its time limit")
    return end.status, lines


@pytest.fixture(autouse=True)
def subreaper() -> None:
    adopt_orphans()


def test_passes_lines_and_status_on_and_kills_orphans() -> None:
    status, lines = run("print('second'); sys.exit(7)", 60)
    assert status == 7
    assert lines[1:] == ["second"]
    assert not is_alive(int(lines[0]))


def test_time_limit_ends_everything() -> None:
    status, lines = run("import time; time.sleep(600)", 2)
    assert status is None
    assert not is_alive(int(lines[0]))


def test_an_interrupt_ends_everything() -> None:
    seen: list[str] = []

    def interrupt(line: str) -> None:
        seen.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("import time; time.sleep(600)", 60, interrupt)
    assert not is_alive(int(seen[0]))


def test_other_children_are_left_alone() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        run("pass", 60)
        assert bystander.poll() is None
        assert bystander.pid in list_descendants(os.getpid())
    finally:
        bystander.kill()
        bystander.wait()


def test_a_launcher_that_ignores_sigterm_is_killed() -> None:
    start = time.monotonic()
    then = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    status, lines = run(then, 1)
    assert status is None and time.monotonic() - start < 60
    assert not is_alive(int(lines[0]))


def test_a_launcher_that_closes_its_output_and_hangs_meets_the_limit() -> None:
    status, lines = run("import os, time; os.close(1); os.close(2); time.sleep(600)", 3)
    assert status is None
    assert not is_alive(int(lines[0]))


def test_a_launcher_whose_work_is_over_has_little_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And one that ends within it keeps its status."""
    monkeypatch.setattr(processes, "AFTER_THE_WORK_SECONDS", 2.0)
    for seconds, status, how in ((600, None, "hung with its work done"), (1, 3, "ended with sta")):
        command = ["sh", "-c", f"echo work; sleep {seconds}; exit 3"]
        lines: list[str] = []
        end = run_tree(command, lines.append, 60, Path.cwd(), lambda: "work" in lines)  # noqa: B023
        assert end.status == status and end.how.startswith(how)


def test_an_mpirun_that_says_it_ends_the_job_has_little_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "AFTER_THE_WORDS_SECONDS", 0.5)
    words = (
        "prterun detected that one or more processes exited with non-zero status,",
        "prterun noticed that process rank 2 with PID 90 on node n3 exited on signal 9 (Killed).",
        "MPI_ABORT was invoked on rank 0 in communicator MPI_COMM_WORLD",
        "PRTE has lost communication with a remote daemon.",
    )
    for line in words:
        end = run_tree(["sh", "-c", f"echo '{line}'; sleep 600"], print, 60, Path.cwd())
        assert end.status is None and end.how == "hung while ending the job (it was ended)"


def test_a_second_interrupt_does_not_stop_the_cleaning_up() -> None:
    program = (
        "import os, signal, sys, threading; sys.path.insert(0, os.getcwd())\n"
        "from harness.processes import adopt_orphans, run_tree\n"
        "from pathlib import Path\n"
        "adopt_orphans()\n"
        "def interrupt(line):\n"
        "    print(line, flush=True)\n"
        "    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    raise KeyboardInterrupt\n"
        "try:\n"
        "    run_tree([sys.executable, '-c', sys.argv[1]], interrupt, 60.0, Path.cwd())\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    then = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    command = [sys.executable, "-c", program, ORPHAN.format(then=then)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 130, done.stderr
    assert not is_alive(int(done.stdout.split()[0]))
