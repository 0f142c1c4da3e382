"""Learning rates against vectors computed from the reference's formulas; evaluation points."""

from __future__ import annotations

from fractions import Fraction

import pytest

from harness.schedules import (
    PolynomialWarmup,
    bert_learning_rate,
    evaluation_interval_samples,
    evaluation_updates,
    resnet_evaluation_epochs,
)

# base, steps per epoch, warm-up epochs -> rates at steps 1, spe, W, W + 1, 10 spe, 20 spe,
# 35 spe - 1 and S - 1 of 37 epochs
POLYNOMIAL = [
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


@pytest.mark.parametrize(("settings", "expected"), POLYNOMIAL)
def test_polynomial_decay_gives_the_reference_rates(
    settings: tuple[float, int, int], expected: tuple[float, ...]
) -> None:
    base, spe, warmup_epochs = settings
    warmup, total = warmup_epochs * spe, 37 * spe
    steps = (1, spe, warmup, warmup + 1, 10 * spe, 20 * spe, 35 * spe - 1, total - 1)
    schedule = PolynomialWarmup(base, 1e-4, warmup, total)
    assert schedule.decay_steps == total - warmup + 1
    assert [schedule(step) for step in steps] == pytest.approx(expected, rel=0, abs=6e-10)


def test_polynomial_decay_starts_at_zero_and_stays_at_its_end() -> None:
    rate = PolynomialWarmup(base=2.0, end=0.5, warmup_steps=10, total_steps=30)
    assert rate(0) == 0.0 and rate(10) == 2.0
    assert rate(30) > 0.5 and rate(31) == rate(32) == rate(1000) == 0.5
    rates = [rate(step) for step in range(40)]
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert PolynomialWarmup(base=2.0, end=0.5, warmup_steps=0, total_steps=30)(0) == 2.0


def test_polynomial_decay_has_the_published_number_of_steps() -> None:
    assert PolynomialWarmup(10.5, 1e-4, 786, 14541).decay_steps == 13756


@pytest.mark.parametrize("counts", [(-1, 30), (31, 30)])
def test_polynomial_decay_refuses_counts_without_a_schedule(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="warmup_steps"):
        PolynomialWarmup(1.0, 0.0, *counts)
    with pytest.raises(ValueError, match="step must not be negative"):
        PolynomialWarmup(1.0, 0.0, 10, 30)(-1)


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
    rate = bert_learning_rate(step, base, training_steps, warmup, start)
    assert rate == pytest.approx(expected, rel=1e-12, abs=0)


@pytest.mark.parametrize("counts", [(-1, 10, 0), (0, 0, 0), (0, 10, -1)])
def test_linear_decay_refuses_counts_without_a_schedule(counts: tuple[int, int, int]) -> None:
    step, training_steps, warmup = counts
    with pytest.raises(ValueError, match="training_steps"):
        bert_learning_rate(step, 1.0, training_steps, warmup, 0)


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


def test_evaluation_epochs_are_every_fourth_until_the_decay_is_over() -> None:
    assert resnet_evaluation_epochs(3, 4, 37) == [3, 7, 11, 15, 19, 23, 27, 31, 35, 39]
    assert resnet_evaluation_epochs(3, 4, 35)[-1] == 35
    assert resnet_evaluation_epochs(4, 4, 8) == [4, 8]
    assert resnet_evaluation_epochs(1, 1, 4) == [1, 2, 3, 4]
    assert resnet_evaluation_epochs(3, 4, 2) == [3]


@pytest.mark.parametrize("arguments", [(0, 4, 37), (5, 4, 37), (3, 4, 0)])
def test_evaluation_epochs_outside_the_rules_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="first evaluation"):
        resnet_evaluation_epochs(*arguments)


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="global_batch_size"):
        evaluation_interval_samples(0)
    with pytest.raises(ValueError, match="interval_samples"):
        evaluation_updates(0, 768, 10)
