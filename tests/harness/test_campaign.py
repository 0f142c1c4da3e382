"""Parts of the campaign by themselves: what is shown, kept and told, without a trainer.

tests/test_campaign.py runs whole campaigns.
"""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import campaign, processes
from harness.attempts import record_attempt
from harness.campaign import (
    Relay,
    copy_system_file,
    describe_settings,
    make_data,
    parse_arguments,
    prepare,
    print_commands,
    print_failed_attempts,
    print_summary,
    run_benchmark,
    run_once,
)
from harness.commands import InputError
from harness.results import RESERVE_BYTES, Results
from harness.systems import System, load_system

DEMO = campaign.SYSTEMS / "demo.toml"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_progress_in_place() -> None:
    screen, file = Screen(), io.StringIO()
    relay = Relay(screen, "bert run 1 of 2: ", file)
    for line in ("~ 64 of 512", "~ 128 of 512", "a warning", "another", "~ 192 of 512"):
        relay(line)
    erase = campaign.ERASE
    assert screen.getvalue() == (
        f"{erase}bert run 1 of 2: 64 of 512{erase}bert run 1 of 2: 128 of 512"
        f"{erase}a warning\nanother\n{erase}bert run 1 of 2: 192 of 512"
    )
    assert file.getvalue() == "a warning\nanother\n"


def test_a_file_as_screen_gets_whole_lines() -> None:
    screen = io.StringIO()
    relay = Relay(screen)
    for line in ("~ 64 of 512", "a warning", ""):
        relay(line)
    assert screen.getvalue() == "64 of 512\na warning\n\n"


def test_options() -> None:
    options = parse_arguments([])
    assert (options.system, options.benchmark, options.runs) == ("demo", "all", None)
    assert (options.results, options.resume, options.dry_run) == (Path("results"), False, False)
    options = parse_arguments(["--benchmark", "bert", "--runs", "3", "--resume"])
    assert (options.benchmark, options.runs, options.resume) == ("bert", 3, True)


@pytest.mark.parametrize(
    "arguments", [["--runs", "0"], ["--runs", "-1"], ["--runs", "x"], ["--benchmark", "gpt"], ["x"]]
)
def test_wrong_options_are_one_line(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_arguments(arguments)
    assert caught.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_campaign_is_hashed_by_system_and_configurations(tmp_path: Path) -> None:
    system, file = load_system(DEMO), tmp_path / "demo.toml"
    file.write_bytes(DEMO.read_bytes())
    first = describe_settings(system, file)
    assert set(first) == {"demo.toml", "resnet/configs/demo.toml", "bert/configs/demo.toml"}
    file.write_text(DEMO.read_text() + "# changed\n")
    second = describe_settings(system, file)
    assert {key for key in first if first[key] != second[key]} == {"demo.toml"}
    benchmarks = replace(system.benchmarks, bert=replace(system.benchmarks.bert, config="no.toml"))
    with pytest.raises(InputError, match=r"names no\.toml, which is not there"):
        describe_settings(replace(system, benchmarks=benchmarks), file)


def test_a_dry_run_prints_each_launch_and_makes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system, results = load_system(DEMO), Results(tmp_path / "out" / "demo")
    assert print_commands(system, DEMO, ["resnet", "bert"], results, None) == 0
    lines = capsys.readouterr().out.splitlines()
    wanted = [f"resnet/.unfinished_{run}.txt" for run in range(5)]
    wanted += [f"bert/.unfinished_{run}.txt" for run in range(10)]
    assert [line.rpartition("out/demo/")[2] for line in lines] == wanted
    assert print_commands(system, DEMO, ["bert"], results, 2) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert list(tmp_path.iterdir()) == []


def test_the_section_of_each_benchmark() -> None:
    system = load_system(DEMO)
    assert system.benchmarks.named("resnet") is system.benchmarks.resnet
    assert system.benchmarks.named("bert") is system.benchmarks.bert


def test_makers_of_data_must_succeed(results: Results, capsys: pytest.CaptureFixture[str]) -> None:
    system = load_system(DEMO)
    make_data(replace(system, campaign=replace(system.campaign, make_data=())), results)
    system = replace(system, campaign=replace(system.campaign, make_data=("no.such",)))
    with pytest.raises(InputError, match=r"'python -m no\.such' made no data \(it ended with"):
        make_data(system, results)
    assert "No module named" in capsys.readouterr().err


def write_log(path: Path, status: str | None) -> str:
    """A shell command that writes a run's log with an end or without."""
    events = [
        {"key": "run_start", "time_ms": 60_000, "value": None, "metadata": {}},
        {"key": "eval_accuracy", "time_ms": 90_000, "value": 0.75, "metadata": {"epoch_num": 3}},
    ]
    if status is not None:
        events.append(
            {"key": "run_stop", "time_ms": 120_000, "value": None, "metadata": {"status": status}}
        )
    text = "".join(f":::MLLOG {json.dumps(event)}\n" for event in events)
    return f"cat > {path} <<'END'\n{text}END\n"


class Trainer:
    """Stands for the launch command: a shell that logs and ends as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit_minutes: float = 1) -> None:
        self.status: str | None = "success"
        self.code: int | str = 0
        self.words, self.started = "echo from the ranks", 0
        system = load_system(DEMO)
        launch = replace(system.launch, run_limit_minutes=limit_minutes)
        self.system: System = replace(system, launch=launch)
        monkeypatch.setattr(campaign, "compose_command", self.compose)

    def compose(self, system: System, file: Path, benchmark: str, log: Path) -> list[str]:
        self.started += 1
        script = f"{self.words}\n{write_log(log, self.status)}exit {self.code}\n"
        return ["/bin/bash", "-c", script]


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    return Trainer(monkeypatch)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    results = Results(tmp_path / "demo")
    results.open({}, ["resnet", "bert"], resume=False)
    return results


@pytest.mark.parametrize(("status", "code"), [("success", 0), ("aborted", 1)])
def test_a_finished_run_is_kept_and_told(
    trainer: Trainer, results: Results, status: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.status, trainer.code = status, code
    assert run_once(trainer.system, DEMO, "bert", results, 2, 10)
    error = capsys.readouterr().err
    assert f"bert run 3 of 10: {status}, accuracy 0.7500 at 3, 1.000 min" in error
    assert results.log("bert", 2).read_text().count(":::MLLOG") == 3
    assert not results.unfinished_log("bert", 2).exists()
    assert results.output("bert", 2).read_text() == "from the ranks\n"


# Status 0: mpirun after a node's death.
@pytest.mark.parametrize("code", [0, 1, 137])
def test_a_run_whose_log_does_not_end_has_failed(
    trainer: Trainer, results: Results, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.status, trainer.code = None, code
    assert not run_once(trainer.system, DEMO, "resnet", results, 0, 5)
    error = capsys.readouterr().err
    assert "resnet run 1 of 5 failed" in error and "--resume" in error
    assert f"ended with status {code} and logged no run_stop; from the ranks" in error
    assert f"on record as {results.failed}/resnet_0_0.*" in error
    assert not results.log("resnet", 0).exists()
    assert not results.unfinished_log("resnet", 0).exists()
    assert ":::MLLOG" in (results.failed / "resnet_0_0.txt").read_text()
    assert (results.failed / "resnet_0_0.output.txt").read_text() == "from the ranks\n"
    (attempt,) = results.failed_attempts()
    assert (attempt.benchmark, attempt.run, attempt.attempt) == ("resnet", 0, 0)
    assert attempt.launcher_status == code and attempt.clock_started


def test_failed_runs_stay_on_record_beside_the_one_that_took_their_place(
    trainer: Trainer, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.status = None
    trainer.words = "echo 'error: no such shard: fetch it'"
    for _ in range(2):
        assert not run_once(trainer.system, DEMO, "resnet", results, 0, 5)
    trainer.status = "success"
    assert run_once(trainer.system, DEMO, "resnet", results, 0, 5)
    assert results.finished_runs("resnet") == [0]
    capsys.readouterr()
    print_failed_attempts(results)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"failed attempts on record in {results.failed}: 2"
    assert len(lines) == 3
    for line in lines[1:]:
        assert line.startswith("  resnet run 1: it ended with status 0")
        assert line.endswith("; error: no such shard: fetch it")


def test_an_interrupted_run_is_put_on_record(
    trainer: Trainer, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> int:
        results.unfinished_log("bert", 0).write_text("no clock yet\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "run_tree", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_once(trainer.system, DEMO, "bert", results, 0, 1)
    (attempt,) = results.failed_attempts()
    assert "interrupted" in attempt.reason and attempt.launcher_status is None
    assert not attempt.clock_started


def test_a_full_disk_is_told_and_what_is_there_stays(
    trainer: Trainer,
    results: Results,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("harness.results.record_attempt", refuse)
    trainer.status = None
    assert not run_once(trainer.system, DEMO, "bert", results, 0, 1)
    assert "not put on record: no space left" in capsys.readouterr().err
    assert results.unfinished_log("bert", 0).exists()
    monkeypatch.undo()
    results.open({}, ["bert"], resume=True)
    (attempt,) = results.failed_attempts()
    assert attempt.reason == "the campaign itself was ended before the run was; from the ranks"
    assert not results.unfinished_log("bert", 0).exists()


def test_a_full_disk_is_put_on_record_in_the_space_held_for_that(
    trainer: Trainer, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full before the run has written a word; only the reserve can make room."""

    def refuse(*arguments: Any) -> None:
        if results.reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        record_attempt(*arguments)

    def fill(*_: object) -> None:
        results.unfinished_log("bert", 0).touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("harness.results.record_attempt", refuse)
    monkeypatch.setattr(campaign, "run_tree", fill)
    assert results.reserve.stat().st_blocks * 512 >= RESERVE_BYTES
    with pytest.raises(InputError, match="bert run 1 of 1 was ended: no space left on the disk"):
        run_once(trainer.system, DEMO, "bert", results, 0, 1)
    (attempt,) = results.failed_attempts()
    assert attempt.reason.startswith("was ended: no space left on the disk")
    assert not results.unfinished_log("bert", 0).exists()
    results.open({}, ["bert"], resume=True)
    assert results.reserve.exists() and len(results.failed_attempts()) == 1


def test_the_system_file_is_copied_to_the_results(results: Results) -> None:
    copy = copy_system_file(load_system(DEMO), DEMO, results)
    assert copy == results.folder / "demo.toml" and copy.read_bytes() == DEMO.read_bytes()
    assert copy_system_file(load_system(DEMO), copy, results) == copy


def test_a_wrong_image_ends_the_campaign_before_it_begins(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = campaign.SYSTEMS / "example-4x8-h200.toml"
    system = load_system(file)
    prepare(load_system(DEMO), DEMO, results)
    with pytest.raises(InputError, match=r"image .* is not there: build it"):
        prepare(system, file, results)
    image = tmp_path / "kit.sif"
    image.touch()
    prepare(replace(system, container=replace(system.container, image=str(image))), file, results)
    assert "'image_sha256' is empty: the image is not checked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "code", "odd"),
    [("success", 0, False), ("aborted", 1, False), ("success", 137, True), ("aborted", 143, True)],
)
def test_a_run_whose_log_ends_is_kept_whatever_the_launcher_says(
    trainer: Trainer,
    results: Results,
    status: str,
    code: int,
    odd: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trainer.status, trainer.code = status, code
    assert run_once(trainer.system, DEMO, "resnet", results, 0, 5)
    error = capsys.readouterr().err
    assert f"resnet run 1 of 5: {status}" in error
    assert (f"the launcher ended with status {code}" in error) is odd
    assert results.log("resnet", 0).exists()
    assert not results.unfinished_log("resnet", 0).exists()


def test_a_run_over_its_limit_fails(
    monkeypatch: pytest.MonkeyPatch, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(monkeypatch, limit_minutes=0.02)
    trainer.words = "sleep 600"
    assert not run_once(trainer.system, DEMO, "bert", results, 0, 1)
    assert "it was ended at its time limit and logged no run_stop" in capsys.readouterr().err


def test_a_launcher_that_hangs_after_run_stop_costs_no_result(
    trainer: Trainer,
    results: Results,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(processes, "AFTER_THE_WORK_SECONDS", 0.5)
    trainer.code = "$(sleep 600)"
    assert run_once(trainer.system, DEMO, "bert", results, 0, 1)
    error = capsys.readouterr().err
    assert "note: the launcher hung with its work done (it was ended)" in error
    assert "bert run 1 of 1: success" in error
    assert results.finished_runs("bert") == [0]


def test_a_launcher_that_hangs_while_it_ends_the_job_is_on_record(
    trainer: Trainer, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "AFTER_THE_WORDS_SECONDS", 0.5)
    trainer.status, trainer.code = None, "$(sleep 600)"
    trainer.words = "echo 'prterun noticed that process rank 2 with PID 90 exited on signal 9'"
    assert not run_once(trainer.system, DEMO, "bert", results, 0, 1)
    (attempt,) = results.failed_attempts()
    assert attempt.launcher_status is None
    assert attempt.reason.startswith("it hung while ending the job (it was ended) and logged no")
    assert "exited on signal 9" in attempt.reason


def test_a_launcher_that_is_not_there(
    results: Results, monkeypatch: pytest.MonkeyPatch, trainer: Trainer
) -> None:
    monkeypatch.setattr(campaign, "compose_command", lambda *_: ["no-such-launcher", "x"])
    with pytest.raises(InputError, match="launcher 'no-such-launcher' is not on this machine"):
        run_once(trainer.system, DEMO, "bert", results, 0, 1)


def test_finished_runs_are_kept_and_the_first_failure_ends_a_benchmark(
    trainer: Trainer, results: Results, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_benchmark(trainer.system, DEMO, "bert", results, 2)
    assert trainer.started == 2
    assert run_benchmark(trainer.system, DEMO, "bert", results, 3)
    assert trainer.started == 3
    error = capsys.readouterr().err
    assert "bert run 1 of 3: kept" in error and "bert run 2 of 3: kept" in error
    trainer.status = None
    assert not run_benchmark(trainer.system, DEMO, "bert", results, None)
    assert trainer.started == 4
    assert results.finished_runs("bert") == [0, 1, 2]


SCORE = {
    "profile": "demo",
    "score": 123.45678,
    "benchmarks": {
        "resnet": {"latency_minutes": 0.25, "valid": True},
        "bert": {"latency_minutes": None, "valid": False},
    },
    "findings": [
        {"severity": "error", "file": "bert/result_0.txt", "line": 7, "message": "wrong"},
        {"severity": "warning", "file": None, "line": None, "message": "odd"},
        {"severity": "note", "file": None, "line": None, "message": "by the way"},
    ],
}


def test_the_summary_ends_with_r_b_and_the_score(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(SCORE, Path("score.json"), Path("report.html"))
    written = capsys.readouterr()
    lines = written.out.splitlines()
    assert lines[:2] == ["report: report.html", "score file: score.json"]
    assert lines[2].startswith("DEMONSTRATION")
    assert lines[3:] == [
        "R = 0.2500 min (resnet, valid)",
        "B = none (bert, NOT VALID)",
        "score = 7.19/R + 9.05/B = 123.4568",
    ]
    errors = [line.split() for line in written.err.splitlines()]
    assert errors == [["error:", "bert/result_0.txt:7", "wrong"], ["warning:", "odd"]]


def test_the_summary_of_a_real_campaign_of_one_benchmark(
    capsys: pytest.CaptureFixture[str],
) -> None:
    benchmarks = {"bert": {"latency_minutes": 5.0, "valid": True}}
    score = {"profile": "lp2bm", "score": None, "benchmarks": benchmarks, "findings": []}
    print_summary(score, Path("score.json"), Path("report.html"))
    assert capsys.readouterr().out.splitlines()[2:] == [
        "B = 5.0000 min (bert, valid)",
        "score = 7.19/R + 9.05/B = none",
    ]


def test_the_frame_is_the_commands(tmp_path: Path) -> None:
    """Without a run: an unknown system is one sentence, status 2."""
    command = [sys.executable, "-m", "harness.campaign", "--system", str(tmp_path / "no.toml")]
    done = subprocess.run(command, cwd=campaign.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == f"error: {tmp_path}/no.toml: no such configuration file\n"
