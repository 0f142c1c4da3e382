"""The model with fused operations against that of definitions, Triton's kernels interpreted."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bert.config import Config
from bert.model import Batch, BertForPretraining, Operations, pretraining_loss
from harness.config import load_config
from harness.ops import resolve_operations
from harness.ops.table import FLOAT8_PROVIDERS
from harness.parameters import FlatParameters
from tests.bert.test_model import TINY, make_sequences, pack

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from tests.harness.ops.conftest import rounded_interpretation  # noqa: F401  a fixture

pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in exp")

ROOT = Path(__file__).resolve().parents[2]
CONFIG = dataclasses.replace(TINY, hidden_size=256, intermediate_size=320)
PLAIN = dict.fromkeys(Operations.__dataclass_fields__, "torch")


def load_providers(name: str) -> dict[str, str]:
    """The operations of a shipped configuration, as far as a CPU can interpret them."""
    config = load_config(ROOT / "bert" / "configs" / f"{name}.toml", Config)
    return config.operations | {"varlen_attention": "torch"}


FUSED, FLOAT8 = load_providers("h200_4x8"), load_providers("h200_4x8_fp8")


def make_model(
    providers: dict[str, str], dtype: torch.dtype
) -> tuple[BertForPretraining, Operations]:
    """A model whose parameters lie in flat buffers, as a training step holds them."""
    operations = resolve_operations(Operations, providers)
    torch.manual_seed(1)
    model = BertForPretraining(CONFIG, operations)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    FlatParameters(
        model,
        model.parameter_runs(),
        model.normalisation_parameters(),
        model.adapted_parameters(),
        dtype,
        1.0,
        0,
        1,
    )
    return model, operations


def make_batch() -> Batch:
    return pack(make_sequences(3, (11, 5, 9, 7)))  # 32 tokens: FP8 takes multiples of 16


def differentiate(
    providers: dict[str, str], dtype: torch.dtype
) -> tuple[Tensor, dict[str, Tensor]]:
    model, operations = make_model(providers, dtype)
    model.eval()
    batch = make_batch()
    output = model(batch)
    labels = batch.next_sentence_labels
    loss = pretraining_loss(output, batch.masked_ids, labels, operations)[0]
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return loss.detach(), {name: g.clone() for name, g in gradients.items() if g is not None}


def measure_errors(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    # A key's bias moves all scores of a query alike: its gradient is rounding and nothing else.
    names = [name for name in theirs if not name.endswith("key.bias")]
    return {
        name: float(
            (ours[name].float() - theirs[name].float()).norm() / theirs[name].float().norm()
        )
        for name in names
    }


def test_in_fp32_loss_and_every_gradient_are_those_of_the_definitions() -> None:
    expected, gradients = differentiate(PLAIN, torch.float32)
    loss, ours = differentiate(FUSED, torch.float32)
    assert torch.isclose(loss, expected, rtol=1e-6)
    assert set(ours) == set(gradients)
    errors = measure_errors(ours, gradients)
    assert max(errors.values()) < 2e-5, errors


def test_in_bf16_the_fused_model_is_no_further_from_fp32_than_the_definitions() -> None:
    exact, gradients = differentiate(PLAIN, torch.float32)
    distances = {}
    for name, providers in (("plain", PLAIN), ("fused", FUSED)):
        loss, ours = differentiate(providers, torch.bfloat16)
        assert torch.isclose(loss, exact, rtol=0.01)
        distances[name] = sorted(measure_errors(ours, gradients).values())
    middle = len(distances["plain"]) // 2
    assert distances["fused"][middle] < 1.2 * distances["plain"][middle]
    assert distances["fused"][-1] < 1.5 * distances["plain"][-1]


@pytest.mark.usefixtures("rounded_interpretation")
@pytest.mark.parametrize("provider", ["scaled_mm", "delayed"])
def test_in_fp8_the_model_is_close_to_fp32(provider: str) -> None:
    exact, gradients = differentiate(PLAIN, torch.float32)
    providers = FLOAT8 | dict.fromkeys(FLOAT8_PROVIDERS, provider)
    loss, ours = differentiate(providers, torch.bfloat16)
    assert torch.isclose(loss, exact, rtol=0.02)
    errors = sorted(measure_errors(ours, gradients).values())
    # Operands of 4 and 3 significant bits: 3 % and 5 % each, through two layers.
    assert errors[len(errors) // 2] < 0.12 and errors[-1] < 0.5, errors[-5:]


def test_dropout_of_the_fused_model_follows_torchs_generator() -> None:
    model, operations = make_model(FUSED, torch.float32)
    model.train()
    batch = make_batch()
    losses = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        output = model(batch)
        labels = batch.next_sentence_labels
        losses.append(pretraining_loss(output, batch.masked_ids, labels, operations)[0].item())
    assert losses[0] == losses[2] != losses[1]
