"""What fills a batch up changes neither losses nor gradients, and copies go in one piece."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bert.budget import Budget
from bert.config import Config
from bert.model import BertForPretraining, Operations, pretraining_loss
from bert.probe import make_synthetic_batch, make_synthetic_sequences
from bert.static_batch import (
    IGNORED_LABEL,
    StaticBatch,
    count_bytes,
    fill_arrays,
    make_static_batch,
    view_arrays,
)
from harness.config import load_config
from harness.ops.table import resolve_operations

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
CONFIG: Config = load_config(ROOT / "bert" / "configs" / "demo.toml", Config)
LENGTHS = np.array([40, 7, 64, 23])
FLAT = make_synthetic_sequences(CONFIG, LENGTHS)  # 134 tokens, 20 masked
NAMES = ("input_ids", "segment_ids", "position_ids", "cu_seqlens", "masked_positions",
         "masked_ids", "next_sentence_labels")  # fmt: skip


@pytest.mark.parametrize(
    "budget", [Budget(134, 20, 4, 64), Budget(144, 32, 5, 64), Budget(320, 48, 9, 64)]
)
def test_losses_and_gradients_are_those_without_filling(budget: Budget) -> None:
    operations = resolve_operations(Operations, CONFIG.operations)
    model_config = replace(CONFIG.model, dropout=0.0, attention_dropout=0.0)
    torch.manual_seed(1)
    model = BertForPretraining(model_config, operations).double()
    plain = make_synthetic_batch(CONFIG, 4, CPU)
    filled = make_static_batch(FLAT, 0, budget, CPU)
    plain = replace(
        plain,
        **{name: torch.from_numpy(getattr(FLAT, name)) for name in NAMES},
        longest_sequence=64,
    )
    results = []
    for batch in (plain, filled):
        model.zero_grad()
        output = model(batch)
        losses = pretraining_loss(output, batch.masked_ids, batch.next_sentence_labels, operations)
        losses[0].backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters()]
        results.append(([loss.item() for loss in losses], gradients))
    (losses, gradients), (filled_losses, filled_gradients) = results
    # The loss itself is in fp32 (the operation's definition), the gradients in fp64.
    assert losses == pytest.approx(filled_losses, rel=1e-6)
    for one, other in zip(gradients, filled_gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-9)


def test_real_content_comes_first_and_nothing_else_counts() -> None:
    budget = Budget(320, 48, 9, 64)
    batch = make_static_batch(FLAT, 3, budget, CPU)
    assert batch.budget == 3 and batch.longest_sequence == 64
    for name in ("input_ids", "segment_ids", "position_ids"):
        assert np.array_equal(getattr(batch, name)[:134], getattr(FLAT, name))
        assert len(getattr(batch, name)) == 320
    assert np.array_equal(batch.masked_positions[:20], FLAT.masked_positions)
    assert np.array_equal(batch.masked_ids[:20], FLAT.masked_ids)
    assert (batch.masked_ids[20:] == IGNORED_LABEL).all() and len(batch.masked_ids) == 48
    unused = batch.masked_positions[20:].tolist()
    assert len(set(unused)) == len(unused) and min(unused) >= 0 and max(unused) < 320
    assert np.array_equal(batch.next_sentence_labels[:4], FLAT.next_sentence_labels)
    assert batch.next_sentence_labels[4:].tolist() == [IGNORED_LABEL] * 5
    # 186 tokens fill up: 64, 64 and 58, then nothing.
    assert batch.cu_seqlens.tolist() == [0, 40, 47, 111, 134, 198, 262, 320, 320, 320]
    assert batch.cu_seqlens.dtype == torch.int32
    assert batch.position_ids[134:].tolist() == [*range(64), *range(64), *range(58)]
    assert not batch.input_ids[134:].any() and not batch.segment_ids[134:].any()


def test_old_content_leaves_no_trace() -> None:
    budget = Budget(320, 48, 9, 64)
    storage = torch.full((count_bytes(budget),), 77, dtype=torch.uint8)
    arrays = view_arrays(storage, budget)
    fill_arrays(make_synthetic_sequences(CONFIG, np.array([60, 60, 60, 60])), budget, arrays)
    fill_arrays(FLAT, budget, arrays)
    fresh = make_static_batch(FLAT, 0, budget, CPU)
    for name in NAMES:
        assert np.array_equal(arrays[name], getattr(fresh, name)), name


@pytest.mark.parametrize(
    "budget",
    [
        Budget(133, 20, 4, 64),
        Budget(134, 19, 4, 64),
        Budget(134, 20, 3, 64),
        Budget(199, 20, 5, 64),
    ],
)
def test_what_does_not_fit_is_refused(budget: Budget) -> None:
    with pytest.raises(ValueError, match="134 tokens, 20 masked"):
        make_static_batch(FLAT, 0, budget, CPU)


def test_a_batch_is_copied_into_another_of_its_shape_alone() -> None:
    budget = Budget(144, 32, 5, 64)
    source = make_static_batch(FLAT, 0, budget, CPU)
    other = make_synthetic_sequences(CONFIG, np.array([30, 30, 30, 30]))
    target: StaticBatch = make_static_batch(other, 0, budget, CPU)
    addresses = [getattr(target, name).data_ptr() for name in NAMES]
    source.copy_into(target)
    assert [getattr(target, name).data_ptr() for name in NAMES] == addresses
    for name in NAMES:
        assert torch.equal(getattr(source, name), getattr(target, name))
    with pytest.raises(ValueError, match="does not fit"):
        source.copy_into(make_static_batch(FLAT, 0, Budget(160, 32, 5, 64), CPU))


def test_every_array_begins_at_a_multiple_of_256_bytes() -> None:
    batch = make_static_batch(FLAT, 0, Budget(144, 32, 5, 64), CPU)
    start = batch.storage.data_ptr()
    for name in NAMES:
        assert (getattr(batch, name).data_ptr() - start) % 256 == 0
