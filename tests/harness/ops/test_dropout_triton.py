"""Dropout's draws: their generator, their seeds, and what they have in common with nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.commands import InputError

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from harness.ops.dropout_add_layer_norm_triton import dropout_add_layer_norm
from harness.ops.dropout_triton import DRAWS, SEED_END, draw_seed, find_threshold

WORD = 2**32


def philox(seed: int, counter: int) -> list[int]:
    """Philox 4x32 with ten rounds, written from Salmon et al. 2011, section 3.3 and table 2."""
    words = [counter % WORD, 0, 0, 0]
    low, high = seed % WORD, seed // WORD
    for _ in range(10):
        first, second = words[0] * 0xD2511F53, words[2] * 0xCD9E8D57
        words = [
            second // WORD ^ words[1] ^ low,
            second % WORD,
            first // WORD ^ words[3] ^ high,
            first % WORD,
        ]
        low, high = (low + 0x9E3779B9) % WORD, (high + 0xBB67AE85) % WORD
    return words


def test_philox_gives_the_published_numbers() -> None:
    # Random123's known answers: counter and key all zeros
    assert philox(0, 0) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def find_kept(rows: int, hidden: int, dropout: float, seed: int) -> Tensor:
    """Which elements survive: where a gradient reaches x, every slope being other than 0."""
    torch.manual_seed(seed)
    x = torch.randn(rows, hidden, dtype=torch.float64).float().requires_grad_()
    ones = torch.ones(hidden)
    torch.manual_seed(seed)
    nothing = torch.zeros(hidden), torch.zeros(rows, hidden)
    y, _ = dropout_add_layer_norm(x, *nothing, ones, 0 * ones, dropout, 1e-5, True)
    y.backward(torch.randn(rows, hidden))
    assert x.grad is not None
    return x.grad != 0


def test_the_mask_is_philox_of_the_seed_that_torch_draws() -> None:
    rows, hidden = 5, 24
    kept = find_kept(rows, hidden, 0.5, 11)
    torch.manual_seed(11)
    seed = int(draw_seed(torch.device("cpu")))
    threshold, quarter = find_threshold(0.5), hidden // 4
    for row in range(rows):
        for column in range(quarter):
            draws = philox(seed, row * quarter + column)
            here = [bool(kept[row, column + j * quarter]) for j in range(4)]
            assert here == [draw >= threshold for draw in draws]


def test_kept_elements_are_as_many_as_they_should_be() -> None:
    for dropout in (0.1, 0.5, 0.9):
        kept = find_kept(8, 4096, dropout, 3).float()
        variance = dropout * (1 - dropout)
        assert abs(kept.mean() - (1 - dropout)) < 4 * (variance / kept.numel()) ** 0.5
        # No stretch of 64 has a share of its own: 512 of them, standard deviation 0.063.
        counts = kept.view(-1, 64).sum(1)
        spread = ((counts - 64 * (1 - dropout)) ** 2 / (64 * variance)).mean()
        assert 0.75 < spread < 1.25


def test_seeds_and_neighbours_are_independent() -> None:
    masks = [find_kept(8, 4096, 0.5, seed).float() - 0.5 for seed in range(4)]
    limit = 4 * 0.25 / masks[0].numel() ** 0.5
    for number, mask in enumerate(masks):
        for other in masks[:number]:
            assert abs((mask * other).mean()) < limit
        for shift in (1, 2, 1024):  # the next element, the one after, the next quarter
            assert abs((mask[:, shift:] * mask[:, :-shift]).mean()) < 1.5 * limit
        assert abs((mask[1:] * mask[:-1]).mean()) < 1.5 * limit


def test_each_call_draws_another_seed_and_torch_repeats_them() -> None:
    cpu = torch.device("cpu")
    torch.manual_seed(5)
    seeds = [int(draw_seed(cpu)) for _ in range(100)]
    assert len(set(seeds)) == 100 and all(0 <= seed < SEED_END for seed in seeds)
    assert max(seeds) > 2**62  # all 63 bits are drawn
    torch.manual_seed(5)
    assert [int(draw_seed(cpu)) for _ in range(100)] == seeds


def test_thresholds() -> None:
    assert find_threshold(0.0) == 0
    assert abs(find_threshold(0.1) / DRAWS - 0.1) < 1 / DRAWS
    for wrong in (-0.1, 1.0, 1.5):
        with pytest.raises(InputError, match="dropout must be"):
            find_threshold(wrong)
