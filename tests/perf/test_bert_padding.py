"""Padding a batch: the same question asked of longer sequences."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from bert.probe import make_synthetic_batch
from bert.step import TrainingStep
from perf import bert_padding

CPU = torch.device("cpu")


def test_padding_keeps_tokens_and_questions_and_fills_with_zeros():
    batch = make_synthetic_batch(bert_padding.make_config(), 5, CPU)
    padded = bert_padding.pad_batch(batch, 512)
    assert padded.input_ids.shape == (5 * 512,)
    assert padded.cu_seqlens.tolist() == [512 * i for i in range(6)]
    assert padded.position_ids.tolist() == list(range(512)) * 5
    ends = batch.cu_seqlens.tolist()
    for i in range(5):
        real = batch.input_ids[ends[i] : ends[i + 1]]
        row = padded.input_ids[512 * i : 512 * (i + 1)]
        assert torch.equal(row[: len(real)], real)
        assert not row[len(real) :].any()
    masked = batch.input_ids[batch.masked_positions]
    assert torch.equal(padded.input_ids[padded.masked_positions], masked)
    assert torch.equal(padded.masked_ids, batch.masked_ids)


def test_full_sequences_are_left_as_they_are():
    """Where nothing is to be filled both steps compute the very same loss gradients."""
    config = bert_padding.make_config()
    batch = make_synthetic_batch(config, 2, CPU)
    longest = bert_padding.pad_batch(batch, 512)
    again = bert_padding.pad_batch(longest, 512)
    for field in dataclasses.fields(longest):
        one, two = getattr(longest, field.name), getattr(again, field.name)
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(two)), field.name


def test_the_padded_step_trains():
    config = bert_padding.make_config()
    step = TrainingStep(config, CPU, 0, 1, None, [0.01])
    before = step.model.pooler.weight.detach().clone()
    padded = bert_padding.pad_batch(make_synthetic_batch(config, 2, CPU), 512)
    step.run(lambda _: padded)
    assert not torch.equal(step.model.pooler.weight, before)


def test_the_command_prints_figure_peer_and_ratio(capsys: pytest.CaptureFixture[str]):
    assert bert_padding.main(["--sequences", "2", "--rounds", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["ours"] > 0 and result["ratio"] > 0
    assert "padded to 512" in result["peer_name"]
