"""BERT-large counted with fused operations: FLOPs as derived by hand, bytes, gradients sent."""

from __future__ import annotations

import json

import pytest

import bert.config
from harness.config import load_config
from harness.ops.table import FLOAT8_PROVIDERS
from perf import bert_operations as counts


@pytest.fixture(scope="module")
def config() -> bert.config.Config:
    return load_config(counts.CONFIG, bert.config.Config)


def test_flops_of_a_mean_sequence_are_the_derived_ones(config: bert.config.Config) -> None:
    moments = (counts.MEAN_TOKENS, counts.MEAN_SQUARE, counts.MEAN_MASKED)
    layers = counts.count_flops(config, config.operations, counts.run_whole)
    whole = layers.sum_up(*moments)
    # 6 FLOPs a weight of the 24 layers and token, 294,912 L^2 of attention, 194 M a masked token
    weights = 24 * 12 * 1024**2
    by_hand = 6 * weights * moments[0] + 294_912 * moments[1] + 1.94e8 * moments[2]
    assert whole == pytest.approx(by_hand, rel=1e-3)
    assert whole == pytest.approx(0.497e12, rel=2e-3)
    assert 1.005e12 < layers.sum_up(512.0, 512.0**2, counts.MEAN_MASKED) < 1.02e12
    subset = counts.count_flops(config, config.operations, counts.run_subset).sum_up(*moments)
    # What follows attention in one of 24 layers, 3/4 of it, for the tokens that no head reads.
    unread = moments[0] - moments[2] - 1
    assert whole - subset == pytest.approx(6 * weights / 24 * 9 / 12 * unread, rel=2e-3)


def test_fused_operations_move_little_beside_the_products(config: bert.config.Config) -> None:
    batch = counts.make_shapes(4096, 624, 16)
    fused = counts.count_step(config, batch, config.operations, counts.run_subset)
    plain = counts.count_step(config, batch, counts.PLAIN, counts.run_subset)
    assert fused.operations["harness::layer_norm_forward"] == 49  # 48, and the head's
    assert fused.operations["harness::bias_gelu_forward"] == 25
    # The projections of a layer, whose other biases are added by what follows; pooler, next
    # sentence, words.
    assert fused.operations["addmm"] == 24 + 3
    # No sum over tokens is left to torch: the heads' biases, a sequence or masked token a row.
    assert fused.operations["harness::join_gradients"] == 24
    assert fused.operations["sum"] <= 5 and fused.bytes["sum"] < 0.01 * sum(fused.bytes.values())
    assert fused.operations["_flash_attention_forward"] == 24
    # Casts of a few numbers alone: the next sentence's scores, first tokens, and the gradient of
    # the bias in each of 48 normalisations, from fp32 to bf16.
    assert fused.bytes["_to_copy"] < 10_000 + 48 * 1024 * 6 and fused.operations["cat"] <= 3
    layers = sum(fused.bytes.values()) - fused.matrix_bytes
    others = sum(plain.bytes.values()) - plain.matrix_bytes
    assert layers < 0.5 * others
    assert sum(fused.operations.values()) < 0.6 * sum(plain.operations.values())


@pytest.mark.parametrize("provider", ["scaled_mm", "delayed"])
def test_fp8_takes_one_product_of_four_layers_forward_and_two_backward(provider: str) -> None:
    config = load_config(counts.CONFIG.with_stem("h200_4x8_fp8"), bert.config.Config)
    operations = config.operations | dict.fromkeys(FLOAT8_PROVIDERS, provider)
    batch = counts.make_shapes(4096, 624, 16)
    counted = counts.count_step(config, batch, operations, counts.run_subset)
    assert counted.operations["_scaled_mm"] == 24 * 4 * 3
    assert counted.matrix_bytes > counted.bytes["_scaled_mm"] > 0.25 * sum(counted.bytes.values())
    # Of activations, weights and gradients, but for GELU's and the three of attention, which are
    # cast where they are made or put together.
    assert counted.operations["harness::cast_float8"] == 24 * (4 * 3 - 3)
    for name in ("gelu", "gelu_gradient", "joined"):
        assert counted.operations[f"harness::cast_{name}_float8"] == 24
    # GELU's gradient is bounded by what comes back to it; delayed scaling searches for nothing.
    searches = 24 * (4 * 3 - 3 + 1) if provider == "scaled_mm" else 0
    assert counted.operations["harness::find_largest"] == searches
    # Nothing of GELU in 16 bit but in the heads, and no gradients put together in it.
    assert counted.operations["harness::bias_gelu_forward"] == 1
    assert "harness::join_gradients" not in counted.operations


def test_the_eager_peer_computes_all_that_is_padded(config: bert.config.Config) -> None:
    pytest.importorskip("transformers")
    eager = counts.count_eager_encoder(config, 2)
    by_hand = 6 * 24 * 12 * 1024**2 * 512 + 294_912 * 512**2
    assert eager.flops / 2 == pytest.approx(by_hand, rel=1e-6)
    assert by_hand == pytest.approx(1.005e12, rel=1e-3)
    assert sum(eager.bytes.values()) / 1024 > 17e6


def test_a_step_sends_every_gradient_in_16_bit(capsys: pytest.CaptureFixture[str]) -> None:
    assert counts.main(["--what", "communication", "--json"]) == 0
    sent = json.loads(capsys.readouterr().out)
    short, wide = sent["pools"]
    assert (short["dtype"], short["tensors"]) == ("bfloat16", 298)
    assert (wide["dtype"], wide["tensors"]) == ("float32", 100)
    norms = 50 * 2 * 1024
    assert wide["bytes"] == 4 * norms
    # 336,226,108 parameters; tensors are filled up to chunks of 256 elements
    assert 0 <= short["bytes"] - 2 * (336_226_108 - norms) < 2 * 256 * 298
    assert sent["bytes"] == pytest.approx(672e6, rel=2e-3)


def test_the_command_prints_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert counts.main(["--what", "bytes", "--sequences", "4", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["unit"] == "bytes/token" and said["ratio"] > 1.2
