"""A data set of made examples with Wikipedia's lengths, as large as one likes, for measurements."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from bert.examples import ExampleSettings
from bert.manifest import Manifest, Shard, name_shard, write_manifest
from bert.probe import draw_lengths
from bert.shard_file import INDEX_ENTRY, write_blocks

VOCABULARY = 30_522
SETTINGS = ExampleSettings()


def make_shards(folder: Path, examples: int, shards: int) -> Manifest:
    """Write a data set of so many examples: random words, 15 % of them masked. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    counts = np.diff(np.linspace(0, examples, shards + 1).astype(int)).tolist()
    made = [make_shard(folder, number, count) for number, count in enumerate(counts)]
    manifest = Manifest(folder, SETTINGS, VOCABULARY, "0" * 32, tuple(made))
    write_manifest(manifest)
    return manifest


def make_shard(folder: Path, number: int, examples: int) -> Shard:
    """Write shard `number`, whose masked tokens are the first of each example."""
    generator = np.random.default_rng(number)
    index = np.zeros(examples, INDEX_ENTRY)
    lengths = draw_lengths(examples, SETTINGS.max_seq_length, seed=number)
    most = SETTINGS.max_predictions_per_seq
    masked = np.clip(np.round(lengths * SETTINGS.masked_lm_prob), 1, most).astype(np.int64)
    index["tokens"], index["masked"] = lengths, masked
    index["first_segment"] = np.clip(lengths // 2, 3, lengths - 2)
    numbers = lengths + 2 * masked
    ends = np.cumsum(numbers)
    index["start"] = ends - numbers
    records = generator.integers(0, VOCABULARY, int(ends[-1]), dtype=np.uint16)
    firsts = np.repeat(ends - 2 * masked, masked)
    within = np.arange(int(masked.sum())) - np.repeat(np.cumsum(masked) - masked, masked)
    records[firsts + within] = within
    path = folder / name_shard(number, "made")
    description = write_blocks(path, index, [records], {"text": None})
    counts = (description["examples"], description["tokens"], description["masked_tokens"])
    return Shard(path.name, *counts, path.stat().st_size, description["sha256"])


def drop_pages(manifest: Manifest) -> None:
    """Let the system forget what it holds of a data set in memory. Raises OSError."""
    for shard in manifest.shards:
        handle = os.open(manifest.folder / shard.name, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)
