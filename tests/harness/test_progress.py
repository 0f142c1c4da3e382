"""Progress lines: redrawn on a terminal, rarer and whole in a file; durations as people write."""

from __future__ import annotations

import io

import pytest

from harness import progress
from harness.progress import Progress, end_progress, format_seconds


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A monotonic clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 00 min"),
        (7859, "2 h 10 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_a_terminal_shows_one_line_redrawn(clock: Clock) -> None:
    screen = Screen()
    work = Progress("packing", 2000, "images", screen)
    clock.now += 0.4
    work.update(1)
    assert screen.getvalue() == ""
    clock.now += 1.6
    work.update(500)
    assert screen.getvalue() == ("\r\x1b[Kpacking: 500/2,000 images (25 %), 250 images/s, 6 s left")
    clock.now += 0.2
    work.update(550)
    clock.now += 5.8
    work.finish(2000, "to disk")
    text = screen.getvalue()
    assert "550" not in text
    assert text.endswith("\r\x1b[Kpacking: 2,000 images in 8 s (250 images/s) to disk\n")
    assert text.count("\n") == 1


def test_what_follows_unfinished_work_begins_a_line(clock: Clock) -> None:
    for end in (Progress.end, lambda _: end_progress()):
        screen = Screen()
        work = Progress("verify", 10, "kB", screen)
        clock.now += 1
        work.update(5)
        end(work)
        assert screen.getvalue().endswith("\r\x1b[K")
        written = screen.getvalue()
        end_progress()  # once is enough
        assert screen.getvalue() == written


def test_a_file_gets_whole_lines_ten_times_more_rarely(clock: Clock) -> None:
    file = io.StringIO()
    work = Progress("packing", 100, "images", file, interval_seconds=0.5)
    for done in range(1, 101):
        clock.now += 0.1
        work.update(done)
    work.finish(100)
    lines = file.getvalue().splitlines()
    assert lines == [
        "packing: 50/100 images (50 %), 10 images/s, 5 s left",
        "packing: 100/100 images (100 %), 10 images/s",
        "packing: 100 images in 10 s (10 images/s)",
    ]
    assert "\r" not in file.getvalue()


def test_a_note_is_added(clock: Clock) -> None:
    screen = Screen()
    work = Progress("steps", 10, "steps", screen)
    clock.now += 1
    work.update(10, "loss 2.5")
    assert screen.getvalue().endswith("steps: 10/10 steps (100 %), 10 steps/s loss 2.5")


def test_nothing_done_and_nothing_to_do(clock: Clock) -> None:
    file = io.StringIO()
    Progress("empty", 0, "files", file).finish(0)
    work = Progress("slow", 5, "files", file)
    clock.now += 60
    work.update(0)
    assert file.getvalue().splitlines() == [
        "empty: 0 files in 0 s (0 files/s)",
        "slow: 0/5 files (0 %), 0 files/s",
    ]


def test_stderr_is_where_it_goes(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    work = Progress("work", 4, "parts")
    clock.now += 2
    work.finish(4)
    written = capsys.readouterr()
    assert written.out == "" and written.err == "work: 4 parts in 2 s (2 parts/s)\n"
