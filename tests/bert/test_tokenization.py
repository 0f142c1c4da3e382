"""The tokenizer against the reference's rules, character by character and case by case."""

from __future__ import annotations

import hashlib
from itertools import chain

import pytest

from bert.tokenization import CONTROL_SPACES, MAX_CACHED_CHARACTERS, Tokenizer
from bert.vocabulary import Vocabulary

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]", "un", "##aff", "##able", "##a"]
PIECES += [
    "cafe",
    "caf",
    "##e",
    "foobar",
    "foo",
    "bar",
    "[",
    "]",
    "mask",
    ".",
    "#",
    "##s",
    "中",
    "国",
]
PIECES += ["a", "b", "σ", "##ς", "##σ", "ο", "x" * 200, "x" * 201, "`", ";", "-", "«", "»"]
# MD5 over "<code> <words of a<character>b>\n" of all these characters, made by the unmodified
# BasicTokenizer of the reference with Python 3.7.16 (Unicode 11).
CHARACTERS = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)]
REFERENCE_MD5 = "44a0d65e90873dcf3fe7786d08de2e32"


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer(Vocabulary({piece: i for i, piece in enumerate(PIECES)}, ""))


def encode(tokenizer: Tokenizer, text: str) -> list[str]:
    return [PIECES[number] for number in tokenizer.encode(text)]


def test_every_character_is_treated_as_by_the_reference(tokenizer: Tokenizer) -> None:
    digest = hashlib.md5()
    for code in CHARACTERS:
        if code not in (10, 13):
            words = CONTROL_SPACES.sub("", f"a{chr(code)}b").split()
            parts = chain.from_iterable(map(tokenizer._split, words))
            digest.update(f"{code:x} {' '.join(parts)}\n".encode())
    assert digest.hexdigest() == REFERENCE_MD5


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("", []),
        (" \t\u3000\u2028 ", []),
        ("unaffable", ["un", "##aff", "##able"]),
        ("unaffably", ["[UNK]"]),  # one failure makes the whole word unknown
        ("Caf\u00e9 CAFE\u0301", ["cafe", "cafe"]),
        ("foo\x00bar foo\u200bbar foo\ufffdbar", ["foobar"] * 3),
        ("foo\x0bbar foo\x1cbar foo\x85bar", ["foobar"] * 3),  # controls, not spaces
        ("foo\u2028bar\u2029foo\u00a0bar\tfoo", ["foo", "bar", "foo", "bar", "foo"]),
        ("[MASK]", ["[", "mask", "]"]),
        ("[unused1]", ["[", "[UNK]", "]"]),
        ("##s", ["#", "#", "[UNK]"]),
        ("中国a", ["中", "国", "a"]),
        ("«foo».bar--", ["«", "foo", "»", ".", "bar", "-", "-"]),
        ("ΟΣ ΟΣ. ΟΣa", ["ο", "##ς", "ο", "##ς", ".", "ο", "##σ", "##a"]),  # final sigma
        ("\u1fef\u037e", ["`", ";"]),  # punctuation by decomposition alone
        ("x" * 200, ["x" * 200]),
        ("x" * 201, ["[UNK]"]),
        ("X" * 201 + "." + "x" * 200, ["[UNK]", ".", "x" * 200]),
    ],
)
def test_cases(tokenizer: Tokenizer, text: str, pieces: list[str]) -> None:
    assert encode(tokenizer, text) == pieces
    assert encode(tokenizer, text) == pieces  # from the cache


def test_characters_later_than_unicode_11_are_plain(tokenizer: Tokenizer) -> None:
    assert encode(tokenizer, "foo\u2e52bar") == ["[UNK]"]  # punctuation since 14
    assert encode(tokenizer, "foo\u0898") == ["[UNK]"]  # a mark since 14, not deleted here
    assert tokenizer._split("A\ua7ba\u00c9") == ["a\ua7bae"]  # upper case since 12


def test_long_words_do_not_fill_the_cache(tokenizer: Tokenizer) -> None:
    tokenizer.encode("foo " + "y" * MAX_CACHED_CHARACTERS + " " + "z" * (MAX_CACHED_CHARACTERS + 1))
    assert sorted(map(len, tokenizer)) == [3, MAX_CACHED_CHARACTERS]
