"""The reader of TensorFlow checkpoints: the reference's own file, made ones, and hostile ones."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bert.tensorflow_checkpoint import TensorflowCheckpoint
from harness.commands import InputError
from tests.bert.checkpoint_files import PREFIX, Bundle, write_field

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "bert" / "tf1_checkpoint"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(), reason=f"the reference's checkpoint is not at {GOLDEN}"
)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path)


ARRAYS = {
    "a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4),
    "a/kernel/LAMB": np.zeros((3, 4), np.float32),
    "empty": np.zeros((0, 5), np.float32),
    "global_step": np.asarray(28252, np.int64),
}


@needs_golden
def test_reference_checkpoint() -> None:
    checkpoint = TensorflowCheckpoint(GOLDEN / PREFIX)
    assert len(checkpoint.variables) == 47
    assert checkpoint.read("global_step").shape == ()
    word = checkpoint.read("bert/embeddings/word_embeddings")
    assert word.shape == (1000, 64) and word.dtype == np.float32 and np.isfinite(word).all()
    assert 0.01 < word.std() < 1.0
    total = sum(checkpoint.read(name).nbytes for name in checkpoint.variables)
    assert total == (GOLDEN / f"{PREFIX}.data-00000-of-00001").stat().st_size


def test_made_checkpoint(bundle: Bundle) -> None:
    checkpoint = TensorflowCheckpoint(bundle.write(ARRAYS))
    assert sorted(checkpoint.variables) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(checkpoint.read(name), array)
        assert checkpoint.read(name).dtype == array.dtype


def test_several_data_files(bundle: Bundle) -> None:
    array = ARRAYS["a/kernel"]
    prefix = bundle.write({"a": array}, write_field(1, 2), data_file=1)
    one = prefix.with_name(f"{PREFIX}.data-00000-of-00001")
    two = prefix.with_name(f"{PREFIX}.data-00001-of-00002")
    with pytest.raises(InputError, match="data-00001-of-00002 is missing"):
        TensorflowCheckpoint(prefix)
    one.rename(two)
    np.testing.assert_array_equal(TensorflowCheckpoint(prefix).read("a"), array)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": 7}, "type number 7"),
        ({"dtype": b"x"}, "field 1 is no number"),
        ({"data_file": 1}, "data file 1 of 1"),
        ({"offset": 1}, "fetch the file again"),
        ({"offset": 1 << 60}, "fetch the file again"),
        ({"offset": (1 << 64) - 1}, "fetch the file again"),
        ({"size": 4}, "does not fit 4 bytes"),
        ({"size": (1 << 64) - 48}, "does not fit"),
        ({"shape": b"\x12\x02\x08\x05"}, "does not fit"),
        ({"shape": b"\x12\x0b\x08" + b"\xff" * 9 + b"\x01"}, "a shape is not possible"),
        ({"shape": b"\x18\x01"}, "unknown rank"),
        ({"shape": 3}, "a shape is no message"),
        ({"shape": b"\x12\x00" * 9}, "a shape is not possible"),
        ({"more": b"\x3a\x00"}, "slices"),
        ({"more": b"\x3a\x7f"}, "a length reaches beyond"),
        ({"more": b"\x0b"}, "unknown kind 3"),
        ({"more": b"\x35\x00"}, "a length reaches beyond"),
    ],
)
def test_hostile_entries(bundle: Bundle, changes: dict[str, Any], reason: str) -> None:
    prefix = bundle.write({"a": ARRAYS["a/kernel"]}, **changes)
    with pytest.raises(InputError, match=reason) as caught:
        TensorflowCheckpoint(prefix)
    assert PREFIX in str(caught.value)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"", "names 0 data files"),
        (b"\x08\xff\xff\xff\x7f", "data files"),
        (b"\x08\x01\x10\x01", "big-endian"),
        (b"\x08", "cut off"),
    ],
)
def test_hostile_headers(bundle: Bundle, header: bytes, reason: str) -> None:
    prefix = bundle.write(ARRAYS, header)
    with pytest.raises(InputError, match=reason):
        TensorflowCheckpoint(prefix)


def test_damaged_numbers(bundle: Bundle) -> None:
    prefix = bundle.write(ARRAYS)
    path = prefix.with_name(f"{PREFIX}.data-00000-of-00001")
    whole = path.read_bytes()
    path.write_bytes(b"\x01" + whole[1:])
    checkpoint = TensorflowCheckpoint(prefix)
    with pytest.raises(InputError, match="a/kernel does not match its checksum"):
        checkpoint.read("a/kernel")
    path.write_bytes(whole[:20])
    with pytest.raises(InputError, match="a/kernel is cut off"):
        checkpoint.read("a/kernel")
    with pytest.raises(InputError, match="has 20 bytes, but variable"):
        TensorflowCheckpoint(prefix)


def test_missing_files(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.index is missing: give the checkpoint's common"):
        TensorflowCheckpoint(tmp_path / "none")
    prefix = bundle.write(ARRAYS)
    prefix.with_name(f"{PREFIX}.data-00000-of-00001").unlink()
    with pytest.raises(InputError, match="fetch the whole checkpoint"):
        TensorflowCheckpoint(prefix)
    prefix.with_name(f"{PREFIX}.index").write_text("not a table")
    with pytest.raises(InputError, match="not a sound TensorFlow checkpoint index"):
        TensorflowCheckpoint(prefix)


@pytest.mark.parametrize("prefix", [".", "/", "..", "x/.."])
def test_a_folder_is_no_prefix(prefix: str) -> None:
    with pytest.raises(InputError, match="is a folder: give the checkpoint's common beginning"):
        TensorflowCheckpoint(prefix)


def test_a_checkpoint_of_another_tensorflow_is_named(bundle: Bundle) -> None:
    prefix = bundle.write({"_CHECKPOINTABLE_OBJECT_GRAPH": np.zeros(1, np.float32)})
    with pytest.raises(InputError, match="TensorFlow 2: give that of TensorFlow 1"):
        TensorflowCheckpoint(prefix)


def test_an_index_out_of_all_proportion(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = bundle.write(ARRAYS, more=b"\x42" + b"\x80\x40" + bytes(1 << 13))
    with pytest.raises(InputError, match=r"an entry of 82\d\d bytes"):
        TensorflowCheckpoint(prefix)
    monkeypatch.setattr("bert.tensorflow_checkpoint.LARGEST_INDEX_BYTES", 100)
    with pytest.raises(InputError, match="too large for a checkpoint's index"):
        TensorflowCheckpoint(prefix)


def test_a_name_cannot_break_the_sentence(bundle: Bundle) -> None:
    for name in ("a\nb\x1b[31m", "long" * 100):
        prefix = bundle.write({name: ARRAYS["a/kernel"]}, size=4)
        with pytest.raises(InputError) as caught:
            TensorflowCheckpoint(prefix)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@needs_golden
def test_a_flipped_byte_of_the_index_is_refused_or_without_effect(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path, dirs_exist_ok=True)
    path = tmp_path / f"{PREFIX}.index"
    path.chmod(0o644)
    whole = path.read_bytes()
    variables = TensorflowCheckpoint(tmp_path / PREFIX).variables
    refused = 0
    places = random.Random(1).sample(range(len(whole)), 250)
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        try:
            assert TensorflowCheckpoint(tmp_path / PREFIX).variables == variables
        except InputError:
            refused += 1
    assert refused > 220
