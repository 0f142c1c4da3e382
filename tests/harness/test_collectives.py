"""Tests of harness/collectives.py."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist

from harness import collectives


@pytest.fixture
def one_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_collectives_print_no_warning(one_rank: None) -> None:
    values = torch.arange(6.0)
    mine, whole = torch.zeros(6), torch.zeros(6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert collectives.reduce_scatter(mine, values) is None
        work = collectives.all_gather(whole, mine, async_op=True)
    assert work is not None
    work.wait()
    assert torch.equal(whole, values)


def test_what_stands_in_torchs_place_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name in (collectives.REDUCE_SCATTER, collectives.ALL_GATHER):
        monkeypatch.setattr(dist, name, lambda *_, name=name, **__: called.append(name))
    collectives.reduce_scatter(torch.zeros(1), torch.zeros(1))
    collectives.all_gather(torch.zeros(1), torch.zeros(1))
    assert called == [collectives.REDUCE_SCATTER, collectives.ALL_GATHER]
