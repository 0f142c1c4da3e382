"""Text to word pieces, as the reference's uncased tokenizer cuts it, bit for bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bert.characters import make_character_table, make_identity_table, split_words
from bert.vocabulary import UNKNOWN, Vocabulary
from bert.word_pieces import TOKENS, Pages, add_lines, make_pages, make_tree

LINE_FEED = b"\n"


class Tokenizer:
    """Cuts lines into numbers of word pieces.

    undecided_lines: how many lines so far held a character that the table leaves to Python.
    Source: mlcommons/training bert tokenization.py FullTokenizer (do_lower_case).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.table, self.identity = make_character_table(), make_identity_table()
        self.tree = make_tree(vocabulary.ids)
        self.unknown = vocabulary.ids[UNKNOWN]
        self.undecided_lines = 0

    def encode(self, text: str) -> list[int]:
        """Return the word pieces of a text as numbers."""
        content = text.encode()
        pages = self.make_pages(content)
        self.add_lines(content, 0, len(content), pages)
        return list(map(int, pages.tokens[: pages.counts[TOKENS]]))

    def make_pages(self, content: bytes) -> Pages:
        """Make empty pages with room for all of a text."""
        lines = content.count(LINE_FEED) + 1
        return make_pages(self.table.growth * len(content), lines + 1)

    def add_lines(self, content: bytes, place: int, stop: int, pages: Pages) -> None:
        """Cut lines into sentences and documents; the last document is left open.

        content: valid UTF-8; place and stop: where a line begins, or the end; pages: from
        make_pages for this content.
        """
        octets = np.frombuffer(content, np.uint8)
        while True:
            place = int(add_lines(octets, place, stop, self.table, self.tree, self.unknown, pages))
            if place == stop:
                return
            end = content.find(LINE_FEED, place, stop)
            end = stop if end < 0 else end
            self._add_in_python(content[place:end].decode(), pages)
            place = min(end + 1, stop)

    def _add_in_python(self, line: str, pages: Pages) -> None:
        self.undecided_lines += 1
        words: npt.NDArray[np.uint8]
        words = np.frombuffer(" ".join(split_words(line)).encode(), np.uint8)
        add_lines(words, 0, len(words), self.identity, self.tree, self.unknown, pages)
