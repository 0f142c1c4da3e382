"""Budgets: a few shapes for every batch that can be expected, and an answer for the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bert.budget import NOT_LISTED, Budgets, choose_spacing, plan_budgets, plan_one_budget
from bert.examples import ExampleSettings
from bert.probe import draw_lengths

SETTINGS = ExampleSettings()
SHORT = ExampleSettings(max_seq_length=64, max_predictions_per_seq=10)


@pytest.mark.parametrize(
    ("sequences", "ranks", "mean", "settings"),
    [(96, 32, 254.4, SETTINGS), (48, 16, 254.4, SETTINGS), (96, 1, 254.4, SETTINGS),
     (16, 4, 40.0, SHORT), (1, 1, 30.0, SHORT), (4, 2, 64.0, SHORT), (16, 4, 1.0, SHORT)],
)  # fmt: skip
def test_the_list_is_short_and_rises(
    sequences: int, ranks: int, mean: float, settings: ExampleSettings
) -> None:
    budgets = plan_budgets(sequences, ranks, mean, settings)
    tokens = [budget.tokens for budget in budgets.listed]
    assert tokens == sorted(set(tokens)) and 1 <= len(tokens) <= 20
    assert all(count % budgets.spacing == 0 for count in tokens)
    assert tokens[-1] < sequences * settings.max_seq_length + budgets.spacing
    for budget in budgets.listed:
        assert budget.sequences == sequences + budgets.fillers
        assert budget.masked % 16 == 0 and budget.longest_sequence == settings.max_seq_length


@pytest.mark.parametrize(("sequences", "ranks"), [(96, 32), (48, 16), (96, 8)])
def test_filling_up_costs_less_than_one_percent(sequences: int, ranks: int) -> None:
    budgets = plan_budgets(sequences, ranks, 254.4, SETTINGS)
    filled, missed = [], 0
    for seed in range(400):
        tokens = int(draw_lengths(sequences * ranks, 512, seed).sum()) // ranks
        number, budget = budgets.choose(tokens, tokens)
        missed += number == NOT_LISTED
        filled.append(budget.tokens / tokens - 1)
    assert np.mean(filled) < 0.01 and missed == 0


def test_no_batch_of_the_settings_has_more_masked_tokens_than_fit() -> None:
    """Whatever the lengths, each with as many masked tokens as the reference would make."""
    budgets = plan_budgets(16, 4, 40.0, SHORT)
    generator = np.random.default_rng(0)
    for _ in range(500):
        lengths = generator.integers(5, 65, 16)
        masked = sum(min(10, max(1, round(int(length) * 0.15))) for length in lengths)
        _, budget = budgets.choose(int(lengths.sum()), int(lengths.sum()))
        assert masked <= budget.masked


@pytest.mark.parametrize("tokens", [5, 100, 479, 480, 481, 992, 993, 1024])
@pytest.mark.parametrize("fewer", [0, 1, 40, 300])
def test_every_batch_gets_a_budget_that_can_be_filled(tokens: int, fewer: int) -> None:
    budgets = plan_budgets(16, 4, 40.0, SHORT)
    fewest = max(1, tokens - fewer)
    number, budget = budgets.choose(tokens, fewest)
    fillers = budget.sequences - 16
    assert tokens <= budget.tokens <= fewest + fillers * 64
    if number == NOT_LISTED:
        assert budget not in budgets.listed
    else:
        assert budget is budgets.listed[number]
        assert number == 0 or budgets.listed[number - 1].tokens < tokens


def test_spacing_is_a_power_of_two_of_about_one_percent() -> None:
    assert [choose_spacing(mean) for mean in (10, 1600, 12_211, 24_422, 44_625)] == [
        16, 16, 128, 256, 256,
    ]  # fmt: skip


def test_known_sets_have_one_budget() -> None:
    budgets: Budgets = plan_one_budget(157, 64, 2_856_000, SETTINGS)
    (budget,) = budgets.listed
    assert 0 <= budget.tokens / (2_856_000 / 64) - 1 < 0.01
    assert budgets.choose(44_625, 44_600) == (0, budget)
    number, larger = budgets.choose(60_000, 60_000)
    assert number == NOT_LISTED and larger.tokens >= 60_000


def test_masking_of_everything_is_bounded_by_the_predictions() -> None:
    budgets = plan_budgets(4, 1, 50.0, replace(SHORT, masked_lm_prob=1.0))
    assert {budget.masked for budget in budgets.listed} == {48}  # 4 * 10, in sixteens
