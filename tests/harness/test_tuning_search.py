"""The search's rules: what is kept, how often noise is, and when it ends."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from harness.tuning_knobs import Knob, Values
from harness.tuning_probes import Measured
from harness.tuning_search import (
    LOOKS,
    Budget,
    OutOfTime,
    count_tests,
    count_trials,
    search_knob,
)

KNOB = Knob("threads", "resnet", "input", (("input", "threads"),), (4,), ((2,), (6,), (8,)), "why")
LEVEL = 0.05 / count_tests([KNOB])


def make_measure(
    rates: dict[int, float], scatter: float, seed: int, trials: int = 10_000
) -> Callable[[Knob, Values, int], Measured]:
    """Trials whose rate scatters; OutOfTime after so many."""
    generator = np.random.default_rng(seed)
    left = [trials]

    def measure(knob: Knob, values: Values, number: int) -> Measured:
        if not left[0]:
            raise OutOfTime
        left[0] -= 1
        rate = rates[int(values[0])] * (1 + scatter * float(generator.standard_normal()))
        return Measured("measured", 1.0, rate)

    return measure


def test_noise_is_kept_as_rarely_as_stated():
    same = dict.fromkeys((4, 2, 6, 8), 100.0)
    kept = sum(
        bool(search_knob(KNOB, make_measure(same, 0.05, seed), LEVEL).changed)
        for seed in range(400)
    )
    assert kept <= 20  # 5 % of 400


def test_a_real_change_is_kept():
    rates = {4: 100.0, 2: 70.0, 6: 130.0, 8: 115.0}
    kept = [search_knob(KNOB, make_measure(rates, 0.01, seed), LEVEL).chosen for seed in range(50)]
    assert kept.count((6,)) >= 48
    assert (2,) not in kept


def test_what_is_slower_is_dropped_after_the_first_look():
    rates = {4: 100.0, 2: 50.0, 6: 50.0, 8: 50.0}
    found = search_knob(KNOB, make_measure(rates, 0.005, 1), LEVEL)
    assert [one.verdict for one in found.candidates] == ["slower"] * 3
    assert [len(one.rates) for one in found.candidates] == [LOOKS[0]] * 3
    assert found.candidates[0].change == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("trials", [0, 1, 5, 11])
def test_nothing_is_kept_unjudged(trials: int):
    rates = {4: 100.0, 2: 200.0, 6: 300.0, 8: 400.0}
    found = search_knob(KNOB, make_measure(rates, 0.001, 1, trials), LEVEL)
    assert not found.changed
    assert {one.verdict for one in found.candidates} <= {"unfinished", "not tried"}


def test_a_present_value_that_fails_late_is_not_replaced_untested():
    def measure(knob: Knob, values: Values, number: int) -> Measured:
        if values == (4,) and number == 2:
            return Measured("failed", 1.0, message="a passing fault")
        return Measured("measured", 1.0, 100.0 + number)

    found = search_knob(KNOB, measure, LEVEL)
    assert not found.changed
    assert {one.verdict for one in found.candidates} == {"unfinished"}


def test_the_counts_that_a_search_announces():
    assert count_tests([KNOB]) == 6
    assert count_trials([KNOB]) == 24


def test_the_budget_allows_no_trial_that_would_not_end():
    budget = Budget(600)
    assert 149 < budget.allow() <= 150
    assert 0 < Budget(8).allow() <= 8
    budget.longest_trial_seconds = 601
    with pytest.raises(OutOfTime):
        budget.allow()
    with pytest.raises(OutOfTime):
        Budget(0).allow()


def test_a_knob_without_another_value_costs_no_trial():
    knob = Knob("threads", "resnet", "input", (("input", "threads"),), (1,), (), "why")
    found = search_knob(knob, make_measure({}, 0.0, 1, trials=0), LEVEL)
    assert not found.changed and not found.present.rates
