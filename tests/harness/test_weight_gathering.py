"""Weights of sharded pools: there when a stage of the forward pass needs them, under way before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from harness.collectives import ALL_GATHER
from harness.parameters import FlatParameters
from harness.weight_gathering import WeightGathering
from tests.harness.test_gradients import flat_parameters

SHARDS = 2


class SlowGathers:
    """Stands in for the all-gathers of rank 0 of two: weights are no numbers until waited for.

    truth: (n,) what all ranks together hold of a pool. `left`: the places of the buckets under way.
    """

    def __init__(self, parameters: FlatParameters, patch: pytest.MonkeyPatch) -> None:
        self.pool = parameters.pools[0]
        self.truth = self.pool.weights.clone()
        self.left: list[int] = []
        self.begun: list[int] = []
        patch.setattr(dist, ALL_GATHER, self.gather)

    def gather(self, whole: Tensor, mine: Tensor, group: None, async_op: bool) -> dist.Work:
        start = whole.storage_offset()
        assert async_op and mine.numel() * SHARDS == whole.numel()
        self.begun.append(start)
        self.left.append(start)
        truth = self.truth[start : start + whole.numel()].clone()
        truth[: mine.numel()] = mine
        whole.fill_(torch.nan)
        return Arrival(lambda: (whole.copy_(truth), self.left.remove(start)))


class Arrival(dist.Work):
    """A collective whose result is there from `wait` on."""

    def __init__(self, arrive: Callable[[], object]) -> None:
        super().__init__()
        self.arrive = arrive

    def wait(self, timeout: object = None) -> bool:
        self.arrive()
        return True


def make_sharded_net() -> tuple[nn.Sequential, FlatParameters]:
    """Two layers whose four tensors have a bucket each."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    return model, flat_parameters(model, torch.float32, 0, SHARDS)


def test_each_stage_waits_for_its_own_buckets_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, parameters = make_sharded_net()
    x = torch.randn(2, 5)
    wanted = model(x).detach()
    gathering = WeightGathering(parameters, list(model))
    slow = SlowGathers(parameters, monkeypatch)
    under_way: list[int] = []
    model[1].register_forward_pre_hook(lambda *_: under_way.append(len(slow.left)))
    gathering.begin()
    assert len(slow.begun) == 4
    assert torch.equal(model(x).detach(), wanted)
    assert under_way == [2] and slow.left == []  # the second layer's still travel
    gathering.finish()  # nothing is left to wait for
    assert torch.equal(model(x).detach(), wanted)


def test_buckets_travel_in_the_order_of_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools are laid out in the backward pass's order: the first stage's buckets are the last."""
    model, parameters = make_sharded_net()
    gathering = WeightGathering(parameters, list(model))
    slow = SlowGathers(parameters, monkeypatch)
    gathering.gather()
    starts = {id(p.parameter): p.start for p in slow.pool.placed}
    assert slow.begun == [starts[id(parameter)] for parameter in model.parameters()]
    assert slow.begun[0] == max(slow.begun) and slow.left == []
    assert not slow.pool.weights.isnan().any()


def test_what_no_stage_waits_for_is_waited_for_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model, parameters = make_sharded_net()
    gathering = WeightGathering(parameters, list(model))
    slow = SlowGathers(parameters, monkeypatch)
    gathering.begin()
    model[0](torch.randn(2, 5))
    assert len(slow.left) == 2
    gathering.finish()
    assert slow.left == [] and not slow.pool.weights.isnan().any()


def test_a_parameter_of_no_stage_is_missed() -> None:
    model, parameters = make_sharded_net()
    with pytest.raises(ValueError, match="2 parameters of sharded pools belong to no stage"):
        WeightGathering(parameters, list(model)[:2])


def test_nothing_is_sent_where_nothing_is_sharded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(5, 7)
    parameters = flat_parameters(model)
    monkeypatch.setattr(dist, ALL_GATHER, lambda *_, **__: pytest.fail("sent"))
    gathering = WeightGathering(parameters, [])
    gathering.gather()
    assert not model._forward_pre_hooks
