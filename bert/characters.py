"""Characters as the reference's uncased tokenizer takes them: a table, and words cut in Python.

The reference made the data set with Python 3.7, which knew Unicode 11. Characters that came later
are taken here for what they were then, unknown ones, so that every Python makes the same data.

What becomes of a character does not depend on its neighbours, with two exceptions: the last sigma
of a word, and marks that are kept and that Unicode puts in an order. Lines that hold such
characters are rare, and `split_words` takes them; all others need the table alone.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Dropped as control characters, but str.split would cut at them.
CONTROL_SPACES = re.compile("[\x0b\x0c\x1c-\x1f\x85]")

# Characters assigned from Unicode 12 to 15.1 whose class, lower case or decomposition matters here.
LATER_RANGES = """
061D 0888 0890-0891 0898-089F 08C9-08D2 0B55 0C3C 0C77 0D81 0EBA 0ECE 1715 180F 1ABF-1ACE
1B7D-1B7E 1DFA 2C2F 2C5F 2E4F 2E52-2E5D A7BA-A7CA A7D0-A7D1 A7D3 A7D5-A7D9 A7F2-A7F6 A82C
AB66-AB6B FBC2 10570-1057A 1057C-1058A 1058C-10592 10594-10595 10597-105A1 105A3-105B1 105B3-105B9
105BB-105BC 10780-10785 10787-107B0 107B2-107BA 10EAB-10EAD 10EFD-10EFF 10F82-10F89 11070
11073-11074 110C2 111CF 11241 1145A 116B9 11938 1193B-1193E 11943-11946 119D4-119D7 119DA-119DB
119E0 119E2 11B00-11B09 11F00-11F01 11F36-11F3A 11F40-11F4F 11FFF 12FF1-12FF2 13430-13440
13447-13455 16F4F 16FE2-16FE4 16FF0-16FF1 1AFF0-1AFF3 1AFF5-1AFFB 1AFFD-1AFFE 1CF00-1CF2D
1CF30-1CF46 1DF00-1DF09 1DF0B-1DF1E 1DF25-1DF2A 1E030-1E06D 1E08F 1E130-1E13D 1E2AE 1E2EC-1E2EF
1E4EB-1E4EF 1E94B
"""
LATER_CLASS = re.sub("[0-9A-F]+", lambda code: chr(int(code[0], 16)), LATER_RANGES)
LATER = re.compile(f"([{LATER_CLASS.replace(' ', '').replace(chr(10), '')}]+)")
# Classes that a later Unicode changed: punctuation now a symbol, marks that now do or do not space.
CATEGORIES_OF_UNICODE_11 = {"\u166d": "Po", "\u1734": "Mn", "\ua9bd": "Mc"}

CJK_RANGES = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def find_category(character: str) -> str:
    """Return the general category that Unicode 11 gave a character; Cn where it had none."""
    if LATER.match(character):
        return "Cn"
    return CATEGORIES_OF_UNICODE_11.get(character) or unicodedata.category(character)


class _Cleaning(dict[int, "str | None"]):
    """A table for str.translate, filled as characters are met: before lower-casing."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = find_category(character)
        self[code] = character
        if character in "\t\n\r" or category == "Zs":
            self[code] = " "
        elif code in (0, 0xFFFD) or category in ("Cc", "Cf"):
            self[code] = None
        elif any(low <= code <= high for low, high in CJK_RANGES):
            self[code] = f" {character} "
        return self[code]


class _Splitting(dict[int, "str | None"]):
    """A table for str.translate, filled as characters are met: after decomposition."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        category = find_category(character)
        self[code] = character
        if character in ASCII_PUNCTUATION or category.startswith("P"):
            self[code] = f" {character} "
        elif category == "Mn":
            self[code] = None
        return self[code]


CLEANING, SPLITTING = _Cleaning(), _Splitting()


def decompose(part: str) -> str:
    """Lower and decompose (NFD) as Unicode 11 did."""
    plain = []
    for number, stretch in enumerate(LATER.split(part)):
        # Odd stretches are characters that Unicode 11 neither lowered nor decomposed.
        even = number % 2 == 0
        plain.append(unicodedata.normalize("NFD", stretch.lower()) if even else stretch)
    return "".join(plain)


def split_words(line: str) -> list[str]:
    """Cut a line of any characters into words: lower-cased, without accents, punctuation apart.

    Source: mlcommons/training bert tokenization.py BasicTokenizer.
    """
    cleaned = CONTROL_SPACES.sub("", line).translate(CLEANING)
    words = " ".join(map(decompose, cleaned.split()))
    return words.translate(SPLITTING).split()


# What the table says of a character: the character that it becomes (0 to 0x10FFFF), or that one
# with OWN_WORD set, where it is a word of its own; EXPANSION and a place in `expansions`; or one of
# those below 0.
OWN_WORD, EXPANSION = 1 << 21, 1 << 22
CODE = OWN_WORD - 1
DROPPED = -1  # nothing is left of it
DROPPED_BLANK = -2  # the same, but a line of nothing else is blank
SPACE = -3
UNDECIDED = -4  # its neighbours decide: the line is for split_words


class CharacterTable(NamedTuple):
    """plan: (0x110000,) int32, see above; expansions: int32, a count and so many entries of plan.

    growth: no text becomes more characters than growth times its bytes in UTF-8.
    """

    plan: npt.NDArray[np.int32]
    expansions: npt.NDArray[np.int32]
    growth: int


def needs_neighbours(character: str) -> bool:
    """Say whether what becomes of a character hangs on the characters around it."""
    if LATER.match(character):
        return False
    return character == "\u03a3" or any(
        unicodedata.combining(part) and find_category(part) != "Mn" for part in decompose(character)
    )


def plan_character(character: str, expansions: list[int]) -> int:
    """Return a character's entry of the table; a longer one is appended to `expansions`."""
    if character in "\t\n\r" or CLEANING[ord(character)] == " ":
        return SPACE
    if character.isspace():
        return DROPPED_BLANK if find_category(character) == "Cc" else SPACE
    if needs_neighbours(character):
        return UNDECIDED
    written = decompose(character.translate(CLEANING)).translate(SPLITTING)
    entries = [SPACE if part == " " else ord(part) for part in written]
    if not entries:
        return DROPPED
    if len(entries) == 1:
        return entries[0]
    if len(entries) == 3 and entries[0] == entries[2] == SPACE:
        return entries[1] | OWN_WORD
    expansions += [len(entries), *entries]
    return EXPANSION | (len(expansions) - len(entries) - 1)


def is_itself(character: str, category: str) -> bool:
    """Say of a character outside the CJK ranges, quickly, that it surely is kept as it is."""
    if category in ("Cn", "Co", "Cs"):
        return True
    return (
        category[0] in "LNS"
        and character.lower() == character
        and unicodedata.is_normalized("NFD", character)
        and character not in ASCII_PUNCTUATION
        and character not in CATEGORIES_OF_UNICODE_11
        and character != "\ufffd"
    )


@functools.cache
def make_character_table() -> CharacterTable:
    """Make the table of all characters, once a process (about a quarter of a second)."""
    plan = np.arange(0x110000, dtype=np.int32)
    expansions: list[int] = []
    growth = 1
    for low, high in CJK_RANGES:
        plan[low : high + 1] |= OWN_WORD
    for character in map(chr, range(0x110000)):
        category = unicodedata.category(character)
        if category == "Lo" and plan[ord(character)] & OWN_WORD:
            if unicodedata.is_normalized("NFD", character):
                continue
        elif is_itself(character, category):
            continue
        entry = plan_character(character, expansions)
        plan[ord(character)] = entry
        if entry >= EXPANSION or entry == UNDECIDED:
            parts = len(decompose(character))
            growth = max(growth, -(-parts // len(character.encode())))
    return CharacterTable(plan, np.array(expansions, np.int32), growth)


def make_identity_table() -> CharacterTable:
    """Make the table for words that are cut already: blanks divide, all else is kept."""
    plan = np.arange(0x110000, dtype=np.int32)
    plan[ord(" ")] = SPACE
    return CharacterTable(plan, np.zeros(0, np.int32), 1)
