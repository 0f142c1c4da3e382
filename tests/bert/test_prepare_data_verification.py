"""Checks against a stored manifest and against published figures find what differs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from bert.examples import ExampleSettings
from bert.manifest import Manifest, Text, load_manifest, read_manifest, trace_origin, write_manifest
from bert.prepare_data import main
from bert.prepare_data_digests import digest_data, digest_rows
from bert.prepare_data_parts import create_data
from bert.prepare_data_picks import pick_evaluation_examples
from bert.prepare_data_verification import (
    AGREES,
    DIFFERS,
    NOT_COMPARED,
    compare_manifests,
    compare_published,
    verify_data,
)
from bert.published_data import (
    PublishedCount,
    PublishedData,
    PublishedDigest,
    PublishedFile,
    PublishedSet,
    read_published_data,
)
from bert.shards import ShardSet
from harness.commands import InputError
from tests.bert.small_data import SMALL, write_texts, write_vocabulary


def make_data(folder: Path, count: int = 3, settings: ExampleSettings = SMALL) -> Manifest:
    vocab, texts = write_vocabulary(folder), write_texts(folder, count)
    return create_data(texts, vocab, folder / "all", settings, 1)


@pytest.fixture
def small_defaults(monkeypatch: pytest.MonkeyPatch) -> ExampleSettings:
    """Let 32 tokens be the closed division's, so that small texts can stand for the real ones."""
    fields = ("max_seq_length", "max_predictions_per_seq", "dupe_factor")
    defaults = list(ExampleSettings.__init__.__defaults__ or ())
    for place, name in enumerate(fields):
        defaults[place] = getattr(SMALL, name)
    monkeypatch.setattr(ExampleSettings.__init__, "__defaults__", tuple(defaults))
    assert ExampleSettings() == SMALL
    return SMALL


def publish(manifest: Manifest, *sets: PublishedSet) -> PublishedData:
    """Pretend that these sets are published, with the vocabulary of this data set."""
    vocabulary = PublishedFile("vocab.txt", 1, manifest.vocabulary_md5, True, "us")
    return PublishedData({}, "", (), 3, (vocabulary,), sets, ())


def describe_texts(manifest: Manifest) -> tuple[tuple[int, PublishedFile], ...]:
    texts = trace_origin(manifest).texts
    return tuple(
        (place, PublishedFile(f"part-{place}", text.bytes, text.md5, True, "us"))
        for place, text in enumerate(texts)
    )


def hash_rows(manifest: Manifest, first: int, last: int) -> str:
    """The digest of rows, said once more: from single samples."""
    with ShardSet.open(manifest) as shards:
        rows = [str(shards.sample(number).input_ids.tolist()) for number in range(first, last)]
    texts = [hashlib.md5(row.encode()).hexdigest() for row in rows]
    return hashlib.md5(str(texts).encode()).hexdigest()


def test_digest_of_rows_over_shards(tmp_path: Path) -> None:
    manifest = make_data(tmp_path)
    first = manifest.shards[0].examples
    with ShardSet.open(manifest) as shards:
        assert digest_rows(shards, 0, first) == digest_data(manifest)["shards"][0]["input_ids_md5"]
        found = digest_rows(shards, first - 3, first + 5)
    assert found == hash_rows(manifest, first - 3, first + 5)


def test_workers_give_the_same_digests_in_the_same_order(tmp_path: Path) -> None:
    manifest = make_data(tmp_path)
    assert len(manifest.shards) > 1
    assert digest_data(manifest, 2) == digest_data(manifest, 1)


def test_a_damaged_shard_is_named_by_whichever_process_finds_it(tmp_path: Path) -> None:
    manifest = make_data(tmp_path)
    path = manifest.folder / manifest.shards[-1].name
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=path.name):
        digest_data(manifest, 2)


def test_workers_find_the_same_faults_in_the_same_order(tmp_path: Path) -> None:
    manifest = make_data(tmp_path)
    for shard in manifest.shards[::2]:
        path = manifest.folder / shard.name
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    faults = verify_data(manifest, 1)
    assert faults == verify_data(manifest, 3)
    assert all(s.name in fault for s, fault in zip(manifest.shards[::2], faults, strict=True))


def test_counts_of_the_manifest_are_compared(tmp_path: Path) -> None:
    manifest = make_data(tmp_path, 1)
    shard = manifest.shards[0]
    wrong = replace(shard, tokens=shard.tokens + 2, masked_tokens=shard.masked_tokens - 1)
    write_manifest(replace(manifest, shards=(wrong,)))
    faults = verify_data(read_manifest(manifest.folder))
    assert len(faults) == 1 and "tokens differs" in faults[0]


def test_against_a_stored_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make_data(tmp_path)
    path = manifest.folder / "manifest.json"
    stored = tmp_path / "stored.json"
    stored.write_bytes(path.read_bytes())
    assert compare_manifests(manifest, replace(load_manifest(stored), folder=tmp_path)) == []
    assert main(["verify", str(manifest.folder), "--against", str(stored)]) == 0
    assert main(["verify", str(manifest.folder), "--against", str(manifest.folder)]) == 0
    stored.write_text(stored.read_text().replace(manifest.shards[1].sha256, "0" * 64))
    assert main(["verify", str(manifest.folder), "--against", str(stored)]) == 1
    error = capsys.readouterr().err
    assert manifest.shards[1].name in error and f"not {'0' * 64}" in error
    with pytest.raises(InputError, match="nothing"):
        main(["verify", str(manifest.folder), "--against", str(tmp_path / "nothing.json")])


def test_every_difference_of_manifests_is_said(tmp_path: Path) -> None:
    manifest = make_data(tmp_path)
    first, second, third = manifest.shards
    for changed, sentence in (
        (replace(manifest, shards=(first, second)), f"shard {third.name} is missing"),
        (replace(manifest, shards=(second, first, third)), "another order"),
        (replace(manifest, vocabulary_size=7), "vocabulary_size is 7"),
        (replace(manifest, settings=replace(SMALL, seed=1)), "settings is"),
        (
            replace(manifest, shards=(replace(first, examples=1), second, third)),
            f"examples is 1, not {first.examples}",
        ),
    ):
        (fault,) = compare_manifests(changed, manifest)
        assert sentence in fault and str(manifest.folder) in fault
    (fault,) = compare_manifests(manifest, replace(manifest, shards=(first, second)))
    assert f"shard {third.name} is not wanted" in fault


@pytest.mark.usefixtures("small_defaults")
def test_a_published_set_is_recognised_by_its_texts(tmp_path: Path) -> None:
    manifest = make_data(tmp_path)
    part, first = manifest.shards[1], manifest.shards[0].examples
    texts = describe_texts(manifest)
    whole = PublishedSet(
        "whole",
        (texts[0], texts[2]),
        3,
        (),
        (
            PublishedCount("examples", 1, "another", "us"),
            PublishedCount("examples", manifest.examples, "one", "us"),
        ),
        (
            PublishedDigest(2, 5, hash_rows(manifest, 2, 7), "us"),
            PublishedDigest(0, 5, "0" * 32, "us"),
            PublishedDigest(0, 5, "0" * 32, "us", of_examples=4),
            PublishedDigest(0, manifest.examples + 1, "0" * 32, "us"),
        ),
    )
    digest = PublishedDigest(1, 3, hash_rows(manifest, first + 1, first + 4), "us")
    alone = PublishedSet("second text", ((0, texts[1][1]),), 1, (), (), (digest,))
    findings = compare_published(manifest, publish(manifest, whole, alone))
    assert [finding.result for finding in findings] == [
        *(AGREES, AGREES, AGREES),
        *(DIFFERS, NOT_COMPARED, DIFFERS),
        AGREES,
    ]
    sentences = [finding.sentence for finding in findings]
    assert sentences[1].endswith(f"is {manifest.examples:,}: one's published one")
    assert "rows 0 to 4 is" in sentences[3] and "not 00000000" in sentences[3]
    assert "for 4 examples in all" in sentences[4]
    assert "there are only" in sentences[5]
    assert part.examples > 4 and sentences[6].startswith("second text")


@pytest.mark.usefixtures("small_defaults")
def test_another_count_vocabulary_or_operation_is_not_passed_over(tmp_path: Path) -> None:
    manifest = make_data(tmp_path)
    counts = (
        PublishedCount("examples", 1, "one", "us"),
        PublishedCount("examples", 2, "another", "us"),
    )
    whole = PublishedSet("whole", describe_texts(manifest), 3, (), counts, ())
    published = publish(manifest, whole)
    _, finding = compare_published(manifest, published)
    assert finding.result == DIFFERS and "not 1 or 2 as published" in finding.sentence
    for changed in (
        replace(manifest, origin=trace_origin(manifest).add("shuffle 24")),
        replace(manifest, settings=replace(SMALL, seed=3)),
    ):
        finding = compare_published(changed, published)[-1]
        assert finding.result == DIFFERS and "not confirmed" in finding.sentence
    other = publish(replace(manifest, vocabulary_md5="0" * 32), whole)
    first, last = compare_published(manifest, other)
    assert "vocabulary's MD5" in first.sentence and first.result == last.result == DIFFERS


def test_the_real_files_are_known_by_their_names(tmp_path: Path) -> None:
    """A text that is called part-00001-of-00500 and has other bytes is a fault."""
    vocab = write_vocabulary(tmp_path)
    text = write_texts(tmp_path, 1)[0].rename(tmp_path / "part-00001-of-00500")
    manifest = create_data([text], vocab, tmp_path / "out", SMALL, 1)
    findings = compare_published(manifest, read_published_data())
    assert [finding.result for finding in findings] == [DIFFERS] * 3
    assert "549a9ed4f805257245bec936563abfd0" in findings[1].sentence
    assert main(["verify", str(tmp_path / "out"), "--published"]) == 1
    assert main(["verify", str(tmp_path / "out")]) == 0


@pytest.mark.usefixtures("small_defaults")
def test_picking_asserts_the_published_masked_tokens(tmp_path: Path) -> None:
    manifest = make_data(tmp_path, 1)
    picked = pick_evaluation_examples(manifest, tmp_path / "picked", 20)
    assert picked.origin == trace_origin(manifest).add("pick 20")
    for count, good in ((picked.masked_tokens, True), (picked.masked_tokens + 1, False)):
        counts = (PublishedCount("masked_tokens", count, "one", "us"),)
        published = publish(
            manifest, PublishedSet("set", describe_texts(manifest), 1, ("pick 20",), counts, ())
        )
        folder = tmp_path / f"picked {count}"
        if good:
            pick_evaluation_examples(manifest, folder, 20, published)
            assert [f.result for f in compare_published(picked, published)] == [AGREES, AGREES]
        else:
            with pytest.raises(InputError, match=rf"not the published {count:,}"):
                pick_evaluation_examples(manifest, folder, 20, published)
            assert list(folder.iterdir()) == []


def test_texts_are_traced_through_every_operation(tmp_path: Path) -> None:
    manifest = make_data(tmp_path)
    origin = trace_origin(manifest)
    sources = [tmp_path / f"part-{number}.txt" for number in range(3)]
    assert origin.texts == tuple(
        Text(path.stat().st_size, hashlib.md5(path.read_bytes()).hexdigest()) for path in sources
    )
    once = pick_evaluation_examples(manifest, tmp_path / "once", 20)
    twice = pick_evaluation_examples(once, tmp_path / "twice", 10)
    assert trace_origin(read_manifest(tmp_path / "twice")) == twice.origin
    assert twice.origin is not None
    assert (twice.origin.texts, twice.origin.operations) == (origin.texts, ("pick 20", "pick 10"))
