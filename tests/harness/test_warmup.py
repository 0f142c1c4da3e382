"""The warm-up leaves no trace: every tensor, every momentum, every random number as before.

Shown on the trainers' own steps by training on: two copies, one warmed up and one not, stay the
same bit for bit. That the comparison would find a trace is shown by leaving one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bert.checkpoint import read_checkpoint
from bert.config import Config as BertConfig
from bert.probe import make_probe_batch
from bert.probe import make_synthetic_batch as make_sequences
from bert.step import TrainingStep as BertStep
from harness.config import load_config
from harness.optimizers.flat_lars import FlatLARS
from harness.warmup import preserve_state
from resnet.config import Config as ResnetConfig
from resnet.probe import fill_with_noise
from resnet.step import TrainingStep as ResnetStep
from tests.harness.host_waits import let_device_hang

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums in one order, so that equal means equal bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def capture(tensors: Sequence[Tensor], model: nn.Module | None = None) -> dict[str, Any]:
    """Everything the next training step depends on."""
    found: dict[str, Any] = {"random": torch.get_rng_state()}
    for number, tensor in enumerate(tensors):
        found[str(number)] = tensor.detach().clone()
    if model is not None:
        found["mode"] = model.training
        found["gradients"] = [parameter.grad is not None for parameter in model.parameters()]
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            found[name] = tensor.detach().clone()
    return found


def find_differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The names of what is not bit for bit the same."""
    names = []
    for name in before.keys() | after.keys():
        one, other = before.get(name), after.get(name)
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            same = one.dtype == other.dtype and torch.equal(
                one.flatten().view(torch.uint8), other.flatten().view(torch.uint8)
            )
            if not same:
                names.append(name)
        elif one != other:
            names.append(name)
    return sorted(names)


def test_tensors_and_random_state_are_as_before() -> None:
    tensors = [torch.randn(3), torch.zeros(1, dtype=torch.int64), torch.randn(2, 2).bfloat16()]
    before, addresses = capture(tensors), [tensor.data_ptr() for tensor in tensors]
    with preserve_state(tensors, CPU):
        for tensor in tensors:
            tensor.add_(1)
        torch.rand(5)
        assert len(find_differences(before, capture(tensors))) == 4
    assert find_differences(before, capture(tensors)) == []
    assert addresses == [tensor.data_ptr() for tensor in tensors]


def load_resnet() -> ResnetConfig:
    config: ResnetConfig = load_config(ROOT / "resnet" / "configs" / "demo.toml", ResnetConfig)
    return config


def make_resnet(config: ResnetConfig) -> ResnetStep:
    torch.manual_seed(11)
    return ResnetStep(config, CPU, 0, 1, [2.0, 1.0, 0.5, 0.25])


def take_resnet_steps(step: ResnetStep, steps: int) -> None:
    for number in range(steps):
        generator = torch.Generator().manual_seed(number)

        def fill(images: Tensor, labels: Tensor, generator: Any = generator) -> None:
            images.copy_(torch.randn(images.shape, generator=generator))
            labels.copy_(torch.randint(12, labels.shape, generator=generator))

        step.run(fill)


@pytest.mark.parametrize("steps_before", [0, 1])
def test_resnets_warm_up_leaves_no_trace(steps_before: int) -> None:
    """The trainer's own warm-up, before the first step and after one."""
    config, ends = load_resnet(), []
    for warmed in (False, True):
        step = make_resnet(config)
        take_resnet_steps(step, steps_before)
        before = capture(step.state(), step.model)
        if warmed:
            step.prepare(partial(fill_with_noise, config))
            assert find_differences(before, capture(step.state(), step.model)) == []
        take_resnet_steps(step, 2)
        ends.append(capture(step.state(), step.model))
        assert len(find_differences(before, ends[-1])) > 30
    assert find_differences(*ends) == []


def test_resnets_state_is_all_that_a_step_changes() -> None:
    """What `state` lists is all there is: every tensor of model and optimizer is in it."""
    step = make_resnet(load_resnet())
    storages = {tensor.untyped_storage().data_ptr() for tensor in step.state()}
    tensors = [*step.model.parameters(), *step.model.buffers(), step.images, step.labels]
    tensors += [*step.optimizer.momenta, step.optimizer.schedule.number, step.counts]
    tensors += [pool.master for pool in step.parameters.pools]
    assert {tensor.untyped_storage().data_ptr() for tensor in tensors} == storages


def test_resnets_warm_up_trains_and_evaluates(monkeypatch: pytest.MonkeyPatch) -> None:
    """It does what the run will do: a step of every kind and a forward pass of evaluation."""
    config = load_resnet()
    step = make_resnet(config)
    calls: list[str] = []
    step.model.register_forward_hook(lambda model, *_: calls.append(str(model.training)))
    update = FlatLARS.update
    monkeypatch.setattr(FlatLARS, "update", lambda self: (calls.append("update"), update(self)))
    step.prepare(partial(fill_with_noise, config))
    assert calls == ["True", "update", "False"]
    assert step.model.training


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_a_rank_that_hangs_in_the_first_replays_is_found_in_warm_up(
    benchmark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by what comes next, which would wait for the device without end."""
    step: Any
    if benchmark == "resnet":
        step = make_resnet(load_resnet())
        prepare = partial(step.prepare, partial(fill_with_noise, step.config))
    else:
        config = load_config(ROOT / "bert" / "configs" / "demo.toml", BertConfig)
        step = BertStep(config, CPU, 0, 1, None, [0.01])
        prepare = partial(step.prepare, [make_probe_batch(config, CPU)], [])
    let_device_hang(monkeypatch)
    step.device = torch.device("cuda", 0)
    with pytest.raises(RuntimeError, match="Timed out waiting 20ms for the device"):
        prepare()


def leave_statistics(step: ResnetStep) -> None:
    mean = step.model.bn0.running_mean
    mean[0] = torch.nextafter(mean[0], torch.tensor(torch.inf))


def leave_weight(step: ResnetStep) -> None:
    (pool,) = step.parameters.pools
    pool.master[17] = torch.nextafter(pool.master[17], torch.tensor(torch.inf))


def leave_momentum(step: ResnetStep) -> None:
    step.optimizer.momenta[0][5] += 1e-6


def leave_update(step: ResnetStep) -> None:
    step.optimizer.schedule.number.add_(1)


def leave_randomness(step: ResnetStep) -> None:
    torch.rand(1)


def leave_mode(step: ResnetStep) -> None:
    step.model.eval()


@pytest.mark.parametrize(
    "leave",
    [leave_statistics, leave_weight, leave_momentum, leave_update, leave_randomness, leave_mode],
)
def test_a_trace_is_found(leave: Callable[[ResnetStep], None]) -> None:
    """The comparison of these tests sees the least trace of every kind."""
    config = load_resnet()
    step = make_resnet(config)
    before = capture(step.state(), step.model)
    step.prepare(partial(fill_with_noise, config))
    assert find_differences(before, capture(step.state(), step.model)) == []
    leave(step)
    assert find_differences(before, capture(step.state(), step.model))


def take_bert_steps(step: BertStep, config: BertConfig, steps: int) -> None:
    for number in range(steps):
        batch = make_sequences(config, 3 + number, CPU)
        step.run(lambda _, batch=batch: batch)


@pytest.mark.parametrize("steps_before", [0, 1])
def test_berts_warm_up_leaves_no_trace(small_data: Path, steps_before: int) -> None:
    """Weights, moments, dropout's random numbers and counts, from a checkpoint on."""
    config: BertConfig = load_config(ROOT / "bert" / "configs" / "demo.toml", BertConfig)
    state = read_checkpoint(small_data / "bert" / "initial.safetensors", config.model)
    ends = []
    for warmed in (False, True):
        step = BertStep(config, CPU, 0, 1, state, [0.01] * 4)
        torch.manual_seed(4)
        take_bert_steps(step, config, steps_before)
        before = capture(step.state(), step.model)
        if warmed:
            batch = make_probe_batch(config, CPU)
            step.prepare([batch], [batch])
            assert find_differences(before, capture(step.state(), step.model)) == []
        take_bert_steps(step, config, 2)
        ends.append(capture(step.state(), step.model))
        assert len(find_differences(before, ends[-1])) > 40
    assert find_differences(*ends) == []
    assert int(step.optimizer.schedule.number) == steps_before + 2
