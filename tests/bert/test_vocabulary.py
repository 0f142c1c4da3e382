"""Reading the vocabulary: order, repeated lines, what is refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bert.vocabulary import decode_line, read_vocabulary
from harness.commands import InputError

SPECIAL = b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"


def test_numbers_are_lines_without_repetitions(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    content = SPECIAL + b"the\r\n cat \nthe\n\ndog"
    path.write_bytes(content)
    vocabulary = read_vocabulary(path)
    assert list(vocabulary.ids)[5:] == ["the", "cat", "", "dog"]
    assert list(vocabulary.ids.values()) == list(range(len(vocabulary)))
    assert vocabulary.md5 == hashlib.md5(content).hexdigest()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no line [UNK]"),
        (SPECIAL.replace(b"[MASK]", b"mask"), "has no line [MASK]"),
        (SPECIAL + b"caf\xe9\n", "line 6: not UTF-8"),
    ],
)
def test_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_vocabulary(path)
    assert reason in str(caught.value) and str(path) in str(caught.value)


def test_every_carriage_return_is_dropped_before_decoding() -> None:
    assert decode_line(b"a\rb\r\r\n", "file", 1) == "ab\n"
    assert decode_line(b"caf\xc3\r\xa9", "file", 1) == "caf\u00e9"
