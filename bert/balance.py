"""Shares of a step's sequences for the ranks: equally many sequences, equally many tokens.

The step's sequences are those that the order names, whoever computes them. Every rank knows their
lengths and finds the same shares, so nothing is sent between ranks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Shares = list[npt.NDArray[np.int64]]


def share_out(lengths: npt.NDArray[np.int64], shares: int) -> Shares:
    """Cut sequences into shares of equal count and nearly equal tokens.

    lengths: (N,) tokens of each sequence. Returns for each share the indices of its sequences,
    longest first; where N is not a multiple, the first N % shares have one more. Ties are broken
    by place, so that every rank comes to the same answer.

    Sorted by length, every `shares` neighbours make a row that gives one sequence to each share:
    the longest of the row to the share with the fewest tokens so far. The most uneven rows come
    first and the even ones settle what is left.
    """
    count = len(lengths)
    rows = -(-count // shares)
    table = np.full(rows * shares, -1, np.int64)
    table[:count] = np.argsort(-lengths, kind="stable")
    table = table.reshape(rows, shares)
    tokens = np.where(table >= 0, lengths[table], 0)
    unevenness = tokens[:, 0] - tokens[:, -1]
    if count % shares:
        # First of all, while no share has tokens yet, so that the first shares take these.
        unevenness[-1] = tokens.max() + 1
    totals = np.zeros(shares, np.int64)
    dealt = np.empty_like(table)
    for row in np.argsort(-unevenness, kind="stable"):
        fewest = np.argsort(totals, kind="stable")
        dealt[row, fewest] = table[row]
        totals[fewest] += tokens[row]
    return [column[column >= 0] for column in dealt.T]
