"""Learning rates against vectors computed from the reference's formulas; evaluation points."""

from __future__ import annotations

from fractions import Fraction

import pytest

from harness.schedules import (
    decay_linearly,
    decay_quadratically,
    evaluation_epochs,
    evaluation_interval_samples,
    evaluation_updates,
)

# base, steps per epoch, warm-up epochs -> rates at steps 1, spe, W, W + 1, 10 spe, 20 spe,
# 35 spe - 1 and S - 1 of 37 epochs
QUADRATIC = [
    (
        (10.5, 393, 2),
        (0.013358779, 5.25, 10.5, 10.498473463, 6.248881100, 2.477600616, 0.034555080, 0.000100222),
    ),
    (
        (11.0, 401, 2),
        (0.013715711, 5.5, 11.0, 10.998432672, 6.546439313, 2.595569990, 0.036192263, 0.000100223),
    ),
    (
        (10.7, 401, 5),
        (0.005336658, 2.14, 10.7, 10.698332505, 7.617729123, 3.020311272, 0.042098659, 0.000100260),
    ),
]


@pytest.mark.parametrize(("settings", "expected"), QUADRATIC)
def test_quadratic_decay_gives_the_reference_rates(
    settings: tuple[float, int, int], expected: tuple[float, ...]
) -> None:
    base, spe, warmup_epochs = settings
    warmup, total = warmup_epochs * spe, 37 * spe
    steps = (1, spe, warmup, warmup + 1, 10 * spe, 20 * spe, 35 * spe - 1, total - 1)
    rates = [
        decay_quadratically(step, base=base, end=1e-4, warmup_steps=warmup, total_steps=total)
        for step in steps
    ]
    assert rates == pytest.approx(expected, rel=0, abs=6e-10)


def test_quadratic_decay_starts_at_zero_and_stays_at_its_end() -> None:
    def rate(step: int, warmup_steps: int = 10) -> float:
        return decay_quadratically(
            step, base=2.0, end=0.5, warmup_steps=warmup_steps, total_steps=30
        )

    assert rate(0) == 0.0 and rate(10) == 2.0
    assert rate(30) > 0.5 and rate(31) == rate(32) == rate(1000) == 0.5
    rates = [rate(step) for step in range(40)]
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rate(0, warmup_steps=0) == 2.0


@pytest.mark.parametrize("counts", [(-1, 10, 30), (0, -1, 30), (0, 31, 30)])
def test_quadratic_decay_refuses_counts_without_a_schedule(counts: tuple[int, int, int]) -> None:
    step, warmup, total = counts
    with pytest.raises(ValueError, match="warmup_steps"):
        decay_quadratically(step, base=1.0, end=0.0, warmup_steps=warmup, total_steps=total)


def linear(step: int, base: float, training_steps: int, warmup: int, start: int) -> float:
    return decay_linearly(
        step,
        base=base,
        training_steps=training_steps,
        warmup_steps=warmup,
        start_warmup_step=start,
    )


@pytest.mark.parametrize(
    ("step", "base", "training_steps", "warmup", "start", "expected"),
    [
        (0, 9.6e-4, 3680, 0, 0, 9.6e-4),  # no warm-up: the full rate at once
        (0, 9.6e-4, 3680, 0, -700, 9.6e-4),  # and no start either
        (1840, 9.6e-4, 3680, 0, 0, 4.8e-4),
        (3680, 9.6e-4, 3680, 0, 0, 0.0),
        (9999, 9.6e-4, 3680, 0, 0, 0.0),
        (0, 2e-3, 1141, 100, 0, 0.0),
        (50, 2e-3, 1141, 100, 0, 1e-3),
        (99, 2e-3, 1141, 100, 0, 1.98e-3),
        (100, 2e-3, 1141, 100, 0, 2e-3 * (1 - 100 / 1141)),  # the decay did not wait
        (0, 2.88293e-3, 600, 287, -76, 2.88293e-3 * 76 / 287),
        (210, 2.88293e-3, 600, 287, -76, 2.88293e-3 * 286 / 287),
        (211, 2.88293e-3, 600, 287, -76, 2.88293e-3 * (1 - 211 / 600)),
        (329, 2.58e-3, 700, 200330, -200000, 2.58e-3 * 200329 / 200330),
        (330, 2.58e-3, 700, 200330, -200000, 2.58e-3 * (1 - 330 / 700)),
    ],
)
def test_linear_decay_gives_the_reference_rates(
    step: int, base: float, training_steps: int, warmup: int, start: int, expected: float
) -> None:
    rate = linear(step, base, training_steps, warmup, start)
    assert rate == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("counts", [(-1, 10, 0), (0, 0, 0), (0, 10, -1)])
def test_linear_decay_refuses_counts_without_a_schedule(counts: tuple[int, int, int]) -> None:
    step, training_steps, warmup = counts
    with pytest.raises(ValueError, match="training_steps"):
        linear(step, 1.0, training_steps, warmup, 0)


@pytest.mark.parametrize(
    ("global_batch_size", "interval"),
    [
        (1, 150_000),
        (448, 150_000),
        (2171, 150_000),
        (2172, 175_000),
        (4343, 175_000),
        (4344, 200_000),
        (6515, 200_000),
        (6516, 225_000),
        (8686, 225_000),
        (8687, 250_000),
    ],
)
def test_evaluation_interval_is_that_of_the_rules(global_batch_size: int, interval: int) -> None:
    assert evaluation_interval_samples(global_batch_size) == interval
    exact = Fraction(5, 100) * (Fraction(23023, 100) * global_batch_size + 3_000_000)
    assert interval == exact // 25_000 * 25_000


def test_evaluations_follow_the_first_whole_batch_at_each_multiple() -> None:
    assert evaluation_updates(150_000, 768, 600) == [196, 391, 586]
    assert evaluation_updates(175_000, 3072, 171) == [57, 114, 171]
    assert evaluation_updates(175_000, 3072, 170) == [57, 114]
    assert evaluation_updates(150_000, 768, 195) == []
    # rounding each point, not adding up a rounded interval: 196 times 3 would be 588
    assert evaluation_updates(150_000, 768, 10_000)[-1] == 9961
    assert evaluation_updates(100, 50, 6) == [2, 4, 6]
    assert evaluation_updates(30, 50, 4) == [1, 2, 3, 4]
    for update in evaluation_updates(150_000, 448, 7000):
        multiple = update * 448 // 150_000
        assert (update - 1) * 448 < multiple * 150_000 <= update * 448


def test_evaluation_epochs_are_every_fourth_from_the_first() -> None:
    assert evaluation_epochs(3, 39) == [3, 7, 11, 15, 19, 23, 27, 31, 35, 39]
    assert evaluation_epochs(4, 8) == [4, 8]
    assert evaluation_epochs(1, 4, period=1) == [1, 2, 3, 4]
    assert evaluation_epochs(3, 2) == []


@pytest.mark.parametrize("first", [0, 5])
def test_a_first_evaluation_outside_the_rules_is_refused(first: int) -> None:
    with pytest.raises(ValueError, match="first evaluation"):
        evaluation_epochs(first, 39)


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="global_batch_size"):
        evaluation_interval_samples(0)
    with pytest.raises(ValueError, match="interval_samples"):
        evaluation_updates(0, 768, 10)
