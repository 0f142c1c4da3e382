"""Exit statuses and sentences of every command, and no traceback for what a user did."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.commands import InputError, Parser, describe_os_error, run_command
from harness.progress import Progress

ROOT = Path(__file__).resolve().parents[2]


def leave(main: Callable[[Sequence[str]], int], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["command", "first", "second"])
    with pytest.raises(SystemExit) as caught:
        run_command(main)
    return caught.value.code


def raises(error: BaseException) -> Callable[[Sequence[str]], int]:
    def main(arguments: Sequence[str]) -> int:
        raise error

    return main


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_status_of_main_is_that_of_the_process(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sequence[str]] = []

    def main(arguments: Sequence[str]) -> int:
        seen.append(arguments)
        return status

    assert leave(main, monkeypatch) == status
    assert seen == [["first", "second"]]


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("file.toml: no"), 2, "error: file.toml: no"),
        (
            FileNotFoundError(errno.ENOENT, "x", "/no/file"),
            2,
            "error: cannot use /no/file: no such file or folder",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_one_sentence(
    error: BaseException,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert leave(raises(error), monkeypatch) == status
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", f"{line}\n")


@pytest.mark.parametrize("error", [InputError("no"), OSError("no"), KeyboardInterrupt()])
def test_a_sentence_begins_a_line(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

    def main(_: Sequence[str]) -> int:
        work = Progress("work", 4, "parts", interval_seconds=0.0)
        work.update(1)
        raise error

    leave(main, monkeypatch)
    progress, sentence = capsys.readouterr().err.rsplit("\r\x1b[K", 1)
    assert "work: 1/4 parts" in progress and sentence.count("\n") == 1


@pytest.mark.parametrize(
    "defect", [ZeroDivisionError("defect"), ModuleNotFoundError("gone", name="harness.gone")]
)
def test_a_defect_of_ours_keeps_its_traceback(
    defect: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(type(defect)):
        run_command(raises(defect))


def test_a_library_that_is_not_installed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(_: Sequence[str]) -> int:
        import nvidia.no_such_library  # noqa: F401

        return 0

    assert leave(main, monkeypatch) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"error: {sys.executable} has no module nvidia")
    assert "container/requirements.lock" in sentence and sentence.count("\n") == 1


@pytest.mark.parametrize(
    "module",
    ["harness.predict", "harness.tune", "harness.compare", "resnet.train", "bert.train",
     "bert.prepare_data", "bert.checkpoint", "perf.gpu_checks"],
)  # fmt: skip
def test_a_python_without_any_library_is_one_sentence_of_every_command(module: str) -> None:
    """As on a login node that has the image and nothing else; -S hides what is installed."""
    command = [sys.executable, "-S", "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "has no module" in done.stderr and "scripts/environment" in done.stderr


def test_a_module_of_ours_that_is_gone_keeps_its_traceback() -> None:
    code = "import sys; sys.argv = ['-m']; import harness; import harness.no_such_module"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "x", "/disk/file"), "/disk/file: no space left on the disk"),
        (OSError(errno.EACCES, "x", "/srv/file"), "/srv/file: permission denied"),
        (OSError(errno.EROFS, "x"), "the file system is read-only: name a folder on another one"),
        (OSError(errno.ENOTDIR, "x", "/a/b"), "a folder is wanted"),
        (OSError(errno.EEXIST, "x", "/a"), "/a: is there already and is not replaced"),
        (OSError(errno.ELOOP, "Too many levels", "/l"), "/l: Too many levels"),
        (OSError("no number"), "no number"),
    ],
)
def test_os_errors_say_what_to_do(error: OSError, words: str) -> None:
    sentence = describe_os_error(error)
    assert words in sentence and "\n" not in sentence
    assert ("cannot use" in sentence) == bool(error.filename)


def test_a_wrong_call_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser(prog="python -m thing")
    parser.add_argument("--count", type=int, required=True)
    for arguments in ([], ["--count", "x"], ["--count", "1", "--unknown"]):
        with pytest.raises(SystemExit) as caught:
            parser.parse_args(arguments)
        assert caught.value.code == 2
        written = capsys.readouterr()
        assert written.out == "" and len(written.err.splitlines()) == 1
        assert written.err.startswith("python -m thing: ") and "--help" in written.err


PROGRAM = """
from harness.commands import run_command
def main(arguments):
    for number in range(100_000):
        print("line", number)
    return 1
run_command(main)
"""


def test_a_reader_that_goes_away_is_no_fault() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "line 0\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(timeout=600) == 0


FEW_LINES = """
import os, sys
from harness.commands import InputError, run_command
def main(arguments):
    if arguments:
        raise InputError("no")
    print("line")
    with open(os.path.join(os.environ["PLACE"], "file"), "w") as file:
        os.write(2, b"a word from a library")
        assert file.fileno() > 2, file.fileno()
    return 1
run_command(main)
"""


def run_in_shell(
    redirection: str, place: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    command = f'"$0" -c "$1" "${{@:2}}" {redirection}'
    return subprocess.run(
        ["bash", "-c", command, sys.executable, FEW_LINES, *arguments],
        cwd=ROOT,
        env={"PLACE": str(place), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_change_no_status(redirection: str, tmp_path: Path) -> None:
    done = run_in_shell(redirection, tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stdout == ("" if ">&- 2" in redirection or redirection == ">&-" else "line\n")
    assert (tmp_path / "file").read_bytes() == b""


def test_what_is_meant_for_a_closed_stderr_does_not_go_to_stdout(tmp_path: Path) -> None:
    done = run_in_shell("2>&-", tmp_path, "fail")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", r"\u03c3\udcff"), ("utf-8", "\u03c3\\udcff")]
)
def test_what_stdout_cannot_hold_is_shown_by_its_number(encoding: str, shown: str) -> None:
    """A letter of a configuration, or a byte of a file's name that is no text."""
    program = (
        "from harness.commands import run_command\n"
        "run_command(lambda _: print('\\u03c3\\udcff') or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.decode() == f"{shown}\n"


def test_a_reader_that_never_was_changes_no_status(tmp_path: Path) -> None:
    assert run_in_shell("| head -0; exit ${PIPESTATUS[0]}", tmp_path).returncode == 1


def test_a_full_device_is_one_sentence(tmp_path: Path) -> None:
    done = run_in_shell("> /dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr.endswith(
        "error: no space left on the disk: free some or name another folder\n"
    )
