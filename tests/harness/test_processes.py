"""What a launcher starts ends with it, whatever happens."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
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


def run(then: str, relay: Callable[[str], None] = print) -> tuple[int | None, list[str]]:
    """Run an orphan's parent; far from its limit, unless the relay sets the clock forward."""
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        relay(line)

    end = run_tree([sys.executable, "-c", ORPHAN.format(then=then)], note, 600, Path.cwd())
    assert end.how in (f"ended with status {end.status}", "was ended at its time limit")
    return end.status, lines


class Clock:
    """The machine's clock, an hour later once something has happened."""

    def __init__(self, has_happened: Callable[[], bool] = lambda: False) -> None:
        self.has_happened = has_happened

    def wait_for(self, line: str) -> None:
        """Take a line that was written; "ready" is what it waits for."""
        if line == "ready":
            self.has_happened = lambda: True

    def monotonic(self) -> float:
        return time.monotonic() + 3600 * self.has_happened()


@pytest.fixture(autouse=True)
def subreaper() -> None:
    adopt_orphans()


def test_passes_lines_and_status_on_and_kills_orphans() -> None:
    status, lines = run("print('second'); sys.exit(7)")
    assert status == 7
    assert lines[1:] == ["second"]
    assert not is_alive(int(lines[0]))


def test_time_limit_ends_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "time", clock := Clock())
    status, lines = run("import time; print('ready', flush=True); time.sleep(600)", clock.wait_for)
    assert status is None
    assert not is_alive(int(lines[0]))


def test_an_interrupt_ends_everything() -> None:
    seen: list[str] = []

    def interrupt(line: str) -> None:
        seen.append(line)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("import time; time.sleep(600)", interrupt)
    assert not is_alive(int(seen[0]))


def test_a_command_that_is_nowhere_is_not_found_whatever_stands_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that may not be searched, or a file that may not be run, is told as permission."""
    (tmp_path / "no-such-launcher").write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(FileNotFoundError, match="no-such-launcher"):
        run_tree(["no-such-launcher"], print, 600, Path.cwd())
    with pytest.raises(PermissionError):
        run_tree([str(tmp_path / "no-such-launcher")], print, 600, Path.cwd())


def test_a_process_may_have_any_name() -> None:
    """The kernel keeps 15 bytes of it, so that a letter may be cut."""
    program = "import ctypes; ctypes.CDLL(None).prctl(15, b'\\xc3) \\xff', 0, 0, 0); input()"
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE)
    try:
        name = Path(f"/proc/{child.pid}/comm")
        while name.read_bytes() != b"\xc3) \xff\n":
            time.sleep(0.01)
        assert child.pid in list_descendants(os.getpid())
    finally:
        child.kill()
        child.communicate()


def test_other_children_are_left_alone() -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        run("pass")
        assert bystander.poll() is None
        assert bystander.pid in list_descendants(os.getpid())
    finally:
        bystander.kill()
        bystander.wait()


def test_a_launcher_that_ignores_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "time", clock := Clock())
    then = (
        "import pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"print('ready', flush=True); time.sleep(120); pathlib.Path('{tmp_path}/woken').touch()"
    )
    status, lines = run(then, clock.wait_for)
    assert status is None and list(tmp_path.iterdir()) == []
    assert not is_alive(int(lines[0]))


def test_a_launcher_that_closes_its_output_and_hangs_meets_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "time", Clock((tmp_path / "closed").exists))
    then = (
        "import os, pathlib, time; os.close(1); os.close(2); "
        f"pathlib.Path('{tmp_path}/closed').touch(); time.sleep(600)"
    )
    status, lines = run(then)
    assert status is None
    assert not is_alive(int(lines[0]))


def test_a_launcher_whose_work_is_over_has_little_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "AFTER_THE_WORK_SECONDS", 0.5)
    lines: list[str] = []
    command = ["sh", "-c", "echo work; sleep 600; exit 3"]
    end = run_tree(command, lines.append, 600, Path.cwd(), lambda: "work" in lines)
    assert end.status is None and end.how.startswith("hung with its work done")


def test_one_that_ends_in_the_time_left_keeps_its_status(tmp_path: Path) -> None:
    asked = tmp_path / "asked"

    def is_over() -> bool:
        asked.touch()
        return True

    command = ["sh", "-c", f"while [ ! -e {asked} ]; do sleep 0.1; done; exit 3"]
    end = run_tree(command, print, 600, Path.cwd(), is_over)
    assert (end.status, end.how) == (3, "ended with status 3")


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
        end = run_tree(["sh", "-c", f"echo '{line}'; sleep 600"], print, 600, Path.cwd())
        assert end.status is None and end.how == "hung while ending the job (it was ended)"


def test_a_second_interrupt_does_not_stop_the_cleaning_up() -> None:
    """It comes from the launcher, when it is asked to end."""
    program = (
        "import os, sys; sys.path.insert(0, os.getcwd())\n"
        "from harness.processes import adopt_orphans, run_tree\n"
        "from pathlib import Path\n"
        "adopt_orphans()\n"
        "def interrupt(line):\n"
        "    print(line, flush=True)\n"
        "    if line == 'ready':\n"
        "        raise KeyboardInterrupt\n"
        "try:\n"
        "    run_tree([sys.executable, '-c', sys.argv[1]], interrupt, 600.0, Path.cwd())\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    then = (
        "import os, signal, time; "
        "signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getppid(), signal.SIGINT)); "
        "print('ready', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", program, ORPHAN.format(then=then)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 130, done.stderr
    assert not is_alive(int(done.stdout.split()[0]))
