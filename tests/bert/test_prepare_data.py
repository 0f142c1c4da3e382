"""The commands that make, compare, check, pick from and export BERT's data set."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bert.examples import ExampleSettings
from bert.prepare_data import main
from bert.prepare_data_information import describe_data
from bert.prepare_data_parts import Pool, create_data, lock_folder, plan_parts
from bert.prepare_data_picks import choose_rows, pick_evaluation_examples
from bert.prepare_data_verification import verify_data
from bert.shards import read_manifest
from harness.commands import InputError
from harness.progress import Progress
from tests.bert.small_data import (
    ROOT,
    SMALL,
    SMALL_OPTIONS,
    hash_files,
    read_features,
    run,
    write_texts,
    write_vocabulary,
)

GOLDEN = ROOT.parent / "shared" / "golden" / "bert"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"the reference's outputs are not at {GOLDEN}"
)


def refuse(folder: Path, *texts: Path, **changes: Any) -> str:
    settings = ExampleSettings(**{**SMALL.__dict__, **changes})
    with pytest.raises(InputError) as caught:
        create_data(list(texts), write_vocabulary(folder), folder / "out", settings, 1)
    assert not (folder / "out" / "manifest.json").exists()
    return str(caught.value)


@needs_golden
def test_reference_examples_bit_for_bit(tmp_path: Path) -> None:
    out, npz = tmp_path / "out", tmp_path / "features.npz"
    run("create", "--vocab", GOLDEN / "vocab.txt", "--output", out, GOLDEN / "sample_text.txt")
    run("export", out, "--npz", npz)
    golden, ours = read_features(GOLDEN / "pretraining_512.npz"), read_features(npz)
    assert list(ours) == list(golden)
    for feature in golden:
        assert ours[feature].dtype == golden[feature].dtype
        np.testing.assert_array_equal(ours[feature], golden[feature], err_msg=feature)
    digests = json.loads(run("digest", out, "--json").stdout)["shards"]
    ids_rows, feature_rows = [], []
    for row in range(len(golden["input_ids"])):
        length, masked = golden["input_mask"][row].sum(), golden["masked_lm_weights"][row] > 0
        ids = golden["input_ids"][row, :length].tolist()
        features = [
            ids,
            golden["segment_ids"][row, :length].tolist(),
            golden["masked_lm_positions"][row][masked].tolist(),
            golden["masked_lm_ids"][row][masked].tolist(),
            int(golden["next_sentence_labels"][row, 0]),
        ]
        ids_rows.append(hashlib.md5(str(ids).encode()).hexdigest())
        feature_rows.append(hashlib.md5(str(features).encode()).hexdigest())
    assert digests == [
        {
            "shard": "00000-sample_text.txt.shard",
            "examples": 2390,
            "input_ids_md5": hashlib.md5(str(ids_rows).encode()).hexdigest(),
            "features_md5": hashlib.md5(str(feature_rows).encode()).hexdigest(),
        }
    ]


def test_one_shard_a_text_whatever_the_workers(tmp_path: Path) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path)
    create_data(texts, vocab, tmp_path / "one", SMALL, workers=1)
    run("create", "--vocab", vocab, "--output", tmp_path / "two", "--workers", "2",
        *SMALL_OPTIONS, *texts)  # fmt: skip
    assert hash_files(tmp_path / "one") == hash_files(tmp_path / "two")
    manifest = read_manifest(tmp_path / "one")
    assert [shard.name for shard in manifest.shards] == [
        f"{number:05d}-part-{number}.txt.shard" for number in range(3)
    ]
    # Each text alone gives the same shard: none depends on its neighbours.
    create_data(texts[1:2], vocab, tmp_path / "alone", SMALL, workers=1)
    alone = (tmp_path / "alone" / "00000-part-1.txt.shard").read_bytes()
    assert alone == (tmp_path / "one" / "00001-part-1.txt.shard").read_bytes()


def test_settings_change_the_examples(tmp_path: Path) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 1)
    counts = {}
    for seed, factor in ((12345, 1), (12345, 3), (7, 1)):
        settings = ExampleSettings(32, 5, factor, seed=seed)
        folder = tmp_path / f"{seed}-{factor}"
        counts[seed, factor] = create_data(texts, vocab, folder, settings, 1)
    assert counts[12345, 3].examples > 2 * counts[12345, 1].examples
    assert counts[12345, 1].shards[0].sha256 != counts[7, 1].shards[0].sha256


def test_killed_create_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 4, 120)
    create_data(texts, vocab, tmp_path / "whole", SMALL, 1)
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "bert.prepare_data", "create", "--vocab", str(vocab)]
    command += ["--output", str(out), *SMALL_OPTIONS, *map(str, texts)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(out.glob("*.shard")):
        time.sleep(0.002)
    process.kill()
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in out.glob("*.shard")}
    assert kept
    (out / ".00003-part-3.txt.shard.99.part").write_bytes(b"half")
    create_data(texts, vocab, out, SMALL, 1)
    assert hash_files(out) == hash_files(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize("workers", [1, 2])
def test_create_tells_what_it_kept_from_what_it_made(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 3)
    out = tmp_path / "out"
    kilobytes = sum(text.stat().st_size for text in texts) // 1000
    first = create_data(texts, vocab, out, SMALL, workers)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"create: {kilobytes} kB in ") and told.endswith(" in 3 shards")
    (out / first.shards[1].name).unlink()
    assert create_data(texts, vocab, out, SMALL, workers) == first
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"create: {texts[1].stat().st_size // 1000} kB in ")
    assert told.endswith("(2 of 3 shards were there)")
    create_data(texts, vocab, out, SMALL, workers)
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("create: 0 kB in ") and told.endswith("(3 of 3 shards were there)")


def test_finished_shards_are_made_anew_when_anything_differs(tmp_path: Path) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 2)
    out = tmp_path / "out"
    before = create_data(texts, vocab, out, SMALL, 1)
    shard = out / before.shards[0].name
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)  # damaged, in its right size
    assert create_data(texts, vocab, out, SMALL, 1) == before
    texts[1].write_text(texts[1].read_text().replace("cat", "dog"))
    after = create_data(texts, vocab, out, SMALL, 1)
    assert after.shards[0] == before.shards[0] and after.shards[1] != before.shards[1]
    other = ExampleSettings(32, 5, 2, seed=1)
    assert create_data(texts, vocab, out, other, 1).shards[0] != before.shards[0]
    assert "is of other data" in refuse_other(texts[:1], vocab, out)


def refuse_other(texts: list[Path], vocab: Path, out: Path) -> str:
    with pytest.raises(InputError) as caught:
        create_data(texts, vocab, out, SMALL, 1)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"the cat\nthe \xff dog\n", "line 2: not UTF-8 (invalid start byte at byte 5"),
        (b"", "holds no sentence"),
        (b"\n\n \r\n\x00\n", "holds no sentence"),
    ],
)
def test_texts_that_cannot_be_used(tmp_path: Path, content: bytes, reason: str) -> None:
    text = tmp_path / "bad.txt"
    text.write_bytes(content)
    message = refuse(tmp_path, *write_texts(tmp_path, 1), text)
    assert reason in message and str(text) in message
    if content:
        vocab = write_vocabulary(tmp_path)
        done = run("create", "--vocab", vocab, "--output", tmp_path / "pool", "--workers", "2",
                   *SMALL_OPTIONS, text, text, status=2)  # fmt: skip
        assert reason in done.stderr


def test_wrong_use_is_one_sentence(tmp_path: Path) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 1)
    assert "max_seq_length" in refuse_settings(max_seq_length=4)
    assert "masked_lm_prob" in refuse_settings(masked_lm_prob=float("nan"))
    assert "dupe_factor" in refuse_settings(dupe_factor=0)
    out = tmp_path / "out"
    done = run("create", "--vocab", vocab, "--output", out, tmp_path / "none.txt", status=2)
    assert "none.txt: no such file" in done.stderr and len(done.stderr.splitlines()) == 1
    run("create", "--vocab", texts[0], "--output", out, texts[0], status=2)
    run("create", "--vocab", vocab, "--output", out, "--workers", "0", texts[0], status=2)
    run("create", "--vocab", vocab, "--output", out, tmp_path, status=2)
    assert "manifest.json is missing" in run("digest", tmp_path, status=2).stderr
    run("digest", status=2)


def refuse_settings(**changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        ExampleSettings(**changes)
    return str(caught.value)


def test_verify_finds_every_flipped_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 1)
    out = tmp_path / "out"
    manifest = create_data(texts, vocab, out, SMALL, 1)
    assert verify_data(manifest) == []
    assert main(["verify", str(out)]) == 0
    shard = out / manifest.shards[0].name
    whole = shard.read_bytes()
    length = int.from_bytes(whole[16:20], "little")
    used = [*range(24 + length), *range(4096, len(whole))]
    for place in used[:: max(1, len(used) // 60)]:
        content = bytearray(whole)
        content[place] ^= 0x10
        shard.write_bytes(content)
        assert len(verify_data(manifest)) == 1, place
    assert main(["verify", str(out)]) == 1
    assert str(shard) in capsys.readouterr().err
    shard.write_bytes(whole[:-2])
    run("verify", out, status=2)


def test_evaluation_set_is_evenly_picked(tmp_path: Path) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path)
    manifest = create_data(texts, vocab, tmp_path / "all", SMALL, 1)
    picked = pick_evaluation_examples(manifest, tmp_path / "picked", 50)
    assert picked == read_manifest(tmp_path / "picked") and picked.examples == 50
    assert verify_data(picked) == []
    run("export", tmp_path / "all", "--npz", tmp_path / "all.npz")
    run("export", tmp_path / "picked", "--npz", tmp_path / "picked.npz")
    rows = [i * manifest.examples // 50 for i in range(50)]
    everything = read_features(tmp_path / "all.npz")
    picked_features = read_features(tmp_path / "picked.npz")
    for feature in everything:
        np.testing.assert_array_equal(picked_features[feature], everything[feature][rows])
    run("pick", tmp_path / "all", tmp_path / "more", "--samples", "1000000", status=2)
    run("pick", tmp_path / "all", tmp_path / "all", "--samples", "10", status=2)
    assert verify_data(manifest) == []


def test_picked_rows_are_those_of_a_double_ratio() -> None:
    assert choose_rows(10, 4) == [0, 2, 5, 7]
    rows = choose_rows(331_977, 10_000)
    assert len(set(rows)) == 10_000 and rows[-1] == int(9_999 * 33.1977)


def test_info_counts(tmp_path: Path) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path)
    out = tmp_path / "out"
    manifest = create_data(texts, vocab, out, SMALL, 1)
    description = describe_data(manifest)
    assert sum(count for _, _, count in description["length_histogram"]) == manifest.examples
    assert description["tokens"] == manifest.tokens
    assert json.loads(run("info", out, "--json").stdout) == description
    assert f"{manifest.examples:,}" in run("info", out).stdout


def test_output_disappears_with_its_reader(tmp_path: Path) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path)
    create_data(texts, vocab, tmp_path / "out", SMALL, 1)
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "bert.prepare_data", "digest", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert b"Traceback" not in done.stderr


def test_two_calls_do_not_write_into_one_folder(tmp_path: Path) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 1)
    out = tmp_path / "out"
    out.mkdir()
    with lock_folder(out), pytest.raises(InputError, match="is being written by another call"):
        create_data(texts, vocab, out, SMALL, 1)
    assert create_data(texts, vocab, out, SMALL, 1).examples > 0


def test_a_lost_worker_is_said_and_its_neighbours_stay(tmp_path: Path) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 2)
    out = tmp_path / "out"
    out.mkdir()
    pool = Pool(plan_parts(texts, out), vocab, SMALL, 2)
    pool.start(1)
    ((_, process),) = pool.running.values()
    process.kill()
    with pytest.raises(InputError, match=r"part-1\.txt: the process .* ended with status -9"):
        pool.run()
    assert not (out / "manifest.json").exists() and not list(out.glob(".*"))
    assert not pool.running or not any(p.is_alive() for _, p in pool.running.values())


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("command", ["verify", "digest", "info", "export", "shuffle"])
def test_no_progress_is_left_on_the_terminal_before_what_a_command_says(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 2)
    create_data(texts, vocab, tmp_path / "out", SMALL, 1)
    seconds = itertools.count()
    monkeypatch.setattr(
        "harness.progress.time", SimpleNamespace(monotonic=lambda: float(next(seconds)))
    )
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    more = {"export": ["--npz", str(tmp_path / "f.npz")], "shuffle": [str(tmp_path / "shuffled")]}
    assert main([command, str(tmp_path / "out"), *more.get(command, [])]) == 0
    shown = screen.getvalue()
    assert "\r\x1b[K" in shown
    assert Progress.shown is None and shown.endswith(("\r\x1b[K", "\n"))


def test_verify_says_what_it_found_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path, 2)
    manifest = create_data(texts, vocab, tmp_path / "out", SMALL, 1)
    assert main(["verify", str(tmp_path / "out")]) == 0
    count = f"{manifest.examples:,} examples in 2 shards"
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: {count}: no faults\n"
