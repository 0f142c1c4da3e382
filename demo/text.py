"""The demonstration's text and vocabulary: English-like, seeded, learnable but not at once.

One sentence a line, a blank line between documents, as in the Wikipedia parts; each document is
about one trade whose six words belong together. The text goes through the same preparation.
"""

from __future__ import annotations

import random
import string
from pathlib import Path

from demo.topics import DAYS, MOODS, NAMES, SEASONS, SENTENCES, TOPICS
from harness.files import write_atomically

SLOTS = ("agent", "verb", "object", "place", "tool", "quality")
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Left out of the vocabulary, so that the text has words of several pieces too.
IN_PIECES = frozenset({"astronomer", "stethoscope", "observatory", "blackboard", "wednesday"})


def make_text(file: Path, seed: int, documents: int) -> None:
    """Write a text of `documents` documents, the same for the same seed."""
    generator = random.Random(seed)
    with write_atomically(file) as text:
        for _ in range(documents):
            topic = dict(zip(SLOTS, generator.choice(TOPICS), strict=True))
            for _ in range(generator.randint(4, 14)):
                text.write(make_sentence(generator, topic) + "\n")
            text.write("\n")


def make_sentence(generator: random.Random, topic: dict[str, str]) -> str:
    """Make one sentence about a topic."""
    drawn = {
        "name": generator.choice(NAMES).capitalize(),
        "day": generator.choice(DAYS).capitalize(),
        "mood": generator.choice(MOODS),
        "season": generator.choice(SEASONS),
    }
    return generator.choice(SENTENCES).format(**topic, **drawn)


def make_vocabulary(file: Path) -> int:
    """Write the WordPiece vocabulary, one token a line; returns its size.

    Special tokens, every letter alone and as a continuation, and the words of the text, so that
    no word is unknown.
    """
    words: set[str] = {*NAMES, *DAYS, *MOODS, *SEASONS}
    for topic in TOPICS:
        words.update(topic)
    for sentence in SENTENCES:
        plain = sentence.replace(",", " ").replace(".", " ").lower()
        words.update(word for word in plain.split() if "{" not in word)
    pieces = [f"##{letter}" for letter in string.ascii_lowercase]
    tokens = [*SPECIAL_TOKENS, ",", ".", *string.ascii_lowercase, *pieces, "board", "##board"]
    tokens += sorted(words - IN_PIECES - set(string.ascii_lowercase))
    with write_atomically(file) as vocabulary:
        vocabulary.write("".join(f"{token}\n" for token in tokens))
    return len(tokens)
