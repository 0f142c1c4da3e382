"""The demonstration's text and vocabulary: English-like, seeded, learnable but not at once.

One sentence a line, a blank line between documents, as in the Wikipedia parts; each document is
about one trade whose four words belong together. The text goes through the same preparation.
"""

from __future__ import annotations

import random
import string
from pathlib import Path

from demo.topics import DETERMINERS, PREPOSITIONS, SENTENCE, TOPICS
from harness.files import write_atomically

SLOTS = ("agent", "verb", "object", "place")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SENTENCES_A_DOCUMENT = (4, 14)


def make_text(file: Path, seed: int, documents: int) -> None:
    """Write a text of `documents` documents, the same for the same seed."""
    generator = random.Random(seed)
    with write_atomically(file) as text:
        for _ in range(documents):
            topic = dict(zip(SLOTS, generator.choice(TOPICS), strict=True))
            for _ in range(generator.randint(*SENTENCES_A_DOCUMENT)):
                text.write(make_sentence(generator, topic) + "\n")
            text.write("\n")


def make_sentence(generator: random.Random, topic: dict[str, str]) -> str:
    """Make one sentence about a topic."""
    determiner = generator.choice(DETERMINERS).capitalize()
    preposition = generator.choice(PREPOSITIONS)
    return SENTENCE.format(determiner=determiner, preposition=preposition, **topic)


def make_vocabulary(file: Path) -> int:
    """Write the WordPiece vocabulary, one token a line; returns its size.

    Special tokens, the full stop, every letter as a word and as a continuation, so that any word
    can be written, and the words of the text.
    """
    words = {*DETERMINERS, *PREPOSITIONS}
    for topic in TOPICS:
        words.update(topic)
    pieces = [f"##{letter}" for letter in string.ascii_lowercase]
    tokens = [*SPECIAL_TOKENS, ".", *string.ascii_lowercase, *pieces, *sorted(words)]
    with write_atomically(file) as vocabulary:
        vocabulary.write("".join(f"{token}\n" for token in tokens))
    return len(tokens)
