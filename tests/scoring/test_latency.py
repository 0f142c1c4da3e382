"""Olympic mean and the choice of a window among more runs than needed."""

import math
import random
from statistics import median

import pytest

from scoring.latency import choose_window, compute_olympic_mean
from scoring.log import Event, RunLog
from scoring.run import Run


def make_run(place, minutes):
    events = [Event(1, place * 10**6, "init_start", None, {}, b"")]
    events.append(Event(2, place * 10**6, "run_start", None, {}, b""))
    events.append(Event(3, place * 10**6 + minutes * 60_000, "run_stop", None, {}, b""))
    run = Run("resnet", RunLog(f"resnet/result_{99 - place}.txt", tuple(events), ()))
    if math.isinf(minutes):
        run.unusable.append((None, "made unusable"))
    return run


def choose(minutes):
    return choose_window([make_run(place, value) for place, value in enumerate(minutes)], 5)


def test_olympic_mean():
    assert compute_olympic_mean([5, 1, 2, 3, 100]) == pytest.approx(10 / 3)
    assert compute_olympic_mean([5, 1, 2, 3, math.inf]) == pytest.approx(10 / 3)
    assert math.isinf(compute_olympic_mean([5, 1, 2, math.inf, math.inf]))


def test_odd_windows_give_their_median():
    generator = random.Random(5)
    for _ in range(50):
        choice = choose([generator.uniform(10, 20) for _ in range(9)])
        values = [window.minutes for window in choice.windows]
        assert choice.chosen.minutes == median(values) == choice.median_minutes


def test_even_windows_give_the_slower_middle():
    choice = choose([10, 10, 10, 10, 10, 13, 13, 13])
    values = sorted(window.minutes for window in choice.windows)
    assert choice.chosen.minutes == values[2] > values[1]
    assert choice.median_minutes == pytest.approx((values[1] + values[2]) / 2)


def test_a_failed_run_without_times_stays_where_it_was_launched():
    # Were it the last, the first window would have one failure alone.
    runs = [make_run(place, 10) for place in range(7)]
    for place in (2, 3):
        runs[place].unusable.append((None, "made unusable"))
    for events in (runs[2].log.events[1:], ()):
        stripped = Run("resnet", RunLog(runs[2].name, events, ()), unusable=runs[2].unusable)
        choice = choose_window([*runs[:2], stripped, *runs[3:]], 5)
        assert [window.minutes for window in choice.windows] == [math.inf] * 3
        assert choice.windows[0].runs[2] is stripped


def test_the_first_file_may_hold_no_times():
    empty = Run("resnet", RunLog("resnet/result_0.txt", (), ()), unusable=[(None, "empty")])
    choice = choose_window([empty, *(make_run(place, 10) for place in range(5))], 5)
    assert choice.windows[0].runs[0] is empty


def test_a_window_with_two_failures_counts_as_infinite():
    inf = math.inf
    choice = choose([10, inf, 10, inf, 10, 10, 10])
    assert [math.isinf(window.minutes) for window in choice.windows] == [True, True, False]
    assert math.isinf(choice.chosen.minutes)
    assert choice.describe()["latency_minutes"] is None
    one_failure = choose([10, inf, 10, 10, 10, 10, 10])
    assert one_failure.chosen.minutes == 10
