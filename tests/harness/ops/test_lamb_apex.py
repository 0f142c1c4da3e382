"""The calls of apex's LAMB: a stand-in with its C++ signature computes as its kernels do.

It shows order, types and number of arguments, that apex's settings are the reference's, and what is
rounded where; what the kernels themselves compute is shown on a GPU alone.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from harness.commands import InputError
from harness.ops.table import resolve
from tests.harness.optimizers import test_flat_lamb as flat
from tests.harness.optimizers.flat_model import (
    ADAPTED,
    SHAPES,
    Bag,
    draw,
    draw_gradients,
    flatten_bag,
    measure_error,
    put_gradients,
    read_masters,
)
from tests.harness.test_optimizers import read_golden


class Extension(types.ModuleType):
    """Signature and arithmetic of csrc/multi_tensor_lamb_mp.cu at 6424da3b."""

    def __init__(self) -> None:
        super().__init__("amp_C")
        self.calls: list[tuple[torch.dtype, int, float]] = []

    def multi_tensor_lamb_mp(
        self, chunk_size, noop_flag, tensor_lists, lr, beta1, beta2, epsilon, step, bias_correction,
        weight_decay, grad_averaging, mode, global_grad_norm, max_grad_norm, use_nvlamb_python,
        found_inf, inv_scale,
    ) -> None:  # fmt: skip
        assert chunk_size == 65536 and not use_nvlamb_python
        assert (bias_correction, grad_averaging, mode) == (1, 1, 1)
        for flag in (noop_flag, step):  # data_ptr<int>
            assert flag.dtype == torch.int32 and flag.numel() == 1
        for number in (lr, global_grad_norm, max_grad_norm, found_inf, inv_scale):
            assert number.dtype == torch.float32 and number.numel() == 1
        gradients, masters, means, squares, *copies = tensor_lists
        short = gradients[0].dtype
        assert len(tensor_lists) == (4 if short == torch.float32 else 5)
        assert all(t.is_contiguous() for tensors in tensor_lists for t in tensors)
        assert all(t.dtype == short for t in [*gradients, *(copies[0] if copies else [])])
        assert all(t.dtype == torch.float32 for t in [*masters, *means, *squares])
        self.calls.append((short, len(gradients), weight_decay))
        if noop_flag:
            return
        clip = max(float(global_grad_norm / max_grad_norm), 1.0)
        corrections = [1 - beta ** int(step) for beta in (beta1, beta2)]
        for number, (g, p, m, v) in enumerate(zip(gradients, masters, means, squares, strict=True)):
            scaled = g.float() * inv_scale / clip
            m.copy_(m * beta1 + (1 - beta1) * scaled)
            v.copy_(v * beta2 + (1 - beta2) * scaled * scaled)
            update = (m / corrections[0]) / ((v / corrections[1]).sqrt() + epsilon)
            g.copy_(update + weight_decay * p)  # in the place and the type of the gradient
            norms = p.norm(), g.float().norm()
            ratio = lr
            if weight_decay != 0 and all(norms):
                ratio = lr * norms[0] / norms[1]
            p.sub_(ratio * g.float())
            if copies:
                copies[0][number].copy_(p)


@pytest.fixture(autouse=True)
def extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[Extension]:
    stand_in = Extension()
    monkeypatch.setitem(sys.modules, "amp_C", stand_in)
    monkeypatch.delitem(sys.modules, "harness.ops.lamb_apex", raising=False)
    yield stand_in
    sys.modules.pop("harness.ops.lamb_apex", None)


@pytest.mark.parametrize(("size", "limit"), [(1e-3, 1.0), (0.5, 1.0), (0.5, None)])
def test_in_fp32_the_weights_are_the_plain_optimizers(
    extension: Extension, size: float, limit: float | None
) -> None:
    """Clipped, not clipped because small, and with clipping turned off."""
    values = draw(SHAPES, 5)
    found, optimizer = flat.run_flat(values, size, provider="apex", limit=limit)
    for ours, theirs in zip(found, flat.run_plain(values, size, limit), strict=True):
        assert measure_error(ours, theirs) < 1e-5
    assert int(optimizer.overflows) == 0 and int(optimizer.schedule.number) == len(flat.RATES)
    # Decay, and with it the trust ratio, for the adapted tensors alone.
    groups = [(torch.float32, len(ADAPTED), flat.DECAY)]
    groups.append((torch.float32, len(SHAPES) - len(ADAPTED), 0.0))
    assert extension.calls == groups * len(flat.RATES)


def test_a_scaled_gradient_gives_the_same_weights() -> None:
    values = draw(SHAPES, 6)
    plain, _ = flat.run_flat(values, 0.5, provider="apex")
    scaled, _ = flat.run_flat(values, 0.5, provider="apex", gradient_scale=1024.0)
    for ours, theirs in zip(scaled, plain, strict=True):
        assert measure_error(ours, theirs) < 1e-6


def test_the_reference_over_its_six_steps() -> None:
    golden = read_golden("bert/lamb.npz")
    names = [key.removeprefix("init/") for key in golden if key.startswith("init/")]
    adapted = [n for n, name in enumerate(names) if "LayerNorm" not in name and "bias" not in name]
    bag = Bag([torch.from_numpy(golden[f"init/{name}"]) for name in names])
    parameters = flatten_bag(bag, adapted)
    optimizer = flat.make(
        parameters,
        [float(rate) for rate in golden["lr"]],
        "apex",
        (float(golden["beta1"]), float(golden["beta2"])),
        float(golden["epsilon"]),
        float(golden["weight_decay"]),
    )
    for step in range(len(golden["lr"])):
        gradients = [torch.from_numpy(golden[f"grad{step}/{name}"]) for name in names]
        put_gradients(parameters, bag, gradients)
        optimizer.update()
        for name, found in zip(names, read_masters(parameters, bag), strict=True):
            assert measure_error(found, golden[f"param{step}/{name}"]) <= 1e-5, (step, name)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.bfloat16, 2e-3), (torch.float16, 3e-4)])
def test_in_16_bit_the_update_is_rounded_once_and_nothing_else(
    extension: Extension, dtype: torch.dtype, rounding: float
) -> None:
    moved: dict[str, list[Tensor]] = {}
    for provider in ("torch", "apex"):
        bag = Bag(draw(SHAPES, 5))
        parameters = flatten_bag(bag, ADAPTED, dtype)
        before = [master.clone() for master in read_masters(parameters, bag)]
        optimizer = flat.make(parameters, flat.RATES, provider)
        put_gradients(parameters, bag, draw_gradients(0, 0.5))
        optimizer.update()
        after = read_masters(parameters, bag)
        moved[provider] = [new - old for new, old in zip(after, before, strict=True)]
        for pool in parameters.pools:
            assert torch.equal(pool.weights, pool.master.to(pool.dtype))
    for ours, theirs in zip(moved["apex"], moved["torch"], strict=True):
        assert measure_error(ours, theirs) < rounding
    assert [found for found, *_ in extension.calls] == [dtype, torch.float32]


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(bad: float) -> None:
    bag = Bag(draw(SHAPES, 7))
    parameters = flatten_bag(bag, ADAPTED, torch.float16)
    optimizer = flat.make(parameters, flat.RATES, "apex")
    put_gradients(parameters, bag, draw_gradients(0))
    optimizer.update()
    before = [tensor.clone() for tensor in [*parameters.weights(), *optimizer.state()[:-2]]]
    gradients = draw_gradients(1)
    gradients[2][3, 4] = bad
    put_gradients(parameters, bag, gradients)
    optimizer.update()
    after = [*parameters.weights(), *optimizer.state()[:-2]]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert int(optimizer.overflows) == 1 and int(optimizer.schedule.number) == 1
    put_gradients(parameters, bag, draw_gradients(2))
    optimizer.update()
    assert not torch.equal(before[0], parameters.weights()[0])


def test_what_apex_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bag = Bag(draw(SHAPES, 8))
    sharded = flatten_bag(bag, ADAPTED, torch.bfloat16, rank=0, shards=2)
    with pytest.raises(InputError, match=r"set communication\.sharded_optimizer to false"):
        flat.make(sharded, flat.RATES, "apex")
    with pytest.raises(InputError, match="no trust ratio where weight decay is 0"):
        flat.make(flatten_bag(Bag(draw(SHAPES, 8)), ADAPTED), flat.RATES, "apex", weight_decay=0.0)
    monkeypatch.setitem(sys.modules, "amp_C", None)
    sys.modules.pop("harness.ops.lamb_apex", None)
    with pytest.raises(InputError, match="needs the library amp_C, which is not installed"):
        resolve("lamb", "apex")
