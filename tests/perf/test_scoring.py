"""Scoring against the stock route: the same logs, every step of it, and nothing that crashed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.commands import InputError
from perf import scoring
from perf.scoring import Spent, copy_package, list_logs, list_stock_commands, run_processes


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    for benchmark, count in (("resnet", 2), ("bert", 3)):
        folder = tmp_path / "logs" / benchmark
        folder.mkdir(parents=True)
        for number in range(count):
            line = {"time_ms": 1, "key": "x", "value": None, "metadata": {}}
            (folder / f"result_{number}.txt").write_text(f":::MLLOG {json.dumps(line)}\n")
        (folder / ".unfinished_9.txt").write_text("")
    return tmp_path / "logs"


def test_the_stock_route_checks_every_log_and_benchmark(logs: Path, tmp_path: Path):
    commands = list_stock_commands(copy_package(logs, tmp_path / "a"), "4.0.0")
    modules = [command[0].removeprefix("mlperf_logging.") for command in commands]
    assert modules == ["compliance_checker"] * 5 + ["rcp_checker"] * 2
    assert len(set(list_logs(commands))) == 5
    (logs / "system.json").write_text("{}")
    commands = list_stock_commands(copy_package(logs, tmp_path / "b"), "4.0.0")
    modules = [command[0].removeprefix("mlperf_logging.") for command in commands]
    assert modules[7:] == ["package_checker", "result_summarizer"]
    assert all("4.0.0" in command for command in commands)


def test_the_stock_tools_get_copies(logs: Path, tmp_path: Path):
    package = copy_package(logs, tmp_path / "a")
    for command in list_stock_commands(package, "4.0.0"):
        assert str(logs) not in " ".join(command)
    assert sorted(path.name for path in package.rglob("*.txt")) == sorted(
        path.name for path in logs.rglob("result_*.txt")
    )


def test_a_folder_without_logs_is_one_sentence(tmp_path: Path):
    with pytest.raises(InputError, match="holds no resnet/ or bert/"):
        copy_package(tmp_path, tmp_path / "a")


def write_module(folder: Path, name: str, text: str) -> list[str]:
    (folder / f"{name}.py").write_text(text)
    return [name]


def test_processor_seconds_are_those_of_all_processes(tmp_path: Path):
    work = "import time\nwhile time.process_time() < 0.3: pass\n"
    command = write_module(tmp_path, "work", work)
    spent = run_processes([command, command], tmp_path)
    assert spent.processor_seconds >= 0.6
    assert spent.wall_seconds > 0.3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise SystemExit(2)", "fail failed on these logs"),
        ("raise ValueError('broken')", "ValueError: broken"),
        ("import sys\nprint('Traceback: x', file=sys.stderr)\n", "Traceback: x"),
    ],
)
def test_what_crashed_is_not_measured(tmp_path: Path, text: str, words: str):
    with pytest.raises(InputError, match=words):
        run_processes([write_module(tmp_path, "fail", text)], tmp_path)


def test_a_finding_is_no_crash(tmp_path: Path):
    command = write_module(tmp_path, "bad", "raise SystemExit(1)")
    assert run_processes([command], tmp_path).processor_seconds > 0


def test_the_ratio_is_printed(
    logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    seen: list[int] = []

    def spend(commands: list[list[str]], folder: Path) -> Spent:
        seen.append(len(commands))
        assert folder.is_dir()
        return Spent(0.5 * len(commands), 1.0 * len(commands))

    monkeypatch.setattr(scoring, "run_processes", spend)
    assert scoring.main(["--logs", str(logs), "--rounds", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert seen == [1, 7, 1, 7]
    assert (document["ours"], document["peer"], document["ratio"]) == (0.5, 3.5, 7.0)
    assert "5 logs" in document["how"] and "7 processes" in document["peer_name"]


def test_both_routes_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """A true measurement of one small log; the figures are whatever they are."""
    lines = [
        ("submission_benchmark", "resnet", {}),
        ("global_batch_size", 3264, {}),
        ("eval_accuracy", 0.76, {"epoch_num": 35}),
        ("run_stop", None, {"status": "success"}),
    ]
    folder = tmp_path / "logs" / "resnet"
    folder.mkdir(parents=True)
    with (folder / "result_0.txt").open("w") as file:
        for key, value, metadata in lines:
            line = {"time_ms": 1, "key": key, "value": value, "metadata": metadata}
            file.write(f":::MLLOG {json.dumps(line)}\n")
    arguments = ["--logs", str(tmp_path / "logs"), "--rounds", "1", "--rfp", "mlperf"]
    assert scoring.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "ratio" in printed and "2 processes of mlperf-logging" in printed
