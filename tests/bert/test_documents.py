"""Texts to documents: what divides them, what falls away, what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bert import documents as documents_module
from bert.documents import Documents, read_documents
from bert.tokenization import Tokenizer
from harness.commands import InputError
from perf import bert_oracle as oracle
from tests.bert.sample_vocabulary import SPECIAL, make_oracle, make_vocabulary

PIECES = [*SPECIAL, *(f"w{i}" for i in range(10)), "a", "##a", ".", "ς"]
TOKENIZER = Tokenizer(make_vocabulary(PIECES))
SLOW = make_oracle(PIECES)


def list_documents(documents: Documents) -> list[list[list[str]]]:
    pieces = [PIECES[number] for number in documents.tokens]
    bounds = itertools.pairwise(documents.sentence_starts.tolist())
    sentences = [pieces[start:end] for start, end in bounds]
    edges = documents.document_starts.tolist()
    return [sentences[low:high] for low, high in itertools.pairwise(edges)]


def read(folder: Path, content: bytes) -> list[list[list[str]]]:
    path = folder / "text.txt"
    path.write_bytes(content)
    return list_documents(read_documents(path, TOKENIZER))


def test_documents(tmp_path: Path) -> None:
    assert read(tmp_path, b"w1 w2\nw3\n\n\n \t\nw4") == [[["w1", "w2"], ["w3"]], [["w4"]]]
    assert read(tmp_path, b"w1\r\nw2\r\n\r\nw3\r\n") == [[["w1"], ["w2"]], [["w3"]]]
    # A lone CR ends no line and divides no word; U+2028 divides words alone.
    assert read(tmp_path, b"w\r1\xe2\x80\xa8w2\r") == [[["w1", "w2"]]]
    # A CR is dropped even inside a character.
    assert read(tmp_path, b"w1\xe2\x80\r\xa8w2") == [[["w1", "w2"]]]
    # A line of characters that all fall away neither is a sentence nor divides documents.
    assert read(tmp_path, b"w1\n\x00\xe2\x80\x8b\nw2\n") == [[["w1"], ["w2"]]]
    # A line of control characters that Python strips is blank.
    assert read(tmp_path, b"w1\n\x1c\x0b\nw2\n") == [[["w1"]], [["w2"]]]
    assert read(tmp_path, b"\xef\xbb\xbfw1\n") == [[["w1"]]]
    # A line that the table leaves to Python, first, last, alone, without an end.
    sigma = "Σ".encode()
    assert read(tmp_path, sigma + b"\nw1\n" + sigma) == [[["[UNK]"], ["w1"], ["[UNK]"]]]


def test_long_lines(tmp_path: Path) -> None:
    assert read(tmp_path, b"w1 " * 100_000) == [[["w1"] * 100_000]]
    path = tmp_path / "long"
    path.write_bytes(b"w1\n" + b"w2 " * 3_500_000 + b"\n" + b"a" * 10_000_000 + b"\n\nw3")
    documents = read_documents(path, TOKENIZER)
    assert documents.sentence_starts.tolist() == [0, 1, 3_500_001, 3_500_002, 3_500_003]
    assert documents.document_starts.tolist() == [0, 3, 4]
    assert set(documents.tokens[1:3_500_001]) == {PIECES.index("w2")}
    assert documents.tokens[3_500_001] == PIECES.index("[UNK]")


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \n\x00\n", b"\r\r"])
def test_text_without_words(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="holds no sentence"):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"w1\n\nw2 \x80\n", "line 3: not UTF-8 .invalid start byte at byte 4 of the line"),
        (b"\xff", "line 1: not UTF-8 .invalid start byte at byte 1"),
        (b"w1\xc3\nw2", "line 1: not UTF-8 .invalid continuation byte at byte 3"),
        (b"w1\nw\xe2\x80", "line 2: not UTF-8 .unexpected end of data at byte 2"),
        (b"\xed\xa0\x80", "line 1: not UTF-8"),  # a surrogate
        (b"\xc0\x80", "line 1: not UTF-8"),  # a longer form of NUL
        (b"\xf4\x90\x80\x80", "line 1: not UTF-8"),  # beyond Unicode
    ],
)
def test_text_not_utf8(tmp_path: Path, content: bytes, place: str) -> None:
    with pytest.raises(InputError, match=rf"text\.txt, {place}"):
        read(tmp_path, content)


def test_slices_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = "w1 w2\n\nΣ\nw3 ά\r\n\nw4\n\n\nw5".encode()
    whole = read(tmp_path, content)
    assert len(whole) == 4
    shares: list[float] = []
    for size in (1, 2, 5, 11):
        monkeypatch.setattr(documents_module, "SLICE_BYTES", size)
        assert read(tmp_path, content) == whole
        with pytest.raises(InputError, match="line 9: not UTF-8"):
            read(tmp_path, content + b"\xff")
    (tmp_path / "text.txt").write_bytes(content)
    read_documents(tmp_path / "text.txt", TOKENIZER, shares.append)
    assert shares == sorted(shares) and shares[0] == 0.0 and 0.0 < shares[-1] < 1.0


octets = st.lists(
    st.sampled_from(
        [b"w1", b"w2 ", b"a", b".", b"\n", b"\n\n", b"\r", b" ", b"\x00", b"\x1c", b"\xc2\x85"]
        + [character.encode() for character in "Σ\u2028\u3000\u302e中\ufeff\u200b"]
    ),
    max_size=40,
).map(b"".join)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=octets)
@example(content=b"\x1c\nw1\n\n\xc2\x85\nw2")
def test_same_as_the_oracle(tmp_path: Path, content: bytes) -> None:
    want = oracle.read_documents(content, SLOW)
    if want:
        assert read(tmp_path, content) == want
    else:
        with pytest.raises(InputError, match="holds no sentence"):
            read(tmp_path, content)


def test_arrays_are_what_the_loops_take(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"w1 w2\nw3\n\nw4\n")
    documents = read_documents(path, TOKENIZER)
    assert documents.tokens.dtype == np.int32 and documents.tokens.tolist() == [6, 7, 8, 9]
    assert documents.sentence_starts.dtype == documents.document_starts.dtype == np.int64
    assert documents.sentence_starts.tolist() == [0, 2, 3, 4]
    assert documents.document_starts.tolist() == [0, 2, 3]
