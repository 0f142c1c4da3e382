"""What LARS and LAMB share: groups, missing gradients, restored state, refused arguments."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.optimizers import LAMB, LARS
from harness.optimizers.groups import compute_norm, compute_norms

SHAPES = [(16, 3, 5, 5), (10, 8), (7, 5), (16,), (1,)]
ADAPTED = [0, 1, 2]


def make_parameters(arrays: list[Any]) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.tensor(array, dtype=torch.float32)) for array in arrays]


def make_groups(parameters: list[torch.nn.Parameter], adapted: list[int]) -> list[dict[str, Any]]:
    skipped = [i for i in range(len(parameters)) if i not in adapted]
    return [
        {"params": [parameters[i] for i in adapted]},
        {"params": [parameters[i] for i in skipped], "adapt": False},
    ]


MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"LARS": LARS, "LAMB": LAMB}


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_adapt_false_gets_neither_decay_nor_ratio(name: str) -> None:
    results = []
    for options in ({"weight_decay": 0.5, "adapt": False}, {"weight_decay": 0.0, "adapt": False}):
        (weight,) = make_parameters([np.array([1.0, 2.0, 3.0])])
        optimizer = MAKERS[name]([{"params": [weight], **options}], lr=0.25)
        weight.grad = torch.tensor([0.5, -0.25, 0.125])
        optimizer.step()
        results.append(weight.detach())
    assert torch.equal(*results)
    step = {"LARS": [0.125, -0.0625, 0.03125], "LAMB": [0.25, -0.25, 0.25]}[name]
    assert torch.allclose(results[0], torch.tensor([1.0, 2.0, 3.0]) - torch.tensor(step), rtol=1e-5)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_parameter_without_gradient_is_left_alone(name: str) -> None:
    used, unused = make_parameters([np.ones(3), np.ones(3)])
    optimizer = MAKERS[name]([used, unused], lr=0.1)
    optimizer.step()
    assert torch.equal(used, torch.ones(3)) and not optimizer.state
    used.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(unused, torch.ones(3)) and not torch.equal(used, torch.ones(3))
    assert unused not in optimizer.state


@pytest.mark.parametrize("name", sorted(MAKERS))
@pytest.mark.parametrize("way", ["state_dict", "deepcopy", "file"])
def test_a_restored_optimizer_goes_on_bit_for_bit(name: str, way: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    start = [np.asarray(torch.randn(shape), dtype=np.float64) for shape in SHAPES]
    parameters = make_parameters(start)
    optimizer = MAKERS[name](make_groups(parameters, ADAPTED), lr=0.1, weight_decay=0.01)

    def advance(some: list[torch.nn.Parameter], one: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        for _ in range(3):
            for parameter in some:
                parameter.grad = torch.randn(parameter.shape)
            one.step()

    advance(parameters, optimizer, 2)
    if way == "deepcopy":
        twins, other = copy.deepcopy((parameters, optimizer))
    else:
        twins = [torch.nn.Parameter(parameter.detach().clone()) for parameter in parameters]
        other = MAKERS[name](make_groups(twins, ADAPTED), lr=0.5)
        state = optimizer.state_dict()
        if way == "file":
            torch.save(state, tmp_path / "state.pt")
            state = torch.load(tmp_path / "state.pt", weights_only=True)
        other.load_state_dict(state)
    advance(parameters, optimizer, 3)
    advance(twins, other, 3)
    for ours, theirs in zip(twins, parameters, strict=True):
        assert torch.equal(ours, theirs)
    for parameter in parameters:
        assert all(value.dtype == torch.float32 for value in optimizer.state[parameter].values())


@pytest.mark.parametrize("rate", [torch.tensor(0.25), torch.tensor([[0.25]]), np.float32(0.25)])
@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_learning_rate_in_a_tensor_is_the_same_learning_rate(name: str, rate: Any) -> None:
    results = []
    for lr in (0.25, rate):
        parameters = make_parameters([np.array(1.0), np.array([1.0, 2.0]), np.array([3.0])])
        optimizer = MAKERS[name](make_groups(parameters, [0, 1]), lr=lr)
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 0.5)
        optimizer.step()
        results.append(torch.cat([parameter.detach().view(-1) for parameter in parameters]))
    assert torch.equal(*results)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_closure_is_called_with_gradients_on(name: str) -> None:
    (weight,) = make_parameters([np.array([2.0])])
    optimizer = MAKERS[name]([weight], lr=0.1)

    def closure() -> float:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert weight.item() < 2.0


# --- norms


def test_norms_of_large_tensors_are_as_good_as_those_of_small_ones() -> None:
    """Word embeddings have 31 million elements; one chain of fp32 sums is off by 1e-5 at one."""
    torch.manual_seed(1)
    tensors = [torch.randn(2_000, 1_500), torch.randn(()), torch.empty(0, 3), torch.randn(7)]
    tensors[0] = tensors[0].t()
    exact = torch.stack([tensor.double().norm() for tensor in tensors]).float()
    norms = compute_norms(tensors)
    assert norms.dtype == torch.float32 and torch.allclose(norms, exact, rtol=5e-7, atol=0)
    half = tensors[0].to(torch.float16)
    norm = compute_norm(half)
    assert norm.dtype == torch.float32 and norm.shape == ()
    assert torch.allclose(norm, half.double().norm().float(), rtol=5e-7, atol=0)


# --- wrong arguments


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("LARS", {"lr": -0.1}, "lr"),
        ("LARS", {"lr": math.nan}, "lr"),
        ("LARS", {"lr": "0.1"}, "lr"),
        ("LARS", {"lr": torch.ones(2)}, "lr"),
        ("LARS", {"lr": 1.0, "momentum": 1.0}, "momentum"),
        ("LARS", {"lr": 1.0, "weight_decay": -1e-4}, "weight_decay"),
        ("LARS", {"lr": 1.0, "trust_coefficient": 0.0}, "trust_coefficient"),
        ("LARS", {"lr": 1.0, "eps": -1e-9}, "eps"),
        ("LARS", {"lr": math.inf}, "lr"),
        ("LAMB", {"lr": None}, "lr"),
        ("LAMB", {"lr": 1.0, "betas": (0.9,)}, "betas"),
        ("LAMB", {"lr": 1.0, "betas": (0.9, 1.0)}, r"betas\[1\]"),
        ("LAMB", {"lr": 1.0, "betas": (-0.1, 0.9)}, r"betas\[0\]"),
        ("LAMB", {"lr": 1.0, "eps": 0.0}, "eps"),
        ("LAMB", {"lr": 1.0, "weight_decay": math.nan}, "weight_decay"),
        ("LAMB", {"lr": 1.0, "max_grad_norm": 0.0}, "max_grad_norm"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(
    name: str, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=rf"{name}: {named} must be"):
        MAKERS[name](make_parameters([np.ones(2)]), **options)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_wrong_group_is_refused_and_not_kept(name: str) -> None:
    first, second = make_parameters([np.ones(2), np.ones(2)])
    optimizer = MAKERS[name]([first], lr=0.1)
    with pytest.raises(ValueError, match="adapt"):
        optimizer.add_param_group({"params": [second], "adapt": 0})
    with pytest.raises(ValueError, match="lr"):
        optimizer.add_param_group({"params": [second], "lr": -1.0})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match="fp32"):
        MAKERS[name]([torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))], lr=0.1)


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_a_sparse_gradient_is_refused_before_anything_moves(name: str) -> None:
    (weight,) = make_parameters([np.ones(3)])
    table = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = MAKERS[name]([{"params": [weight]}, {"params": [table.weight]}], lr=0.1)
    (table(torch.tensor([1, 1, 2])) * weight).sum().backward()
    with pytest.raises(ValueError, match=r"shape \(5, 3\) is sparse"):
        optimizer.step()
    assert torch.equal(weight, torch.ones(3)) and not optimizer.state


def test_lamb_has_one_clipping_limit() -> None:
    parameters = make_parameters([np.ones(2), np.ones(2)])
    groups = make_groups(parameters, [0])
    groups[1]["max_grad_norm"] = None
    with pytest.raises(ValueError, match="max_grad_norm is one for all groups"):
        LAMB(groups, lr=0.1)
