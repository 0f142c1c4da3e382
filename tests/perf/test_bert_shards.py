"""Made data sets are data sets: whole, with examples that the trainer takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bert.prepare_data_verification import verify_data
from bert.probe import draw_lengths
from bert.shards import ShardSet, read_manifest
from perf.bert_shards import drop_pages, make_shards


def test_a_made_data_set_is_a_data_set(tmp_path: Path) -> None:
    made = make_shards(tmp_path / "data", 300, 4)
    manifest = read_manifest(tmp_path / "data")
    assert manifest == made and manifest.examples == 300 and len(manifest.shards) == 4
    assert verify_data(manifest) == []
    with ShardSet.open(manifest) as shards:
        batch = shards.gather(np.arange(75))
        lengths = np.diff(batch.cu_seqlens)
        assert np.array_equal(lengths, draw_lengths(75, 512, seed=0))
        masked = np.clip(np.round(lengths * 0.15), 1, 76)
        assert np.array_equal(batch.masked_counts, masked)
    drop_pages(manifest)
    assert read_manifest(tmp_path / "data") == made
