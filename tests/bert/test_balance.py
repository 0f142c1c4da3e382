"""Shares: every sequence once, equally many, nearly equal tokens, the same answer everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from bert.balance import share_out
from bert.probe import draw_lengths


@pytest.mark.parametrize(
    ("count", "shares"), [(1, 1), (5, 1), (64, 4), (10, 4), (3, 5), (768, 16), (3072, 32), (313, 7)]
)
def test_every_sequence_is_in_one_share(count: int, shares: int) -> None:
    lengths = draw_lengths(count, 512, seed=count)
    dealt = share_out(lengths, shares)
    assert len(dealt) == shares
    assert sorted(np.concatenate(dealt).tolist()) == list(range(count))
    base, more = divmod(count, shares)
    assert [len(share) for share in dealt] == [base + 1] * more + [base] * (shares - more)
    for share in dealt:
        assert (np.diff(lengths[share]) <= 0).all()  # longest first
    again = share_out(lengths.copy(), shares)
    assert all(np.array_equal(a, b) for a, b in zip(dealt, again, strict=True))


@pytest.mark.parametrize(("sequences", "shares"), [(96, 8), (48, 16), (96, 32), (24, 32)])
def test_tokens_are_balanced_within_one_percent(sequences: int, shares: int) -> None:
    for seed in range(20):
        lengths = draw_lengths(sequences * shares, 512, seed)
        tokens = [int(lengths[share].sum()) for share in share_out(lengths, shares)]
        assert max(tokens) / np.mean(tokens) < 1.002
        squares = [int((lengths[share] ** 2).sum()) for share in share_out(lengths, shares)]
        assert max(squares) / np.mean(squares) < 1.02


def test_shares_of_the_evaluation_set_are_even_although_some_have_one_more() -> None:
    lengths = draw_lengths(10_000, 512, seed=1)
    tokens = [int(lengths[share].sum()) for share in share_out(lengths, 64)]
    assert max(tokens) / np.mean(tokens) < 1.001


def test_equal_lengths_are_dealt_by_place() -> None:
    dealt = share_out(np.full(6, 9), 3)
    assert [share.tolist() for share in dealt] == [[0, 3], [1, 4], [2, 5]]
