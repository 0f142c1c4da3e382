"""A short stretch of the fuzzer, and proof that it would find what it looks for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from bert.checkpoint_weights import open_weights
from harness.commands import InputError
from tests.bert.checkpoint_files import TINY
from tests.fuzz import bert_checkpoint as fuzzer
from tests.fuzz.loop import Damaged

ROOT = Path(__file__).resolve().parents[2]


def test_no_damage_breaks_a_reader() -> None:
    """In a process of its own, whose memory it bounds."""
    command = [sys.executable, "-m", "tests.fuzz.bert_checkpoint", "--executions", "1400"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1400 executions" in done.stdout and "nothing failed" in done.stdout


@pytest.fixture
def samples(tmp_path: Path) -> fuzzer.Samples:
    return fuzzer.Samples(tmp_path)


@pytest.mark.parametrize("target", sorted({*fuzzer.TARGETS}, key=lambda f: f.__name__))
def test_every_kind_of_damage_is_met_and_sound_files_are_read(
    samples: fuzzer.Samples, target: Callable[[Random, fuzzer.Samples], fuzzer.Target]
) -> None:
    reasons, read = set(), 0
    for number in range(40):
        path, content, reader, _ = target(Random(number), samples)
        path.write_bytes(content)
        try:
            reader()
            read += 1
        except InputError as error:
            reasons.add(str(error))
        path.write_bytes(samples.sound[path])
        reader()
    assert len(reasons) >= 3
    assert read < 40


def test_some_damage_behind_the_checksums_is_let_through(samples: fuzzer.Samples) -> None:
    """Or the fuzzer would never reach what comes after the index."""
    reached = 0
    for number in range(100):
        path, content, _, _ = fuzzer.damage_table(Random(number), samples)
        path.write_bytes(content)
        try:
            open_weights(samples.prefix, TINY)
            reached += 1
        except InputError as error:
            reached += "does not fit the model" in str(error)
    assert 10 < reached < 90


@pytest.mark.parametrize("fault", [KeyError("x"), MemoryError(), InputError("two\nlines")])
def test_a_reader_that_fails_otherwise_is_found(
    monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(fuzzer, "open_weights", fail)
    monkeypatch.setattr(fuzzer, "Samples", lambda folder: samples_of(folder, monkeypatch))
    monkeypatch.setattr(fuzzer, "limit_memory", lambda more: None)
    execute = fuzzer.make_fuzzer()
    with pytest.raises(Damaged) as caught:
        execute(Random(1), 0)
    assert caught.value.content


def samples_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> fuzzer.Samples:
    """Sound samples, made by the readers that the test has taken away."""
    with monkeypatch.context() as patch:
        patch.setattr(fuzzer, "open_weights", open_weights)
        return ORIGINAL_SAMPLES(folder)


ORIGINAL_SAMPLES = fuzzer.Samples
