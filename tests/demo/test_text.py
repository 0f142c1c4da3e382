"""The demonstration's text: the same for the same seed, whole words, nothing left unknown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bert.tokenization import Tokenizer
from bert.vocabulary import read_vocabulary
from demo.text import SENTENCES_A_DOCUMENT, SPECIAL_TOKENS, make_text, make_vocabulary
from demo.topics import DETERMINERS, PREPOSITIONS, TOPICS


def test_the_seed_alone_decides_the_text(tmp_path: Path) -> None:
    for name, seed in (("first", 7), ("same", 7), ("other", 8)):
        make_text(tmp_path / name, seed, 20)
    first = (tmp_path / "first").read_bytes()
    assert first == (tmp_path / "same").read_bytes() != (tmp_path / "other").read_bytes()
    make_text(tmp_path / "longer", 7, 21)
    assert (tmp_path / "longer").read_bytes().startswith(first)


def test_documents_are_of_one_topic_each(tmp_path: Path) -> None:
    make_text(tmp_path / "text", 3, 200)
    documents = (tmp_path / "text").read_text().split("\n\n")
    assert documents.pop() == "" and len(documents) == 200
    seen = set()
    for document in documents:
        sentences = document.splitlines()
        assert SENTENCES_A_DOCUMENT[0] <= len(sentences) <= SENTENCES_A_DOCUMENT[1]
        topics = set()
        for sentence in sentences:
            determiner, agent, verb, thing, preposition, the, place = sentence[:-1].split()
            assert sentence.endswith(".") and the == "the"
            assert determiner.lower() in DETERMINERS and determiner[0].isupper()
            assert preposition in PREPOSITIONS
            topics.add((agent, verb, thing, place))
        assert len(topics) == 1
        seen |= topics
    assert seen <= set(TOPICS) and len(seen) > 20


def test_a_word_tells_its_topic() -> None:
    """What is to be learnt can be: no word of a topic belongs to another, or to the frame."""
    words = [word for topic in TOPICS for word in topic]
    assert all(len(topic) == 4 for topic in TOPICS)
    assert len(words) == len(set(words))
    assert not set(words) & {*DETERMINERS, *PREPOSITIONS}


def test_the_vocabulary_is_the_references_format(tmp_path: Path) -> None:
    size = make_vocabulary(tmp_path / "vocab.txt")
    tokens = (tmp_path / "vocab.txt").read_text().splitlines()
    assert len(tokens) == size == len(set(tokens))
    assert tuple(tokens[: len(SPECIAL_TOKENS)]) == SPECIAL_TOKENS
    assert make_vocabulary(tmp_path / "again.txt") == size
    assert (tmp_path / "again.txt").read_text().splitlines() == tokens


def make_cutter(folder: Path) -> Callable[[str], list[str]]:
    """The preparation's own tokenizer with the demonstration's vocabulary, giving pieces."""
    make_vocabulary(folder / "vocab.txt")
    tokens = (folder / "vocab.txt").read_text().splitlines()
    tokenizer = Tokenizer(read_vocabulary(folder / "vocab.txt"))
    return lambda line: [tokens[number] for number in tokenizer.encode(line)]


def test_no_word_of_the_text_is_unknown_or_cut(tmp_path: Path) -> None:
    cut = make_cutter(tmp_path)
    make_text(tmp_path / "text", 5, 100)
    for line in (tmp_path / "text").read_text().splitlines():
        words = line.lower().replace(".", " .").split()
        assert cut(line) == words


@pytest.mark.parametrize("word", ["zygote", "q", "kneads", "bakers"])
def test_any_word_of_letters_can_be_written(tmp_path: Path, word: str) -> None:
    pieces = make_cutter(tmp_path)(word)
    assert "[UNK]" not in pieces
    assert "".join(piece.removeprefix("##") for piece in pieces) == word


def test_an_unknown_sign_is_unknown(tmp_path: Path) -> None:
    """The check above can fail: what the vocabulary lacks does come out as unknown."""
    assert make_cutter(tmp_path)("7") == ["[UNK]"]
