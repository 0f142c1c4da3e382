"""The speed of BERT's data preparation: what is compared is the same, and is said whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bert.examples import ExampleSettings
from bert.vocabulary import read_vocabulary
from harness.commands import InputError
from perf import bert_data


def test_the_text_is_like_text_and_always_the_same(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    vocab, text = bert_data.write_text(tmp_path, 100_000)
    same_vocab, same_text = bert_data.write_text(tmp_path / "again", 100_000)
    assert text.read_bytes() == same_text.read_bytes()
    assert vocab.read_bytes() == same_vocab.read_bytes()
    assert 60_000 < text.stat().st_size < 250_000
    ours = bert_data.Ours(text, read_vocabulary(vocab), ExampleSettings())
    sentences = len(ours.documents.sentence_starts) - 1
    assert 15 < text.read_text().count(" ") / sentences < 30
    assert len(ours.documents.document_starts) - 1 > sentences / 60
    # Some words are cut into pieces, none is unknown.
    assert ours.documents.tokens.min() > 1
    assert len(ours.documents.tokens) > 1.05 * len(text.read_text().split())


def test_the_command_prints_both_stretches(capsys: pytest.CaptureFixture[str]) -> None:
    assert bert_data.main(["--kilobytes", "30", "--rounds", "1", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == ["examples", "text"]
    for stretch in result.values():
        assert stretch["comparison"]["ratio"] > 0
        assert stretch["rate"] > 0 and stretch["peer_rate"] > 0
        assert stretch["floor_share"] > 0


def test_a_difference_is_not_measured(tmp_path: Path) -> None:
    vocab, text = bert_data.write_text(tmp_path, 5_000)
    # The peer knows no Unicode 11: here it cuts at a mark that came later.
    text.write_text(text.read_text("utf-8") + "b\u2e52b b b b b b b\n", "utf-8")
    with pytest.raises(InputError, match="the oracle makes other examples"):
        bert_data.measure(tmp_path, text, vocab, 1)


def test_a_text_needs_its_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--text and --vocab go together"):
        bert_data.main(["--text", str(tmp_path / "text")])
