"""The evaluation set: every so many-th example of a data set, in order."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np

from bert.manifest import MANIFEST_NAME, Manifest, name_shard, trace_origin, write_manifest
from bert.prepare_data_parts import describe_shard, lock_folder
from bert.published_data import PublishedData, read_published_data
from bert.shard_file import write_shard
from bert.shards import ShardSet
from harness.commands import InputError


def choose_rows(examples: int, samples: int) -> list[int]:
    """Return the rows floor(i * examples / samples), the ratio a double as in the reference.

    Source: mlcommons/training bert cleanup_scripts/pick_eval_samples.py.
    """
    ratio = examples / samples
    return [int(i * ratio) for i in range(samples)]


def pick_evaluation_examples(
    manifest: Manifest, folder: Path, samples: int, published: PublishedData | None = None
) -> Manifest:
    """Write `samples` examples of a data set, evenly spread, as a data set of one shard.

    Raises InputError where there are fewer examples than samples, where the folder holds other
    data, or where the data set says that it is a published one and does not have its published
    number of masked tokens; OSError where the folder cannot be written.
    """
    if not 1 <= samples <= manifest.examples:
        raise InputError(
            f"{manifest.folder} holds {manifest.examples} examples: --samples must be from 1 to "
            f"{manifest.examples}, not {samples}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if os.path.realpath(folder) == os.path.realpath(manifest.folder):
        raise InputError(f"{folder} is both input and output: name another folder for the output")
    path = folder / name_shard(0, "evaluation")
    with lock_folder(folder), ShardSet.open(manifest) as shards:
        for other in sorted(folder.glob("*.shard")):
            if other != path:
                raise InputError(f"{other} is of other data: name an empty folder for the output")
        entries, records = shards.find(np.asarray(choose_rows(len(shards), samples)))
        index = entries.copy()
        lengths = np.asarray([len(record) for record in records])
        index["start"] = np.cumsum(lengths) - lengths
        traced = trace_origin(manifest).add(f"pick {samples}")
        item = (published or read_published_data()).find_set(
            traced, manifest.settings, manifest.vocabulary_md5
        )
        masked_tokens = int(index["masked"].sum(dtype=np.int64))
        known = item.list_counts("masked_tokens") if item else {}
        if known and masked_tokens not in known:
            raise InputError(
                f"{manifest.folder}: the picked examples have {masked_tokens:,} masked tokens, "
                f"not the published {' or '.join(f'{count:,}' for count in known)}: make the data "
                "anew with create"
            )
        names = "\n".join(shard.sha256 for shard in manifest.shards)
        origin = {
            "settings": asdict(manifest.settings),
            "vocabulary": {"size": manifest.vocabulary_size, "md5": manifest.vocabulary_md5},
            "picked": {
                "examples": manifest.examples,
                "source_sha256": hashlib.sha256(names.encode()).hexdigest(),
            },
        }
        (folder / MANIFEST_NAME).unlink(missing_ok=True)
        shard = describe_shard(path, write_shard(path, index, records, origin))
    picked = Manifest(
        folder,
        manifest.settings,
        manifest.vocabulary_size,
        manifest.vocabulary_md5,
        (shard,),
        traced,
    )
    write_manifest(picked)
    return picked
