"""Formats of a run: autocast, the static loss scale taken back before norms, and refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.commands import InputError
from harness.config import load_config
from harness.gradients import list_gradients
from harness.optimizers import LAMB
from harness.precision import Precision, check_finite

CPU = torch.device("cpu")


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 5))


def make_gradients(precision: Precision) -> list[torch.Tensor]:
    """The gradients that an optimizer gets, of one model on one batch."""
    model = make_model()
    images = torch.randn(8, 12, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(8) % 5
    with precision.forward_context(CPU):
        logits = model(images)
    assert logits.dtype == {
        "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16
    }[precision.format]  # fmt: skip
    precision.backward(nn.functional.cross_entropy(logits.float(), labels))
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None for gradient in gradients)
    found = [gradient for gradient in gradients if gradient is not None]
    precision.unscale(found)
    return found


def test_fp32_is_plain_torch() -> None:
    model = make_model()
    images = torch.randn(8, 12, generator=torch.Generator().manual_seed(2))
    nn.functional.cross_entropy(model(images), torch.arange(8) % 5).backward()
    plain = [parameter.grad for parameter in model.parameters()]
    for gradient, expected in zip(make_gradients(Precision("fp32", 1.0)), plain, strict=True):
        assert torch.equal(gradient, expected)


@pytest.mark.parametrize("precision", [Precision("bf16", 1.0), Precision("fp16", 1024.0)])
def test_sixteen_bits_are_near_and_gradients_are_fp32(precision: Precision) -> None:
    wanted = make_gradients(Precision("fp32", 1.0))
    for gradient, expected in zip(make_gradients(precision), wanted, strict=True):
        assert gradient.dtype == torch.float32
        assert not torch.equal(gradient, expected)
        error = (gradient - expected).norm() / expected.norm()
        assert error < (0.03 if precision.format == "bf16" else 0.004)


def test_a_power_of_two_as_scale_changes_no_bit_where_nothing_underflows() -> None:
    model, scaled = make_model(), make_model()
    inputs = torch.ones(4, 12)
    Precision("fp32", 1.0).backward(model(inputs).square().mean())
    precision = Precision("fp16", 4096.0)
    precision.backward(scaled(inputs).square().mean())  # without autocast: fp32 throughout
    before = [parameter.grad.clone() for parameter in scaled.parameters()]
    precision.unscale([parameter.grad for parameter in scaled.parameters()])
    for first, second, big in zip(model.parameters(), scaled.parameters(), before, strict=True):
        assert torch.equal(first.grad, second.grad)
        assert torch.equal(big, first.grad * 4096)


def test_the_scale_keeps_small_gradients_that_fp16_loses() -> None:
    inputs = torch.full((4, 8), 1e-3)

    def make_gradient(scale: float) -> torch.Tensor:
        torch.manual_seed(0)
        layer = nn.Linear(8, 8, bias=False)
        precision = Precision("fp16", scale)
        with precision.forward_context(CPU):
            outputs = layer(inputs)
        precision.backward(outputs.float().sum() * 1e-6)
        precision.unscale([layer.weight.grad])
        return layer.weight.grad

    assert make_gradient(1.0).abs().max() == 0
    scaled = make_gradient(2.0**16)
    assert torch.allclose(scaled, torch.full_like(scaled, 4e-9), rtol=0.02)


def test_norms_are_taken_of_unscaled_gradients() -> None:
    """LAMB clips the global norm to 1: of gradients still scaled, every one would be clipped."""
    results = []
    for precision in (Precision("fp32", 1.0), Precision("fp16", 2.0**15)):
        model = make_model()
        groups: list[dict[str, Any]] = [{"params": list(model.parameters()), "adapt": True}]
        optimizer = LAMB(groups, lr=0.1)
        loss = model(torch.ones(4, 12)).square().mean() * 0.01
        precision.backward(loss)
        precision.unscale(list_gradients(optimizer))
        assert torch.stack([g.norm() for g in list_gradients(optimizer)]).norm() < 0.5
        optimizer.step()
        results.append(copy.deepcopy([p.detach() for p in model.parameters()]))
    for plain, scaled in zip(*results, strict=True):
        assert torch.equal(plain, scaled)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("fp32", 2.0), "must be 1 unless format is fp16"),
        (("bf16", 128.0), "must be 1 unless format is fp16"),
        (("fp16", 0.5), "at least 1"),
        (("fp16", -1.0), "at least 1"),
        (("fp16", float("nan")), "at least 1"),
    ],
)
def test_refusals(arguments: tuple[Any, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Precision(*arguments)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('format = "fp8"\nloss_scale = 1.0\n', "'format' must be one of 'fp32', 'bf16', 'fp16'"),
        ('format = "fp16"\nloss_scale = inf\n', "finite"),
        ('format = "fp32"\nloss_scale = 8.0\n', "must be 1 unless format is fp16"),
    ],
)
def test_refusals_name_the_file(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "precision.toml"
    file.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        load_config(file, Precision)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_end_the_run(bad: float) -> None:
    model = torch.nn.Linear(3, 2)
    check_finite(model)
    with torch.no_grad():
        model.weight[1, 2] = bad
    with pytest.raises(InputError, match="no longer finite"):
        check_finite(model)
