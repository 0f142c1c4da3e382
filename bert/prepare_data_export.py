"""A data set as the seven padded features of the reference, in one .npz file."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bert.prepare_data_threads import run_in_order
from bert.shards import FlatBatch, Manifest, ShardSet, count_up
from harness.files import write_atomically
from harness.progress import Progress

ROWS = 2048
LAST_BLOCK = zlib.compressobj(wbits=-zlib.MAX_WBITS).flush()  # of a deflate stream, empty
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


class Piece(NamedTuple):
    """Some rows of one feature: their bytes, and these deflated so that more may follow."""

    content: bytes
    deflated: bytes


def make_piece(shards: ShardSet, feature: str, columns: int, first: int) -> Piece:
    """Read, pad and compress rows first ... first + ROWS - 1 of one feature."""
    batch = shards.gather(np.arange(first, min(first + ROWS, len(shards))))
    content = pad_batch(batch, feature, columns).tobytes()
    return Piece(content, deflate(content))


def deflate(content: bytes) -> bytes:
    """Compress bytes as whole blocks of a raw deflate stream that goes on (RFC 1951)."""
    stream = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return stream.compress(content) + stream.flush(zlib.Z_FULL_FLUSH)


def write_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, header: bytes, pieces: Iterator[Piece]
) -> Iterator[int]:
    """Write a compressed member of an archive; yields how many bytes each piece had.

    The archive stores what was compressed elsewhere, and is then told what it is.
    """
    crc, size = zlib.crc32(header), len(header)
    with archive.open(info, "w", force_zip64=True) as member:
        member.write(deflate(header))
        for piece in pieces:
            crc, size = zlib.crc32(piece.content, crc), size + len(piece.content)
            member.write(piece.deflated)
            yield len(piece.content)
        member.write(LAST_BLOCK)
    info.compress_type, info.CRC, info.file_size = zipfile.ZIP_DEFLATED, crc, size
    file: Any = archive.fp
    end = file.tell()
    file.seek(info.header_offset)
    file.write(info.FileHeader(zip64=True))
    file.seek(end)


def make_header(dtype: str, shape: tuple[int, int]) -> bytes:
    """Return what stands before the rows in an .npy file."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def export_data(manifest: Manifest, path: Path, workers: int = 1) -> None:
    """Write all examples of a data set as .npz, whole or not at all, with little memory.

    Arrays: see FEATURES; (examples, max_seq_length), (examples, max_predictions_per_seq) and
    (examples, 1). workers: threads that read, pad and compress, some 30 MB each; their number
    changes no byte. Raises InputError where a shard is damaged, OSError where it cannot be written.
    """
    columns = {
        "tokens": manifest.max_seq_length,
        "predictions": manifest.max_predictions_per_seq,
        "one": 1,
    }
    firsts = range(0, manifest.examples, ROWS)
    row_bytes = sum(columns[kind] * np.dtype(dtype).itemsize for kind, dtype in FEATURES.values())
    progress, done = Progress("export", manifest.examples * row_bytes // 1000, "kB"), 0
    with (
        ShardSet.open(manifest) as shards,
        write_atomically(path, "wb") as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        for feature, (kind, dtype) in FEATURES.items():
            info = zipfile.ZipInfo(f"{feature}.npy", EARLIEST_TIME)
            header = make_header(dtype, (len(shards), columns[kind]))
            tasks = (partial(make_piece, shards, feature, columns[kind], row) for row in firsts)
            for size in write_member(archive, info, header, run_in_order(tasks, workers)):
                done += size
                progress.update(done // 1000, feature)
    progress.end()
