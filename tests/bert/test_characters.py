"""Every character against the reference's rules, in Python, in the oracle and in the table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pytest

from bert.characters import (
    DROPPED,
    DROPPED_BLANK,
    EXPANSION,
    OWN_WORD,
    SPACE,
    UNDECIDED,
    make_character_table,
    split_words,
)
from tests.bert.sample_vocabulary import LATER, SPECIAL, make_oracle

# MD5 over "<code> <words of a<character>b>\n" of all these characters, made by the unmodified
# BasicTokenizer of the reference with Python 3.7.16 (Unicode 11).
CHARACTERS = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)]
REFERENCE_MD5 = "44a0d65e90873dcf3fe7786d08de2e32"


@pytest.mark.parametrize("split", [split_words, make_oracle(SPECIAL).split], ids=["ours", "oracle"])
def test_every_character_is_treated_as_by_the_reference(split: Callable[[str], list[str]]) -> None:
    digest = hashlib.md5()
    for code in CHARACTERS:
        if code not in (10, 13):
            digest.update(f"{code:x} {' '.join(split(f'a{chr(code)}b'))}\n".encode())
    assert digest.hexdigest() == REFERENCE_MD5


def test_the_table_says_what_becomes_of_a_character() -> None:
    table = make_character_table()
    plan = table.plan
    assert plan.shape == (0x110000,)
    for character, entry in {
        "a": ord("a"),
        "A": ord("a"),
        "\u00c9": ord("e"),
        "\u0301": DROPPED,
        "\ufffd": DROPPED,
        "\x00": DROPPED,
        "\x1c": DROPPED_BLANK,
        "\x85": DROPPED_BLANK,
        "\t": SPACE,
        "\u00a0": SPACE,
        "\u2028": SPACE,
        "\u3000": SPACE,
        ".": ord(".") | OWN_WORD,
        "$": ord("$") | OWN_WORD,
        "\u20ac": 0x20AC,  # a currency sign is no punctuation outside ASCII
        "\u037e": ord(";") | OWN_WORD,
        "\u4e2d": 0x4E2D | OWN_WORD,
        "\uf900": 0x8C48 | OWN_WORD,  # written otherwise, and still a word of its own
        "\u03a3": UNDECIDED,
        "\u03c3": 0x3C3,
        "\u302e": UNDECIDED,
        "\u2e52": 0x2E52,  # punctuation since Unicode 13
    }.items():
        assert plan[ord(character)] == entry, hex(ord(character))
    at = plan[0xAC01] - EXPANSION  # three parts of a Hangul syllable
    assert table.expansions[at : at + 4].tolist() == [3, 0x1100, 0x1161, 0x11A8]
    assert table.growth == 1
    assert np.count_nonzero(plan == UNDECIDED) < 50


def test_context_decides_what_the_table_leaves_open() -> None:
    assert split_words("\u039f\u03a3 \u039f\u03a3. \u039f\u03a3a") == [
        "\u03bf\u03c2", "\u03bf\u03c2", ".", "\u03bf\u03c3a",
    ]  # fmt: skip
    # Two kept marks (combining classes 224 and 9) are put in order, whatever is deleted between.
    assert split_words("a\u302e\u0301\u1b44") == ["a\u1b44\u302e"]


def test_characters_later_than_unicode_11_are_plain() -> None:
    assert split_words("A\ua7ba\u00c9") == ["a\ua7bae"]  # upper case since 12
    assert split_words("a\u2e52b\u0898") == ["a\u2e52b\u0898"]
    assert len(LATER) == 548 and "\u2e52" in LATER
