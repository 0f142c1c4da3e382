"""Checks of a data set: every byte against its manifest, a stored manifest, published figures."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import partial

from bert.manifest import Manifest, Origin, Shard, trace_origin
from bert.prepare_data_digests import digest_rows
from bert.prepare_data_faults import find_faults
from bert.prepare_data_threads import run_tasks
from bert.published_data import PublishedData, PublishedSet
from bert.shard_file import find_layout, hash_content, read_description
from bert.shards import ShardSet
from harness.commands import InputError
from harness.progress import Progress

TEXT_NAME = re.compile(r"[0-9]+-(part-[0-9]{5}-of-[0-9]{5}|eval\.txt)\.shard")


@dataclass(frozen=True)
class Finding:
    """One comparison with a published figure, in a sentence; result: one of the three below."""

    result: str
    sentence: str


AGREES, DIFFERS, NOT_COMPARED = "ok", "fault", "not compared"


def verify_data(manifest: Manifest, workers: int = 1) -> list[str]:
    """Read every byte of a data set; return what is wrong with it, a sentence each."""
    progress = Progress("verify", manifest.bytes // 1000, "kB")
    faults: list[list[str]] = [[]] * len(manifest.shards)
    tasks = [partial(verify_shard, manifest, shard) for shard in manifest.shards]
    done = 0
    for finished, (number, found) in enumerate(run_tasks(tasks, workers), 1):
        faults[number] = found
        done += manifest.shards[number].bytes
        progress.update(done // 1000, f"{finished}/{len(tasks)} shards")
    progress.end()
    return [fault for found in faults for fault in found]


def verify_shard(manifest: Manifest, shard: Shard) -> list[str]:
    """Read every byte of one shard; return what is wrong with it."""
    path = manifest.folder / shard.name
    try:
        description, start = read_description(path)
        layout = find_layout(path, description, start)
        if hash_content(path, start) != description["sha256"]:
            return [
                f"{path}: the content does not match its checksum: delete the file and run the "
                "same create again"
            ]
        counts = ("examples", "tokens", "masked_tokens", "sha256")
        wrong = [name for name in counts if description[name] != getattr(shard, name)]
        if wrong:
            return [f"{path} is not the shard that the manifest names: {wrong[0]} differs"]
        return find_faults(
            layout,
            manifest.max_seq_length,
            manifest.max_predictions_per_seq,
            manifest.vocabulary_size,
        )
    except InputError as fault:
        return [str(fault)]


def compare_manifests(manifest: Manifest, stored: Manifest) -> list[str]:
    """Return in which settings, vocabulary, shards, counts and checksums two manifests differ."""
    faults = []
    for name in ("settings", "vocabulary_size", "vocabulary_md5", "origin"):
        ours, theirs = getattr(manifest, name), getattr(stored, name)
        if ours != theirs:
            faults.append(f"{name} is {ours!s:.200}, not {theirs!s:.200}")
    there = {shard.name: shard for shard in manifest.shards}
    wanted = {shard.name: shard for shard in stored.shards}
    faults += [f"shard {name} is missing" for name in wanted if name not in there]
    faults += [f"shard {name} is not wanted" for name in there if name not in wanted]
    for name in (name for name in wanted if name in there):
        differing = [
            f"{field.name} is {getattr(there[name], field.name)}, "
            f"not {getattr(wanted[name], field.name)}"
            for field in fields(Shard)
            if getattr(there[name], field.name) != getattr(wanted[name], field.name)
        ]
        if differing:
            faults.append(f"shard {name}: {'; '.join(differing)}")
    if not faults and list(there) != list(wanted):
        faults.append("the shards stand in another order")
    return [f"{manifest.folder}: {fault}" for fault in faults]


def compare_published(manifest: Manifest, published: PublishedData) -> list[Finding]:
    """Compare a data set with what is published of data sets that are made as it says it is.

    A data set of which nothing is published is a fault, too: nothing was confirmed.
    Raises InputError where a shard is damaged.
    """
    origin = trace_origin(manifest)
    findings = compare_sources(manifest, origin, published)
    compared = False
    views = [(origin, 0, manifest.examples, manifest.masked_tokens)]
    if not origin.operations and len(manifest.shards) > 1:
        first = 0
        for text, shard in zip(origin.texts, manifest.shards, strict=True):
            views.append((Origin((text,)), first, shard.examples, shard.masked_tokens))
            first += shard.examples
    for view, first, examples, masked_tokens in views:
        item = published.find_set(view, manifest.settings, manifest.vocabulary_md5)
        if item is None:
            continue
        compared = True
        findings += compare_counts(item, {"examples": examples, "masked_tokens": masked_tokens})
        findings += compare_digests(manifest, item, first, examples)
    if not compared:
        findings.append(
            Finding(
                DIFFERS,
                "nothing is published of a data set of these texts, vocabulary, settings and "
                f"operations ({', '.join(origin.operations) or 'create alone'}): not confirmed",
            )
        )
    return findings


def compare_sources(manifest: Manifest, origin: Origin, published: PublishedData) -> list[Finding]:
    """Compare the MD5 of the vocabulary and of every text whose name is a published one."""
    findings = []
    vocabulary = published.find_file("vocab.txt")
    if vocabulary is not None:
        findings.append(
            compare_values("vocabulary's MD5", manifest.vocabulary_md5, {vocabulary.md5: "the"})
        )
    if manifest.origin is not None:
        return findings  # the texts have no names any more; find_set knows them by their MD5
    for shard, text in zip(manifest.shards, origin.texts, strict=True):
        name = TEXT_NAME.fullmatch(shard.name)
        file = published.find_file(name[1]) if name else None
        if file is not None:
            findings.append(compare_values(f"{file.name}'s MD5", text.md5, {file.md5: "the"}))
    return findings


def compare_values(
    what: str, found: int | str, published: dict[int, str] | dict[str, str]
) -> Finding:
    """Compare a value with published ones, each with whose it is."""
    shown = f"{found:,}" if isinstance(found, int) else found
    if found in published:
        whose = published[found]  # type: ignore[index]
        return Finding(AGREES, f"{what} is {shown}: {whose} published one")
    wanted = [f"{value:,}" if isinstance(value, int) else value for value in published]
    return Finding(DIFFERS, f"{what} is {shown}, not {' or '.join(wanted)} as published")


def compare_counts(item: PublishedSet, found: dict[str, int]) -> list[Finding]:
    """Compare the numbers of examples and masked tokens of one set."""
    findings = []
    for what, count in found.items():
        published = item.list_counts(what)
        if published:
            whose = {number: f"{entry.by}'s" for number, entry in published.items()}
            words = what.replace("_", " ")
            findings.append(compare_values(f"{item.name}: number of {words}", count, whose))
    return findings


def compare_digests(
    manifest: Manifest, item: PublishedSet, first: int, examples: int
) -> list[Finding]:
    """Compare the digests of stretches of rows, the set beginning at row `first` of the data."""
    findings = []
    with ShardSet.open(manifest) as shards:
        for digest in item.digests:
            last = digest.first + digest.examples
            what = f"{item.name}: digest of rows {digest.first:,} to {last - 1:,}"
            if digest.of_examples is not None and digest.of_examples != examples:
                sentence = f"{what} is published for {digest.of_examples:,} examples in all alone"
                findings.append(Finding(NOT_COMPARED, f"{sentence}, not for {examples:,}"))
            elif last > examples:
                findings.append(Finding(DIFFERS, f"{what}: there are only {examples:,} rows"))
            else:
                found = digest_rows(shards, first + digest.first, first + last)
                findings.append(compare_values(what, found, {digest.input_ids_md5: "the"}))
    return findings
