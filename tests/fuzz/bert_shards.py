"""Fuzzes the readers of BERT's shards and manifest: `python -m tests.fuzz.bert_shards`.

Each execution damages one file of a small data set and reads everything there is: the manifest,
every example alone, all at once, each shard as `verify` does, the lengths, the origin. Nothing but
InputError may come, in one short line, and no batch that a trainer could not take.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bert.examples import ExampleSettings
from bert.manifest import (
    MANIFEST_NAME,
    Manifest,
    Origin,
    Shard,
    Text,
    name_shard,
    read_manifest,
    trace_origin,
    write_manifest,
)
from bert.prepare_data_information import describe_data
from bert.prepare_data_verification import verify_shard
from bert.shard_file import (
    ALIGNMENT_BYTES,
    INDEX_ENTRY,
    MAGIC,
    ShardFile,
    count_numbers,
    write_blocks,
)
from bert.shards import ShardSet
from harness.commands import InputError
from tests.fuzz.damage import VALUES, damage_bytes
from tests.fuzz.loop import Damaged, Execute, run_fuzzer

SETTINGS = ExampleSettings(max_seq_length=40, max_predictions_per_seq=6)
VOCABULARY = 50
SHARDS, EXAMPLES = 2, 3
LONGEST_SENTENCE = 1200
MEMORY_FOLDER = Path("/dev/shm")
NUMBERS = (0, 1, 2, 3, 39, 40, 41, 255, 65_535, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)

Files = dict[Path, bytes]


def make_set(folder: Path, item: str) -> Files:
    """Make a sound data set of numbers of one type; returns what its files hold."""
    folder.mkdir()
    random = np.random.default_rng(5)
    shards = []
    for number in range(SHARDS):
        index = np.zeros(EXAMPLES, INDEX_ENTRY)
        index["tokens"], index["first_segment"] = random.integers(8, 41, EXAMPLES), 4
        index["masked"] = random.integers(1, 7, EXAMPLES)
        lengths = count_numbers(index)
        index["start"] = np.cumsum(lengths) - lengths
        records = [
            [*random.integers(0, VOCABULARY, tokens), *range(masked), *range(masked)]
            for tokens, masked in zip(index["tokens"], index["masked"], strict=True)
        ]
        path = folder / name_shard(number, "text")
        block = np.asarray([value for record in records for value in record], item)
        made = write_blocks(path, index, [block], {"text": {"bytes": 5, "md5": "a" * 32}})
        counts = (made["examples"], made["tokens"], made["masked_tokens"])
        shards.append(Shard(path.name, *counts, path.stat().st_size, made["sha256"]))
    origin = Origin((Text(5, "a" * 32),), ("pick 4",)) if item == "<u4" else None
    write_manifest(Manifest(folder, SETTINGS, VOCABULARY, "0" * 32, tuple(shards), origin))
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


def damage_value(random: Random, content: Any) -> Any:
    """Replace, drop, double or swap something somewhere within parsed JSON; gives the root."""
    place = content
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = random.choice(keys)
        inner = place[key]
        if isinstance(inner, dict | list) and inner and random.random() < 0.8:
            place = inner
            continue
        kind = random.randrange(4)
        if kind == 0:
            del place[key]
        elif kind == 1:
            place[key] = place[random.choice(keys)]
        elif kind == 2 and isinstance(inner, int):
            place[key] = inner + random.choice((-1, 1)) * random.choice(NUMBERS)
        else:
            place[key] = random.choice(VALUES)
        break
    return content


def damage_json(random: Random, text: bytes) -> bytes:
    """Damage JSON that stays JSON."""
    return json.dumps(damage_value(random, json.loads(text))).encode()


def damage_description(random: Random, content: bytes) -> bytes:
    """Damage a shard's description, and let its length and its CRC say that it is right."""
    length = int.from_bytes(content[16:20], "little")
    text = content[24 : 24 + length]
    text = damage_json(random, text) if random.random() < 0.7 else damage_bytes(random, text)
    head = MAGIC + len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little") + text
    return head.ljust(ALIGNMENT_BYTES, b"\0") + content[ALIGNMENT_BYTES:]


def damage_index(random: Random, content: bytes) -> bytes:
    """Write another number into a field of an index entry."""
    name = random.choice(INDEX_ENTRY.names or ())
    kind, offset = (INDEX_ENTRY.fields or {})[name][:2]
    place = ALIGNMENT_BYTES + random.randrange(EXAMPLES) * INDEX_ENTRY.itemsize + int(offset)
    number = random.choice(NUMBERS) % (1 << 8 * kind.itemsize)
    value = number.to_bytes(kind.itemsize, "little")
    return content[:place] + value + content[place + kind.itemsize :]


def damage_records(random: Random, content: bytes) -> bytes:
    """Flip, cut or grow behind the index."""
    place = 2 * ALIGNMENT_BYTES
    return content[:place] + damage_bytes(random, content[place:])


def damage_file(random: Random, path: Path, files: Files) -> bytes:
    """Damage the content of one file a few times, or take another file's."""
    content = files[path]
    if random.random() < 0.05:
        return files[random.choice(list(files))]
    for _ in range(random.randrange(1, 4)):
        if path.name == MANIFEST_NAME:
            with contextlib.suppress(ValueError):
                if random.random() < 0.7:
                    content = damage_json(random, content)
                    continue
            content = damage_bytes(random, content)
        else:
            ways = (damage_description, damage_index, damage_index, damage_records, damage_bytes)
            with contextlib.suppress(ValueError):  # no JSON any more
                content = random.choice(ways)(random, content)
    return content


def adapt_manifest(random: Random, path: Path, content: bytes, manifest: bytes) -> bytes:
    """Let the manifest agree with a damaged shard's size, and with what it says of itself."""
    whole = json.loads(manifest)
    entry = next(shard for shard in whole["shards"] if shard["name"] == path.name)
    entry["bytes"] = len(content)
    with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
        length = int.from_bytes(content[16:20], "little")
        description = json.loads(content[24 : 24 + length])
        for key in ("sha256", "examples", "tokens", "masked_tokens"):
            if random.random() < 0.8:
                whole["examples"] += (description[key] - entry[key]) * (key == "examples")
                entry[key] = description[key]
    return json.dumps(whole).encode()


def attempt(read: Callable[[], object]) -> bool:
    """Call a reader; False where it refused, which it must do in one short line."""
    try:
        read()
    except InputError as refusal:
        assert str(refusal).isprintable(), refusal
        assert len(str(refusal)) < LONGEST_SENTENCE, refusal
        return False
    return True


def read_samples(shards: ShardSet) -> None:
    """Read every example alone, then all at once; check what a trainer relies on."""
    for number in range(len(shards)):
        attempt(lambda number=number: check_sample(shards, number))  # type: ignore[misc]
    attempt(lambda: shards.gather(np.arange(len(shards))))


def check_sample(shards: ShardSet, number: int) -> None:
    """Check one example against the limits of the manifest."""
    sample, manifest = shards.sample(number), shards.manifest
    length, masked = len(sample.input_ids), len(sample.masked_lm_ids)
    assert 1 <= length == len(sample.segment_ids) <= manifest.max_seq_length
    assert 1 <= masked == len(sample.masked_lm_positions) <= manifest.max_predictions_per_seq
    assert 0 <= sample.masked_lm_positions.min() <= sample.masked_lm_positions.max() < length
    for ids in (sample.input_ids, sample.masked_lm_ids):
        assert 0 <= ids.min() <= ids.max() < manifest.vocabulary_size
    assert sample.next_sentence_label in (0, 1)


def read_everything(folder: Path) -> None:
    """Read a data set in every way there is."""
    manifests: list[Manifest] = []
    if not attempt(lambda: manifests.append(read_manifest(folder))):
        return
    (manifest,) = manifests
    with ShardSet.open(manifest) as shards:
        read_samples(shards)
    for shard in manifest.shards:
        for fault in verify_shard(manifest, shard):
            assert fault.isprintable() and len(fault) < LONGEST_SENTENCE, fault
        attempt(lambda shard=shard: list(  # type: ignore[misc]
            ShardFile(folder / shard.name).iterate_records()))  # fmt: skip
    attempt(lambda: trace_origin(manifest))
    attempt(lambda: describe_data(manifest))


@contextlib.contextmanager
def replace_files(changed: Files, files: Files) -> Iterator[None]:
    """Let files have another content as long as the block runs."""
    for path, content in changed.items():
        path.write_bytes(content)
    try:
        yield
    finally:
        for path in changed:
            path.write_bytes(files[path])


def make_fuzzer() -> Execute:
    """Make the function that runs one execution."""
    memory = MEMORY_FOLDER if MEMORY_FOLDER.is_dir() else None  # opening files on a disk is slow
    place = tempfile.TemporaryDirectory(dir=memory)
    sets = [make_set(Path(place.name) / kind, item) for kind, item in (("2", "<u2"), ("4", "<u4"))]

    def execute(random: Random, number: int) -> None:
        files = random.choice(sets)
        path = random.choice(list(files))
        manifest = path.parent / MANIFEST_NAME
        changed = {path: damage_file(random, path, files)}
        if path != manifest and random.random() < 0.7:
            changed[manifest] = adapt_manifest(random, path, changed[path], files[manifest])
        with replace_files(changed, files):
            try:
                read_everything(Path(place.name) / path.parent.name)
            except Exception as error:
                raise Damaged(changed[path]) from error

    return execute


if __name__ == "__main__":
    sys.exit(run_fuzzer("Fuzz the readers of BERT's shards and manifest.", make_fuzzer, 100_000))
