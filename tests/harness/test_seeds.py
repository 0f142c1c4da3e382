"""Seeds: fresh in every run, one for all ranks, independent for every purpose and rank."""

from __future__ import annotations

import os
from typing import Any

import pytest

from harness.ranks import Ranks
from harness.seeds import derive_seed, draw_seed

ALONE = Ranks(0, 1, 0, 1, 0, ("host",), "single")


def test_drawn_seeds_differ_and_have_31_bits() -> None:
    seeds = [draw_seed(ALONE) for _ in range(200)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 1 << 31 for seed in seeds)
    assert max(seeds) > 1 << 30


def test_the_seed_is_the_systems_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "urandom", lambda count: bytes([0xFF] * count))
    assert draw_seed(ALONE) == 0x7FFFFFFF
    monkeypatch.setattr(os, "urandom", lambda count: bytes([1, 2, 0, 0]))
    assert draw_seed(ALONE) == 0x201


def test_every_rank_has_rank_0s_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def broadcast(ranks: Ranks, value: Any) -> Any:
        given.append(value)
        return given[0]

    monkeypatch.setattr(Ranks, "broadcast", broadcast)
    seeds = [draw_seed(Ranks(r, 3, r, 3, 0, ("h",) * 3, "openmpi")) for r in range(3)]
    assert len(set(given)) == 3
    assert seeds == [given[0]] * 3


def test_derived_seeds_repeat_and_differ() -> None:
    pairs = [(s, p, i) for s in (0, 1, 2**31 - 1) for p in ("order", "data") for i in range(64)]
    seeds = [derive_seed(*pair) for pair in pairs]
    assert seeds == [derive_seed(*pair) for pair in pairs]
    assert len(set(seeds)) == len(pairs)
    assert all(0 <= seed < 1 << 31 for seed in seeds)
    assert derive_seed(5, "order") == derive_seed(5, "order", 0)


def test_purpose_seed_and_index_do_not_run_together() -> None:
    assert derive_seed(1, "a", 11) != derive_seed(11, "a", 1)
    assert derive_seed(1, "a/1", 1) != derive_seed(1, "a", 11)
