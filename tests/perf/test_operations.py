"""Counting: known operations are counted as what they are, and the models as published."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import bert.config
import resnet.config
from bert.probe import make_synthetic_batch
from harness.config import load_config
from perf import operations
from perf.bert_padding import pad_batch

ROOT = Path(__file__).resolve().parents[2]


def test_known_operations_are_counted():
    x, w = torch.ones(4, 8), torch.ones(8, 16)

    def call() -> None:
        y = x @ w  # reads 32 + 128, writes 64 numbers of 4 bytes
        y.view(2, 32).t()  # views are free
        y.add_(1.0)  # in place: reads and writes 64
        torch.empty(1000)  # an allocation is free

    counted = operations.count(call)
    assert dict(counted.operations) == {"mm": 1, "add_": 1}
    assert counted.bytes["mm"] == 4 * (32 + 128 + 64) == counted.matrix_bytes
    assert counted.bytes["add_"] == 4 * (64 + 64)
    assert counted.flops == 2 * 4 * 8 * 16


def test_the_backward_pass_is_counted():
    x = torch.ones(2, 3, 8, 8)
    w = torch.ones(5, 3, 3, 3, requires_grad=True)
    counted = operations.count(lambda: F.conv2d(x, w).sum().backward())
    assert counted.operations["convolution"] == counted.operations["convolution_backward"] == 1
    assert counted.flops == 2 * (2 * 2 * 5 * 36 * 27)  # forward and the weights' gradient


def test_resnet_50_has_its_published_flops():
    """4.089 giga multiply-adds forward, three times that less the first input's gradient."""
    config = load_config(ROOT / "resnet" / "configs" / "h200_4x8.toml", resnet.config.Config)
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, input_channels=3),
        input=dataclasses.replace(config.input, channels=3),
    )
    step, update = operations.count_resnet(config, images=1)
    assert step.flops == pytest.approx(24.30e9, rel=1e-3)
    assert step.operations["convolution"] == 53
    assert update.flops == 0


def test_fused_normalisation_moves_what_its_two_passes_read_and_write():
    """Counted layer by layer: elements of the convolutions' results, by what follows each."""
    pytest.importorskip("triton")
    config = load_config(ROOT / "resnet" / "configs" / "h200_4x8.toml", resnet.config.Config)
    table = operations.name_providers(config.operations, "triton")
    assert table["batch_norm_batch_norm_add_relu"] == "triton"
    step, _ = operations.count_resnet(dataclasses.replace(config, operations=table), images=32)
    stem = 64 * 112**2  # normalised and pooled
    plain = 0  # normalised with a ReLU
    blocks = 0  # before a residual
    pairs = 0  # added to a shortcut that is normalised with it
    for width, depth, side in ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7)):
        before = 1 if width == 64 else 4  # the first 1x1 convolution sees the larger side
        plain += width * side**2 * (2 * depth - 1 + before)
        blocks += 4 * width * side**2 * (depth - 1)
        pairs += 4 * width * side**2
    last = 2048 * 7**2  # its output is used once
    expected = {
        "batch_norm_statistics": (53, stem + plain + blocks + 2 * pairs),
        "batch_norm_apply_pool": (1, (1 + 3 / 8) * stem),
        "batch_norm_reduce_pool": (1, (1 + 3 / 8) * stem),
        "batch_norm_input_gradient_pool": (1, (2 + 3 / 8) * stem),
        "batch_norm_apply": (44, 2 * plain + (3 + 1 / 16) * blocks),
        "batch_norm_apply_pair": (4, 3 * pairs),
        "batch_norm_reduce": (44, 2 * plain + (4 + 1 / 16) * blocks - last),
        "batch_norm_reduce_pair": (4, 5 * pairs),
        "batch_norm_input_gradient": (44, 3 * (plain + blocks)),
        "batch_norm_input_gradient_pair": (4, 5 * pairs),
    }
    for name, (number, elements) in expected.items():
        assert step.operations[f"harness::{name}"] == number
        counted = step.bytes[f"harness::{name}"] / 32
        assert counted == pytest.approx(2 * elements, rel=0.03)  # and some vectors
        assert counted >= 2 * elements


def test_two_normalisations_in_one_operation_save_what_is_between_them():
    """The shortcut's result, written and read, and the gradient read twice: 4 1/8 an element."""
    pytest.importorskip("triton")
    config = load_config(ROOT / "resnet" / "configs" / "h200_4x8.toml", resnet.config.Config)
    counted = []
    for provider in ("triton", "separate"):
        table = config.operations | {"batch_norm_batch_norm_add_relu": provider}
        step, _ = operations.count_resnet(dataclasses.replace(config, operations=table), images=102)
        counted.append((sum(step.bytes.values()) / 102, sum(step.operations.values())))
    (joined, few), (apart, more) = counted
    pairs = sum(4 * width * side**2 for width, side in ((64, 56), (128, 28), (256, 14), (512, 7)))
    assert apart - joined == pytest.approx(2 * (4 + 1 / 8) * pairs, rel=0.01)
    assert more - few == 4 * 3


def test_pooling_with_normalisation_saves_what_is_between_them():
    """The normalised stem, and places of 64 bits in a quarter as many windows."""
    pytest.importorskip("triton")
    config = load_config(ROOT / "resnet" / "configs" / "h200_4x8.toml", resnet.config.Config)
    counted = []
    for provider in ("triton", "separate"):
        table = config.operations | {"batch_norm_relu_max_pool": provider}
        step, _ = operations.count_resnet(dataclasses.replace(config, operations=table), images=102)
        counted.append(sum(step.bytes.values()) / 102)
    stem, window = 64 * 112**2, 64 * 56**2
    apart = 2 * 11 * stem + (2 * 2 + 2 * 8) * window  # 16 bits a value, 64 a place
    joined = 2 * 5 * stem + (3 * 2 + 3 * 1) * window  # 16 bits a value, 8 a place
    assert counted[1] - counted[0] == pytest.approx(apart - joined, rel=0.01)


def test_updates_are_few_operations_however_many_tensors():
    config = load_config(ROOT / "resnet" / "configs" / "demo.toml", resnet.config.Config)
    _, small = operations.count_resnet(config, images=2)
    deeper = dataclasses.replace(config.model, depths=(3, 4, 6, 3))
    _, large = operations.count_resnet(dataclasses.replace(config, model=deeper), images=2)
    assert 1 <= sum(small.operations.values()) < 60
    assert small.operations == large.operations


def test_unpadded_bert_computes_less():
    config = load_config(ROOT / "bert" / "configs" / "demo.toml", bert.config.Config)
    batch = make_synthetic_batch(config, 4, torch.device("cpu"))
    length = config.input.max_sequence_length
    step, _ = operations.count_bert(config, batch)
    padded, _ = operations.count_bert(config, pad_batch(batch, length))
    tokens = batch.input_ids.numel() / (4 * length)
    assert tokens < 1
    assert tokens - 0.1 < step.flops / padded.flops < tokens + 0.2


def test_the_command_prints_one_json_document(capsys: pytest.CaptureFixture[str]):
    demo = ROOT / "resnet" / "configs" / "demo.toml"
    assert operations.main(["--config", str(demo), "--samples", "2", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 < result["peer"] < result["ours"]
    assert result["ratio"] == pytest.approx(result["peer"] / result["ours"])
    assert operations.main(["--config", str(demo), "--samples", "2"]) == 0
    assert "native_batch_norm_backward" in capsys.readouterr().out
