"""The exported archive: every reader takes it, and workers change no byte."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from bert import prepare_data_export
from bert.manifest import Manifest
from bert.prepare_data_export import FEATURES, export_data
from bert.prepare_data_parts import create_data
from bert.shards import ShardSet
from harness.commands import InputError
from tests.bert.small_data import SMALL, write_texts, write_vocabulary


@pytest.fixture(name="manifest")
def make_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    monkeypatch.setattr(prepare_data_export, "ROWS", 7)  # many pieces, the last a shorter one
    vocab, texts = write_vocabulary(tmp_path), write_texts(tmp_path)
    return create_data(texts, vocab, tmp_path / "out", SMALL, 1)


def test_the_number_of_workers_changes_no_byte(manifest: Manifest, tmp_path: Path) -> None:
    contents = set()
    for workers in (1, 3):
        path = tmp_path / f"{workers}.npz"
        export_data(manifest, path, workers)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_the_archive_says_of_itself_what_it_is(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    export_data(manifest, path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [f"{feature}.npy" for feature in FEATURES]
        for info in archive.infolist():
            assert info.compress_type == zipfile.ZIP_DEFLATED
            assert info.compress_size < info.file_size == len(archive.read(info))
            header = info.FileHeader(zip64=True)  # where a reader of streams looks
            assert content[info.header_offset :].startswith(header)


def test_rows_are_the_examples_padded(manifest: Manifest, tmp_path: Path) -> None:
    export_data(manifest, tmp_path / "features.npz", 2)
    with np.load(tmp_path / "features.npz") as features, ShardSet.open(manifest) as shards:
        assert len(shards) > 7 and len(shards) % 7
        for name, (_, dtype) in FEATURES.items():
            assert features[name].dtype == dtype and len(features[name]) == len(shards)
        for row in range(len(shards)):
            sample = shards.sample(row)
            length, masked = len(sample.input_ids), len(sample.masked_lm_ids)
            padding = [0] * (SMALL.max_seq_length - length)
            assert features["input_ids"][row].tolist() == [*sample.input_ids, *padding]
            assert features["input_mask"][row].tolist() == [1] * length + padding
            assert features["segment_ids"][row].tolist() == [*sample.segment_ids, *padding]
            padding = [0] * (SMALL.max_predictions_per_seq - masked)
            positions = features["masked_lm_positions"][row].tolist()
            assert positions == [*sample.masked_lm_positions, *padding]
            assert features["masked_lm_ids"][row].tolist() == [*sample.masked_lm_ids, *padding]
            assert features["masked_lm_weights"][row].tolist() == [1] * masked + padding
            assert features["next_sentence_labels"][row] == sample.next_sentence_label


def test_a_damaged_shard_leaves_no_file(manifest: Manifest, tmp_path: Path) -> None:
    path = manifest.folder / manifest.shards[-1].name
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match="bytes instead of"):
        export_data(manifest, tmp_path / "features.npz", 2)
    assert not list(tmp_path.glob("*features*"))
