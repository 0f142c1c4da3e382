"""A data set as the seven padded features of the reference, in one .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bert.shards import FlatBatch, Manifest, ShardSet, count_up
from harness.files import write_atomically

ROWS = 2048
EARLIEST_TIME = (1980, 1, 1, 0, 0, 0)  # the same data make the same file
# feature -> (columns: tokens, predictions or one; dtype)
FEATURES = {
    "input_ids": ("tokens", "<i4"),
    "input_mask": ("tokens", "<i4"),
    "segment_ids": ("tokens", "<i4"),
    "masked_lm_positions": ("predictions", "<i4"),
    "masked_lm_ids": ("predictions", "<i4"),
    "masked_lm_weights": ("predictions", "<f4"),
    "next_sentence_labels": ("one", "<i4"),
}


def pad_batch(batch: FlatBatch, feature: str, columns: int) -> npt.NDArray[Any]:
    """Return one feature of a batch, padded with zeros: (B, columns) of the feature's dtype."""
    padded = np.zeros((len(batch.masked_counts), columns), FEATURES[feature][1])
    if feature == "next_sentence_labels":
        padded[:, 0] = batch.next_sentence_labels
        return padded
    of_tokens = FEATURES[feature][0] == "tokens"
    counts = np.diff(batch.cu_seqlens) if of_tokens else batch.masked_counts
    rows = np.repeat(np.arange(len(counts)), counts)
    values: Any = {
        "input_ids": batch.input_ids,
        "input_mask": 1,
        "segment_ids": batch.segment_ids,
        "masked_lm_positions": batch.masked_positions - batch.cu_seqlens[:-1].repeat(counts)
        if not of_tokens
        else None,
        "masked_lm_ids": batch.masked_ids,
        "masked_lm_weights": 1.0,
    }[feature]
    padded[rows, count_up(counts.astype(np.int64))] = values
    return padded


def iterate_batches(shards: ShardSet) -> Iterator[FlatBatch]:
    """Yield all examples in order, some at a time."""
    for first in range(0, len(shards), ROWS):
        yield shards.gather(np.arange(first, min(first + ROWS, len(shards))))


def export_data(manifest: Manifest, path: Path) -> None:
    """Write all examples of a data set as .npz, whole or not at all, with little memory.

    Arrays: see FEATURES; (examples, max_seq_length), (examples, max_predictions_per_seq) and
    (examples, 1). Raises InputError where a shard is damaged, OSError where it cannot be written.
    """
    columns = {
        "tokens": manifest.max_seq_length,
        "predictions": manifest.max_predictions_per_seq,
        "one": 1,
    }
    with (
        ShardSet.open(manifest) as shards,
        write_atomically(path, "wb") as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        for feature, (kind, dtype) in FEATURES.items():
            info = zipfile.ZipInfo(f"{feature}.npy", EARLIEST_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as member:
                header = {
                    "descr": dtype,
                    "fortran_order": False,
                    "shape": (len(shards), columns[kind]),
                }
                np.lib.format.write_array_header_1_0(member, header)
                for batch in iterate_batches(shards):
                    member.write(pad_batch(batch, feature, columns[kind]).tobytes())
