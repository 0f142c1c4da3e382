"""The progress thread of a run: rank 0 speaks, the others are silent, stopping ends it."""

from __future__ import annotations

import threading
import time

import pytest

from harness import campaign, run_progress
from harness.ranks import Ranks
from harness.run_progress import MARK, RunProgress


def make_ranks(rank: int) -> Ranks:
    return Ranks(rank, 2, rank, 2, 0, ("host", "host"), "openmpi")


def wait_for_line(capsys: pytest.CaptureFixture[str], words: str) -> str:
    """Everything written until `words` came."""
    text = ""
    deadline = time.monotonic() + 600
    while words not in text:
        assert time.monotonic() < deadline, text
        time.sleep(0.01)
        text += capsys.readouterr().err
    return text


def test_rank_0_tells_samples_rate_and_note(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(make_ranks(0), 4096, "images", interval_seconds=0.02)
    progress.start()
    progress.samples += 1024
    wait_for_line(capsys, "1,024 of at most 4,096 images")
    progress.note = "(epoch 1: 0.5000)"
    text = wait_for_line(capsys, "(epoch 1: 0.5000)\n")
    progress.stop()
    line = text.splitlines()[-1]
    assert line.startswith(f"{MARK}1,024 of at most 4,096 images, ")
    assert "/s, at most " in line and " left (epoch 1: 0.5000)" in line
    capsys.readouterr()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_before_the_first_sample_there_is_no_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    progress = RunProgress(make_ranks(0), 100, "sequences", interval_seconds=0.02)
    progress.start()
    text = wait_for_line(capsys, "\n")
    progress.stop()
    assert text.splitlines()[0] == f"{MARK}0 of at most 100 sequences, 0/s"


def test_other_ranks_are_silent_and_start_no_thread(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    progress = RunProgress(make_ranks(1), 100, "images", interval_seconds=0.001)
    progress.start()
    assert threading.active_count() == before
    progress.samples += 10
    time.sleep(0.05)
    progress.stop()
    assert capsys.readouterr().err == ""


def test_stop_ends_the_thread_and_may_come_before_start() -> None:
    before = threading.active_count()
    RunProgress(make_ranks(0), 1, "images", interval_seconds=600.0).stop()
    progress = RunProgress(make_ranks(0), 1, "images", interval_seconds=600.0)
    progress.start()
    assert threading.active_count() == before + 1
    progress.stop()  # does not wait for the interval
    assert threading.active_count() == before


def test_rates_of_laps_and_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(run_progress.time, "monotonic", lambda: now[0])
    progress = RunProgress(make_ranks(1), 10_000, "images", interval_seconds=1.0)
    progress.start()
    progress.samples, now[0] = 100, 60.0
    assert (progress.lap_rate(), progress.lap_seconds(), progress.rate()) == (10.0, 10.0, 10.0)
    progress.start_lap()
    progress.samples, now[0] = 180, 62.0
    assert (progress.lap_rate(), progress.lap_seconds(), progress.rate()) == (40.0, 2.0, 15.0)


def test_the_campaign_knows_the_mark() -> None:
    assert campaign.PROGRESS_MARK == MARK
