"""The clock: order enforced, the caller's line in every log line, one way to end."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from harness.ranks import Ranks
from harness.runclock import ClockError, RunClock
from harness.systems import Submission

FIRST = Ranks(0, 1, 0, 1, 0, ("host",), "single")
SECOND = Ranks(1, 2, 1, 2, 0, ("host", "host"), "openmpi")
SUBMISSION = Submission("org", "platform", "research")


def make_clock(path: Path, ranks: Ranks = FIRST, target: float = 0.5) -> RunClock:
    return RunClock(ranks, path, target, lambda: None)


def start(clock: RunClock) -> None:
    clock.log_submission("resnet", SUBMISSION)
    clock.log_cache_clear({"hosts": {}})
    clock.start_init()
    clock.start_run()
    clock.start_block(1, 3)
    clock.start_evaluation(3)


def read_events(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines()
    assert all(line.startswith(":::MLLOG ") for line in lines)
    return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]


@pytest.mark.parametrize(("accuracy", "status"), [(0.5, "success"), (0.4999999, "aborted")])
def test_status_is_the_last_accuracys(tmp_path: Path, accuracy: float, status: str) -> None:
    clock = make_clock(tmp_path / "log")
    start(clock)
    assert clock.stop_evaluation(3, accuracy) is (status == "success")
    clock.stop_block(1)
    assert clock.stop_run() is (status == "success")
    events = read_events(tmp_path / "log")
    assert events[-1]["key"] == "run_stop"
    assert events[-1]["metadata"]["status"] == status
    keys = [event["key"] for event in events]
    assert keys[5:11] == [
        "cache_clear", "init_start", "init_stop", "run_start", "block_start", "eval_start",
    ]  # fmt: skip


def test_lines_name_the_callers_file_and_line(tmp_path: Path) -> None:
    clock = make_clock(tmp_path / "log")
    clock.log_submission("resnet", SUBMISSION)
    source = Path(__file__).read_text().splitlines()
    for event in read_events(tmp_path / "log"):
        assert event["metadata"]["file"] == "tests/harness/test_runclock.py"
        assert "log_submission" in source[event["metadata"]["lineno"] - 1]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    clock = make_clock(tmp_path / "log", SECOND)
    start(clock)
    clock.stop_evaluation(3, 0.9)
    clock.stop_block(1)
    assert clock.stop_run()
    assert not (tmp_path / "log").exists()


def test_out_of_order_calls_raise(tmp_path: Path) -> None:
    clock = make_clock(tmp_path / "log")
    with pytest.raises(ClockError, match="log_cache_clear"):
        clock.start_init()
    with pytest.raises(ClockError, match="start_run belongs"):
        clock.start_run()
    clock.log_cache_clear({})
    clock.start_init()
    with pytest.raises(ClockError, match="log_submission"):
        clock.start_run()
    with pytest.raises(ClockError, match="log_cache_clear belongs before init_start"):
        clock.log_cache_clear({})
    clock.log_submission("bert", SUBMISSION)
    clock.start_run()
    for call in (clock.start_init, clock.start_run, lambda: clock.start_evaluation(1)):
        with pytest.raises(ClockError):
            call()
    clock.start_block(1, 1)
    with pytest.raises(ClockError):
        clock.stop_run()
    clock.start_evaluation(1)
    with pytest.raises(ClockError, match="no fraction"):
        clock.stop_evaluation(1, 75.9)
    clock.stop_evaluation(1, 0.1)
    clock.stop_block(1)
    clock.stop_run()
    with pytest.raises(ClockError, match="after run_stop"):
        clock.log("anything", 1)


def test_a_log_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("an earlier run\n")
    with pytest.raises(FileExistsError):
        make_clock(tmp_path / "log")
    assert (tmp_path / "log").read_text() == "an earlier run\n"


def test_a_full_disk_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = make_clock(tmp_path / "log")
    (handler,) = clock._logger.logger.handlers

    def refuse(text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(handler.stream, "write", refuse)
    with pytest.raises(OSError, match="No space left"):
        clock.log_submission("bert", SUBMISSION)
