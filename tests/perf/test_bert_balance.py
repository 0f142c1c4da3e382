"""The simulation of balance: ours under one percent where the order as it comes is far above."""

from __future__ import annotations

import json

import numpy as np
import pytest

from perf import bert_balance


@pytest.mark.parametrize(
    ("ranks", "sequences", "in_order"), [(8, 96, 8), (16, 48, 15), (32, 96, 12), (32, 48, 18)]
)
def test_ranks_are_balanced_within_one_percent(ranks: int, sequences: int, in_order: int) -> None:
    balance = bert_balance.simulate(ranks, sequences, 40)
    assert balance.in_order_tokens > in_order  # percent above the mean
    assert balance.tokens <= balance.tokens_worst < 0.1
    assert balance.cost < 0.2 and balance.masked < 0.5
    assert balance.tokens < balance.serpentine_tokens
    assert balance.filled_up < 1 and balance.not_listed == 0
    assert balance.weight < balance.in_order_weight / 20


def test_figures_are_what_they_are_called() -> None:
    assert bert_balance.exceed(np.array([1, 2, 3])) == pytest.approx(50)
    lengths = np.array([5, 9, 1, 7])
    assert bert_balance.share_in_order(lengths, 2).tolist() == [[0, 1], [2, 3]]
    assert bert_balance.share_serpentine(lengths, 2).tolist() == [[1, 2], [3, 0]]
    shares = np.array([[0, 1], [2, 3]])
    assert bert_balance.measure_weights(np.array([1, 1, 2, 2]), shares) == pytest.approx(100 / 3)


def test_the_command_prints_every_case(capsys: pytest.CaptureFixture[str]) -> None:
    assert bert_balance.main(["--steps", "2", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert [(r["ranks"], r["sequences"]) for r in results] == list(bert_balance.CASES)
    assert bert_balance.main(["--steps", "1"]) == 0
    assert "32 x 96" in capsys.readouterr().out
