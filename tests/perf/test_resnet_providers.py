"""Providers of ResNet's operations beside their definitions, at every size of the network."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from harness.config import load_config
from harness.ops.table import TABLE, resolve_operations
from perf import device_times, resnet_providers
from resnet.config import Config
from resnet.model import BatchNorm, Operations, ResNet

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

CONFIGS = resnet_providers.ROOT / "resnet" / "configs"
BATCH_NORMS = [name for name in Operations.__dataclass_fields__ if name.startswith("batch_norm")]


@pytest.mark.parametrize("name", ["demo", "h200_1x1"])
def test_sizes_and_numbers_are_those_of_the_network(name: str) -> None:
    config = load_config(CONFIGS / f"{name}.toml", Config)
    seen: Counter[tuple[str, int, int]] = Counter()
    operations = resolve_operations(Operations, dict.fromkeys(config.operations, "torch"))
    names = {id(getattr(operations, name)): name for name in BATCH_NORMS}
    with torch.device("meta"):
        model = ResNet(config.model, operations)
        for module in model.modules():
            if isinstance(module, BatchNorm):
                module.register_forward_hook(
                    lambda layer, inputs, _: seen.update(
                        [(names[id(layer.operation)], *inputs[0].shape[1:3])]
                    )
                )
        side = config.input.crop_size
        model(torch.empty(2, config.model.input_channels, side, side))
    assert seen == resnet_providers.list_normalisations(config)


def test_every_provider_is_held_against_its_definition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_times, "WARMUPS", 0)
    text = (CONFIGS / "demo.toml").read_text()
    for old, new in (("crop_size = 64", "crop_size = 32"), ("[16, 24, 32, 48]", "[8, 8, 8, 12]")):
        assert old in text
        text = text.replace(old, new)
    small = tmp_path / "small.toml"
    small.write_text(text)
    arguments = ["--config", str(small), "--device", "cpu", "--images", "4", "--turns", "1"]
    assert resnet_providers.main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    measured = {(row["operation"], row["provider"]): row for row in found["providers"]}
    for operation in (*BATCH_NORMS, "label_smoothed_cross_entropy"):
        for provider in TABLE[operation]:
            row = measured[operation, provider]
            if provider == "apex":
                assert "apex" in row["reason"] or "fp16" in row["reason"]
            else:
                assert row["error"] < 1e-5 and row["seconds"] > 0 and row["bytes"] > 0
    assert set(found["microseconds_per_image"]) == {"torch", "triton"}


def test_only_a_provider_that_did_all_of_them_has_a_sum() -> None:
    times = Counter({"a 1": 2, "b 1": 3})
    rows = [
        {"operation": "a", "size": "1", "provider": "torch", "seconds": 1e-6},
        {"operation": "b", "size": "1", "provider": "torch", "seconds": 2e-6},
        {"operation": "a", "size": "1", "provider": "apex", "seconds": 1e-6},
        {"operation": "b", "size": "1", "provider": "apex", "reason": "no fp32"},
        {"operation": "loss", "size": "1", "provider": "torch", "seconds": 9.0},
    ]
    assert resnet_providers.add_up(rows, times, 4) == {"torch": pytest.approx(2.0)}
