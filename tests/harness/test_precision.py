"""Formats of a run: 16-bit gradients, the static loss scale taken back before norms, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.commands import InputError
from harness.config import load_config
from harness.gradients import GradientReduction
from harness.optimizers.flat_lamb import measure_gradients
from harness.parameters import FlatParameters
from harness.precision import Precision, check_finite


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 5))


def flatten_model(model: nn.Module, precision: Precision) -> FlatParameters:
    runs = [[parameter] for parameter in model.parameters()]
    return FlatParameters(model, runs, [], list(model.parameters()), precision.dtype, 1.0)


def make_gradients(precision: Precision, inputs: torch.Tensor, factor: float = 1.0) -> torch.Tensor:
    """The pool's gradient of one model on one batch, as the optimizer gets it."""
    model = make_model()
    parameters = flatten_model(model, precision)
    reduction = GradientReduction(parameters, 1)
    reduction.begin(first=True, last=True)
    logits = model(inputs.to(precision.dtype))
    assert logits.dtype == precision.dtype
    labels = torch.arange(len(inputs)) % 5
    precision.backward(nn.functional.cross_entropy(logits.float(), labels) * factor, 1)
    reduction.finish()
    (pool,) = parameters.pools
    assert pool.gradients.dtype == precision.dtype and pool.master.dtype == torch.float32
    return pool.gradients


IMAGES = torch.randn(8, 12, generator=torch.Generator().manual_seed(2))


def test_fp32_is_plain_torch() -> None:
    model = make_model()
    nn.functional.cross_entropy(model(IMAGES), torch.arange(8) % 5).backward()
    plain = torch.cat([p.grad.flatten() for p in reversed(list(model.parameters()))])
    gradients = make_gradients(Precision("fp32", 1.0), IMAGES)
    assert torch.equal(gradients[gradients != 0], plain[plain != 0])


@pytest.mark.parametrize("precision", [Precision("bf16", 1.0), Precision("fp16", 1024.0)])
def test_sixteen_bits_are_near(precision: Precision) -> None:
    wanted = make_gradients(Precision("fp32", 1.0), IMAGES)
    found = make_gradients(precision, IMAGES).float() / precision.loss_scale
    assert not torch.equal(found, wanted)
    error = (found - wanted).norm() / wanted.norm()
    assert error < (0.03 if precision.format == "bf16" else 0.004)


def test_the_scale_keeps_small_gradients_that_fp16_loses() -> None:
    wanted = make_gradients(Precision("fp32", 1.0), IMAGES, 1e-8)
    assert make_gradients(Precision("fp16", 1.0), IMAGES, 1e-8).abs().max() == 0
    scaled = make_gradients(Precision("fp16", 2.0**16), IMAGES, 1e-8).float() / 2.0**16
    assert (scaled - wanted).norm() < 0.05 * wanted.norm()


def test_losses_are_parts_of_a_mean() -> None:
    """What is added up over three micro-batches is the mean's gradient, times the scale."""
    model, precision = make_model(), Precision("fp32", 1.0)
    for _ in range(3):
        precision.backward(model(IMAGES).square().mean(), 3)
    again = make_model()
    again(IMAGES).square().mean().backward()
    for parameter, wanted in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, wanted.grad)


@pytest.mark.parametrize("scale", [1.0, 2.0**15])
def test_norms_are_taken_of_unscaled_gradients(scale: float) -> None:
    """LAMB clips the global norm to 1: of gradients still scaled, every one would be clipped."""
    model = make_model()
    parameters = flatten_model(model, Precision("fp32", 1.0))
    (pool,) = parameters.pools
    pool.gradients[:100] = 0.01 * scale
    assert float(measure_gradients(parameters, scale)) == pytest.approx(0.1, rel=1e-6)


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
@pytest.mark.parametrize("format_", ["fp32", "bf16"])
def test_weights_that_are_not_finite_end_the_run(bad: float, format_: Any) -> None:
    model = make_model()
    parameters = flatten_model(model, Precision(format_, 1.0))
    check_finite(parameters)
    (pool,) = parameters.pools
    pool.master[17] = bad
    with pytest.raises(InputError, match="no longer finite"):
        check_finite(parameters)
