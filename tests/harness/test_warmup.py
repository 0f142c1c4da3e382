"""The warm-up leaves no trace: every tensor, every momentum, every random number as before.

Shown on the trainers' own steps by training on: two copies, one warmed up and one not, stay the
same bit for bit. That the comparison would find a trace is shown by leaving one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bert import train as bert_train
from bert.checkpoint import read_checkpoint
from bert.config import Config as BertConfig
from bert.probe import make_synthetic_batch as make_sequences
from bert.step import TrainingStep as BertStep
from harness.config import load_config
from harness.optimizers import LAMB, LARS
from harness.ranks import Ranks
from harness.runclock import RunClock
from harness.seeds import derive_seed
from harness.warmup import preserve_state
from resnet import train as resnet_train
from resnet.config import Config as ResnetConfig
from resnet.probe import make_synthetic_batch as make_images
from resnet.step import TrainingStep as ResnetStep

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
ALONE = Ranks(0, 1, 0, 1, 0, ("host",), "single")
Optimizer = torch.optim.Optimizer


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums in one order, so that equal means equal bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def capture(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Everything the next training step depends on, as bytes or plain values."""
    found: dict[str, Any] = {"mode": model.training, "random": torch.get_rng_state()}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[name] = tensor.detach().clone()
    found["gradients"] = [parameter.grad is not None for parameter in model.parameters()]
    state = optimizer.state_dict()
    for number, values in state["state"].items():
        for name, value in values.items():
            found[f"{number} {name}"] = torch.as_tensor(value).clone()
    for number, group in enumerate(state["param_groups"]):
        found[f"group {number}"] = dict(group)
    return found


def find_differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what is not bit for bit the same."""
    names = []
    for name in before.keys() | after.keys():
        one, other = before.get(name), after.get(name)
        if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
            same = one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
            if not same:
                names.append(name)
        elif one != other:
            names.append(name)
    return sorted(names)


def make_net() -> nn.Module:
    torch.manual_seed(3)
    layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    return nn.Sequential(*layers)


def train_once(model: nn.Module, optimizer: Optimizer, lr: float = 0.05) -> None:
    optimizer.zero_grad()
    model(torch.randn(5, 6)).square().sum().backward()
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()


OPTIMIZERS: list[Callable[[Any], Optimizer]] = [
    lambda parameters: LARS(parameters, lr=0.05, weight_decay=1e-4),
    lambda parameters: LAMB(parameters, lr=0.05),
    lambda parameters: torch.optim.Adam(parameters, lr=0.05),
]


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS, ids=["lars", "lamb", "adam"])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_everything_is_as_before(
    make_optimizer: Callable[[Any], Optimizer], steps_before: int
) -> None:
    model = make_net()
    optimizer = make_optimizer(model.parameters())
    for _ in range(steps_before):
        train_once(model, optimizer)
    optimizer.zero_grad(set_to_none=True)
    before = capture(model, optimizer)
    addresses = [tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]]
    with preserve_state(model, optimizer, CPU):
        for lr in (0.5, 0.0):
            train_once(model, optimizer, lr)
        changed = find_differences(before, capture(model, optimizer))
    assert find_differences(before, capture(model, optimizer)) == []
    assert len(changed) > 10  # the block did change weights, statistics, momenta, randomness
    assert {"random", "1.running_mean", "group 0", "0.weight"} <= set(changed)
    assert addresses == [tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]]


@pytest.mark.parametrize("make_optimizer", OPTIMIZERS, ids=["lars", "lamb", "adam"])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_training_goes_on_as_if_nothing_had_been(
    make_optimizer: Callable[[Any], Optimizer], steps_before: int
) -> None:
    ends = []
    for warmed in (False, True):
        model = make_net()
        optimizer = make_optimizer(model.parameters())
        for _ in range(steps_before):
            train_once(model, optimizer)
        if warmed:
            with preserve_state(model, optimizer, CPU):
                train_once(model, optimizer, lr=0.7)
        for _ in range(4):
            train_once(model, optimizer)
        ends.append((capture(model, optimizer), torch.rand(3)))
    (plain, numbers), (warm, warm_numbers) = ends
    assert find_differences(plain, warm) == []
    assert torch.equal(numbers, warm_numbers)


def leave_statistics(model: nn.Module, optimizer: Optimizer) -> None:
    mean = model.get_buffer("1.running_mean")
    mean[0] = torch.nextafter(mean[0], torch.tensor(torch.inf))


def leave_weight(model: nn.Module, optimizer: Optimizer) -> None:
    with torch.no_grad():
        weight = model.get_parameter("4.bias")
        weight[1] = torch.nextafter(weight[1], torch.tensor(torch.inf))


def leave_momentum(model: nn.Module, optimizer: Optimizer) -> None:
    state = next(iter(optimizer.state.values()))
    state["momentum"].view(-1)[0] += 1e-6


def leave_learning_rate(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.param_groups[0]["lr"] *= 2


def leave_randomness(model: nn.Module, optimizer: Optimizer) -> None:
    torch.rand(1)


def leave_mode(model: nn.Module, optimizer: Optimizer) -> None:
    model.eval()


@pytest.mark.parametrize(
    ("leave", "name"),
    [
        (leave_statistics, "1.running_mean"),
        (leave_weight, "4.bias"),
        (leave_momentum, "0 momentum"),
        (leave_learning_rate, "group 0"),
        (leave_randomness, "random"),
        (leave_mode, "mode"),
    ],
)
def test_a_trace_is_found(leave: Callable[[nn.Module, Optimizer], None], name: str) -> None:
    """The comparison of these tests sees the least trace of every kind."""
    model = make_net()
    optimizer = LARS(model.parameters(), lr=0.1)
    train_once(model, optimizer)
    optimizer.zero_grad(set_to_none=True)
    before = capture(model, optimizer)
    with preserve_state(model, optimizer, CPU):
        train_once(model, optimizer)
    leave(model, optimizer)
    assert find_differences(before, capture(model, optimizer)) == [name]


def load_resnet() -> ResnetConfig:
    config: ResnetConfig = load_config(ROOT / "resnet" / "configs" / "demo.toml", ResnetConfig)
    return config


def take_resnet_steps(step: ResnetStep, steps: int) -> None:
    for _ in range(steps):
        images = torch.randn(4, 4, 64, 64)
        step.accumulate(images, torch.randint(12, (4,)))
        step.update(2.0)


@pytest.mark.parametrize("steps_before", [0, 1])
def test_resnets_warm_up_leaves_no_trace(steps_before: int) -> None:
    """The trainer's own warm-up, before the first step and (state is there) after one."""
    config, ends = load_resnet(), []
    for warmed in (False, True):
        torch.manual_seed(11)
        step = ResnetStep(config, CPU, world_size=1)
        take_resnet_steps(step, steps_before)
        step.optimizer.zero_grad(set_to_none=True)
        before = capture(step.model, step.optimizer)
        if warmed:
            resnet_train.warm_up(step, config, CPU, local_batch=4)
            assert find_differences(before, capture(step.model, step.optimizer)) == []
        take_resnet_steps(step, 2)
        ends.append(capture(step.model, step.optimizer))
        assert len(find_differences(before, ends[-1])) > 100
    assert find_differences(*ends) == []


def test_resnets_warm_up_trains_and_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does what the run will do: a step of every kind and a forward pass of evaluation."""
    config = load_resnet()
    torch.manual_seed(11)
    step = ResnetStep(config, CPU, world_size=1)
    calls: list[str] = []
    step.model.register_forward_hook(lambda model, *_: calls.append(str(model.training)))
    update = step.optimizer.step
    monkeypatch.setattr(step.optimizer, "step", lambda: (calls.append("update"), update()))
    resnet_train.warm_up(step, config, CPU, local_batch=2)
    assert calls == ["True", "update", "False"]
    images, labels = make_images(config, 2, CPU)
    assert images.shape == (2, 4, 64, 64) and labels.shape == (2,)
    assert images[:, 3].abs().max() == 0


def take_bert_steps(step: BertStep, config: BertConfig, steps: int) -> None:
    for number in range(steps):
        step.accumulate(make_sequences(config, 3 + number, CPU))
        step.update(0.01)


def test_berts_warm_up_leaves_no_trace(small_data: Path, tmp_path: Path) -> None:
    """The trainer's own build_step against a step made of the checkpoint and the seed alone."""
    config: BertConfig = load_config(ROOT / "bert" / "configs" / "demo.toml", BertConfig)
    checkpoint = small_data / "bert" / "initial.safetensors"
    state = read_checkpoint(checkpoint, config.model)
    plain = BertStep(config, CPU, 1, state)
    torch.manual_seed(derive_seed(77, "dropout", 0))
    before = capture(plain.model, plain.optimizer)
    take_bert_steps(plain, config, 3)

    clock = RunClock(ALONE, tmp_path / "log", 0.72, lambda: None)
    warm = bert_train.build_step(config, clock, ALONE, CPU, checkpoint, 77)
    clock.close()
    assert find_differences(before, capture(warm.model, warm.optimizer)) == []
    for name, parameter in warm.model.named_parameters():
        assert torch.equal(parameter, state[name]), name
    take_bert_steps(warm, config, 3)
    end = capture(plain.model, plain.optimizer)
    assert find_differences(end, capture(warm.model, warm.optimizer)) == []
    assert len(find_differences(before, end)) > 100


def test_bert_with_earlier_optimizer_state(small_data: Path) -> None:
    config: BertConfig = load_config(ROOT / "bert" / "configs" / "demo.toml", BertConfig)
    ends = []
    for warmed in (False, True):
        torch.manual_seed(4)
        step = BertStep(config, CPU, 1, None)
        take_bert_steps(step, config, 1)
        if warmed:
            with preserve_state(step.model, step.optimizer, CPU):
                take_bert_steps(step, config, 2)
        take_bert_steps(step, config, 2)
        ends.append(capture(step.model, step.optimizer))
    assert find_differences(*ends) == []
    assert ends[0]["group 0"]["step"] == 3
