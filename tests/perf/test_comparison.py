"""Measuring in turns: the seconds belong to the right side, the ratio to neighbours in time."""

from __future__ import annotations

import json
import os

import pytest

from harness.commands import InputError, Parser
from perf import comparison
from perf.comparison import Turns, add_common_options, check_positive, measure_in_turns


def test_each_side_gets_its_own_seconds(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(comparison, "read_cpu_seconds", lambda: clock[0])

    def spend(seconds: float) -> None:
        clock[0] += seconds

    turns = comparison.measure_in_turns(lambda: spend(1.0), lambda: spend(4.0), rounds=3)
    assert turns == Turns(ours=(1.0,) * 3, peer=(4.0,) * 3)


def test_processor_seconds_count_work_and_not_waiting():
    before = comparison.read_cpu_seconds()
    resource_before = sum(os.times()[:2])
    sum(range(200_000))
    spent = comparison.read_cpu_seconds() - before
    assert 0 < spent <= sum(os.times()[:2]) - resource_before + 0.02  # the system's tick


def test_the_first_turn_is_not_counted():
    calls = []
    turns = measure_in_turns(lambda: calls.append("ours"), lambda: calls.append("peer"), rounds=2)
    assert calls == ["ours", "peer"] * 3
    assert len(turns.ours) == 2


def test_ours_may_be_called_more_often(monkeypatch: pytest.MonkeyPatch):
    clock = [0.0]
    monkeypatch.setattr(comparison, "read_cpu_seconds", lambda: clock[0])

    def spend(seconds: float) -> None:
        clock[0] += seconds

    turns = measure_in_turns(lambda: spend(1.0), lambda: spend(4.0), rounds=2, repetitions=5)
    assert turns == Turns(ours=(1.0,) * 2, peer=(4.0,) * 2)
    assert clock[0] == 3 * (5 + 4)


def test_ratio_is_the_median_of_the_turns(capsys: pytest.CaptureFixture[str]):
    turns = Turns(ours=(1.0, 2.0, 4.0), peer=(2.0, 6.0, 40.0))
    result = turns.compare("a", "b", "thing", 2, "how it was done")
    assert (result.ours, result.peer) == (1.0, 3.0)
    assert (result.ratio, result.ratios) == (3.0, (2.0, 10.0))
    result.show(as_json=True)
    assert json.loads(capsys.readouterr().out)["ratio"] == 3.0
    result.show(as_json=False)
    printed = capsys.readouterr().out
    assert "2.000 to 10.000" in printed and "how it was done" in printed


def test_counts_below_one_are_refused():
    parser = Parser(prog="x")
    add_common_options(parser, rounds=5)
    assert parser.parse_args([]).rounds == 5
    with pytest.raises(InputError, match="--rounds must be at least 1, is 0"):
        check_positive(parser.parse_args(["--rounds", "0"]), "rounds")
