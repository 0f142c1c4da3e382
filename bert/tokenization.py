"""Text to word pieces, as the reference's uncased tokenizer cuts it, bit for bit.

The reference made the data set with Python 3.7, which knew Unicode 11. Characters that came later
are taken here for what they were then, unknown ones, so that every Python makes the same data.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import chain

from bert.vocabulary import UNKNOWN, Vocabulary

MAX_WORD_CHARACTERS = 200
MAX_CACHED_WORDS = 500_000
MAX_CACHED_CHARACTERS = 64

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


class Tokenizer(dict[str, "tuple[int, ...]"]):
    """Cuts lines into numbers of word pieces; itself the cache from a written word to its pieces.

    Source: mlcommons/training bert tokenization.py FullTokenizer (do_lower_case).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.ids = vocabulary.ids
        self.unknown = vocabulary.ids[UNKNOWN]
        self.longest_piece = max(map(len, vocabulary.ids))
        self._cleaning, self._splitting = _Cleaning(), _Splitting()

    def encode(self, line: str) -> list[int]:
        """Return the word pieces of a line of text as numbers."""
        words = CONTROL_SPACES.sub("", line).split()
        return list(chain.from_iterable(map(self.__getitem__, words)))

    def __missing__(self, word: str) -> tuple[int, ...]:
        pieces = tuple(chain.from_iterable(map(self._cut, self._split(word))))
        if len(self) < MAX_CACHED_WORDS and len(word) <= MAX_CACHED_CHARACTERS:
            self[word] = pieces
        return pieces

    def _split(self, word: str) -> list[str]:
        plain = []
        for part in word.translate(self._cleaning).split():
            # Odd stretches are characters that Unicode 11 neither lowered nor decomposed.
            for number, stretch in enumerate(LATER.split(part)):
                even = number % 2 == 0
                plain.append(unicodedata.normalize("NFD", stretch.lower()) if even else stretch)
            plain.append(" ")
        return "".join(plain).translate(self._splitting).split()

    def _cut(self, word: str) -> list[int]:
        """Take the longest piece that begins the rest, again and again; or the unknown one."""
        if len(word) > MAX_WORD_CHARACTERS:
            return [self.unknown]
        found: list[int] = []
        start = 0
        while start < len(word):
            mark = "##" if start else ""
            longest = min(len(word), start + self.longest_piece)
            for end in range(longest, start, -1):
                piece = self.ids.get(mark + word[start:end])
                if piece is not None:
                    found.append(piece)
                    start = end
                    break
            else:
                return [self.unknown]
        return found
