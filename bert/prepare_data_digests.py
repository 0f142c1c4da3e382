"""Digests of a data set that can be compared with published ones, whatever stores the examples.

A row digest is the MD5 of the text of a Python list, the digest of a shard the MD5 of the text of
the list of its row digests. Source of the construction: the .chk files of NVIDIA's submissions
(training_results_v4.0, bert input_preprocessing/hdf5_md5.py), which cover the input ids.
"""

from __future__ import annotations

import ctypes
import hashlib
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from bert.shard_file import ShardFile
from bert.shards import Manifest, ShardSet
from harness.commands import InputError
from harness.progress import Progress

PR_SET_PDEATHSIG = 1  # of Linux' prctl(2)
ROWS_PER_REPORT = 1024


def hash_text(value: object) -> str:
    """Return the MD5 of what Python prints of a value, as hex."""
    return hashlib.md5(str(value).encode(), usedforsecurity=False).hexdigest()


def digest_shard(file: ShardFile) -> tuple[str, str]:
    """Return (input_ids_md5, features_md5) of one shard.

    The first covers the un-padded input ids of each row; the second the list [input_ids,
    segment_ids, masked_lm_positions, masked_lm_ids, next_sentence_label] of each row.
    """
    ids_rows, feature_rows = [], []
    entries = zip(file.index.tolist(), file.iterate_records(), strict=True)
    for (_, tokens, first, masked, label, _), record in entries:
        numbers = record.tolist()
        input_ids = numbers[:tokens]
        segment_ids = [0] * first + [1] * (tokens - first)
        positions, truth = numbers[tokens : tokens + masked], numbers[tokens + masked :]
        ids_rows.append(hash_text(input_ids))
        feature_rows.append(hash_text([input_ids, segment_ids, positions, truth, label]))
    return hash_text(ids_rows), hash_text(feature_rows)


def digest_rows(shards: ShardSet, first: int, last: int) -> str:
    """Return the input_ids_md5 of rows first ... last - 1 of a data set, over its shards."""
    progress = Progress("digest", last - first, "examples")
    rows = []
    for low in range(first, last, ROWS_PER_REPORT):
        entries, records = shards.find(np.arange(low, min(low + ROWS_PER_REPORT, last)))
        for tokens, record in zip(entries["tokens"].tolist(), records, strict=True):
            rows.append(hash_text(record[:tokens].tolist()))
        progress.update(low - first)
    progress.end()
    return hash_text(rows)


def digest_data(manifest: Manifest, workers: int = 1) -> dict[str, list[dict[str, str | int]]]:
    """Return the digests of every shard in order, as `digest --json` prints them.

    workers: shards read at a time, each by a process, since the text of a row is made by Python.
    Raises InputError where a shard is damaged.
    """
    progress = Progress("digest", manifest.examples, "examples")
    done = 0
    digests: list[dict[str, str | int]] = []
    for shard, (input_ids_md5, features_md5) in zip(
        manifest.shards, _digest_shards(manifest, min(workers, len(manifest.shards))), strict=True
    ):
        digests.append(
            {
                "shard": shard.name,
                "examples": shard.examples,
                "input_ids_md5": input_ids_md5,
                "features_md5": features_md5,
            }
        )
        done += shard.examples
        progress.update(done)
    progress.end()
    return {"shards": digests}


def _digest_shards(manifest: Manifest, workers: int) -> Iterator[tuple[str, str]]:
    """Yield the digests of each shard, in order."""
    if workers == 1:
        with ShardSet.open(manifest) as shards:
            for number in range(len(manifest.shards)):
                yield digest_shard(shards.get_file(number))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        numbers = range(len(manifest.shards))
        tasks = [pool.submit(_digest_one, manifest, number) for number in numbers]
        try:
            for task in tasks:
                yield task.result()
        except BrokenProcessPool:
            raise InputError(
                f"{manifest.folder}: a process that read its shards was ended: give fewer "
                "--workers if memory ran out"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Let this process end with its parent, however that ends, and without a word on Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _digest_one(manifest: Manifest, number: int) -> tuple[str, str]:
    with ShardSet.open(manifest) as shards:
        return digest_shard(shards.get_file(number))
