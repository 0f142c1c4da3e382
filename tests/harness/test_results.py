"""The results folder: nothing replaced, nothing half-written, one campaign at a time."""

import errno
import json
import os
from pathlib import Path

import pytest

from harness.commands import InputError
from harness.results import Results, has_stopped, read_run_end


def write_log(path: Path, status: str | None) -> None:
    events = [
        ("run_start", 1000, {}, None),
        ("eval_accuracy", 30_000, {"epoch_num": 3}, 0.5),
        ("eval_accuracy", 60_000, {"epoch_num": 7}, 0.8),
    ]
    if status:
        events.append(("run_stop", 61_000, {"status": status}, None))
    lines = [
        ":::MLLOG "
        + json.dumps({"key": key, "time_ms": time, "metadata": metadata, "value": value})
        for key, time, metadata, value in events
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["noise", *lines]) + "\n")


def test_reads_the_end_of_a_run(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert read_run_end(log) is None
    write_log(log, None)
    assert read_run_end(log) is None
    write_log(log, "success")
    end = read_run_end(log)
    assert end is not None
    assert (end.status, end.accuracy, end.reached_at, end.minutes) == ("success", 0.8, 7, 1.0)


def test_sees_the_stop_of_a_run_at_the_end_of_a_long_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert not has_stopped(log)
    write_log(log, "aborted")
    whole = log.read_text()
    for text, stopped in (("x\n" * 9999 + whole, True), (whole[:-1], False), (whole[:-9], False)):
        log.write_text(text)
        assert has_stopped(log) is stopped


def test_a_line_that_breaks_off_is_no_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    write_log(log, "success")
    whole = log.read_text()
    for cut in range(1, 40):
        log.write_text(whole[:-cut])
        end = read_run_end(log)
        assert end is None if cut > 1 else end is not None


def test_a_run_that_ended_is_kept_though_the_campaign_was_killed(tmp_path: Path) -> None:
    results = Results(tmp_path / "demo")
    results.open({}, ["bert"], resume=False)
    write_log(results.unfinished_log("bert", 0), "aborted")
    write_log(results.unfinished_log("bert", 1), None)
    assert results.finished_runs("bert") == [0]
    assert results.log("bert", 0).exists() and results.unfinished_log("bert", 1).exists()
    with pytest.raises(InputError, match="--resume"):
        results.open({}, ["bert"], resume=False)


def test_a_run_left_behind_by_a_killed_campaign_is_put_on_record(tmp_path: Path) -> None:
    results = Results(tmp_path / "demo")
    results.open({"a": "1"}, ["bert"], resume=False)
    write_log(results.unfinished_log("bert", 1), None)
    results.output("bert", 1).write_text("error: the store is gone: bring it back\n")
    before = results.unfinished_log("bert", 1).read_bytes()
    results.open({"a": "2"}, ["bert"], resume=False)
    (attempt,) = results.failed_attempts()
    assert attempt.reason.endswith(
        "ended before the run was; error: the store is gone: bring it back"
    )
    assert attempt.clock_started and attempt.name == "bert_1_0"
    assert (results.failed / "bert_1_0.txt").read_bytes() == before
    assert list((tmp_path / "demo" / "bert").iterdir()) == []
    results.open({"a": "2"}, ["bert"], resume=False)
    assert len(results.failed_attempts()) == 1


def test_keeps_a_run_and_never_replaces_one(tmp_path: Path) -> None:
    results = Results(tmp_path / "demo")
    results.open({}, ["bert"], resume=False)
    write_log(results.unfinished_log("bert", 3), "success")
    assert results.keep("bert", 3).name == "result_3.txt"
    assert results.finished_runs("bert") == [3]
    assert not results.unfinished_log("bert", 3).exists()
    before = results.log("bert", 3).read_bytes()
    write_log(results.unfinished_log("bert", 3), "aborted")
    with pytest.raises(InputError, match="left as it is"):
        results.keep("bert", 3)
    assert results.log("bert", 3).read_bytes() == before


def test_an_earlier_campaign_needs_resume(tmp_path: Path) -> None:
    results = Results(tmp_path / "demo")
    results.open({"a": "1"}, ["resnet"], resume=False)
    results.open({"a": "2"}, ["resnet"], resume=False)  # nothing finished: begun anew
    write_log(results.log("resnet", 0), "success")
    with pytest.raises(InputError, match=r"1 finished run.*--resume"):
        results.open({"a": "2"}, ["resnet"], resume=False)
    results.open({"a": "2"}, ["resnet", "bert"], resume=True)
    with pytest.raises(InputError, match="a has changed since"):
        results.open({"a": "3"}, ["resnet"], resume=True)
    record = tmp_path / "demo" / "campaign.json"
    for content in (b"", b"\xff", b"[]", b"[" * 100_000):
        record.write_bytes(content)
        with pytest.raises(InputError, match=r"campaign\.json: not what a campaign writes"):
            results.open({"a": "2"}, ["resnet"], resume=True)
        assert record.read_bytes() == content


def test_no_space_is_found_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.results.FREE_SPACE_BYTES", 1 << 62)
    with pytest.raises(InputError, match="MiB of disk left"):
        Results(tmp_path).open({}, ["bert"], resume=False)


def test_a_file_system_without_locks_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    with (
        pytest.raises(
            InputError, match=r"cannot be locked \(Function not implemented\).*--results"
        ),
        Results(tmp_path).lock(),
    ):
        pass


def test_one_campaign_at_a_time(tmp_path: Path) -> None:
    results = Results(tmp_path)
    with (
        results.lock(),
        pytest.raises(InputError, match="another campaign"),
        Results(tmp_path).lock(),
    ):
        pass
    with results.lock():
        results.open({}, ["bert"], resume=False)
        assert results.reserve.exists()
    assert not results.reserve.exists()
