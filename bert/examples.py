"""Pre-training examples from text: sentence pairs with masked words, draw for draw the reference's.

Every example hangs on one sequence of draws from Python's Mersenne Twister, so the order of the
draws below is part of the format. One text is one sequence, seeded anew.
Source: mlcommons/training bert cleanup_scripts/create_pretraining_data.py.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bert.tokenization import Tokenizer
from bert.vocabulary import FIRST, MASK, SEPARATOR, Vocabulary, decode_line
from harness.commands import InputError

SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]
SHORTEST_SEQUENCE, LONGEST_SEQUENCE = 5, 65_535
OTHER_DOCUMENT_TRIES = 10
DOCUMENTS_PER_REPORT = 64

Document = list[list[int]]  # sentences of word pieces


@dataclass(frozen=True)
class ExampleSettings:
    """What the examples of a text depend on beside the text and the vocabulary.

    The defaults are those of the closed division. Raises InputError naming the setting.
    """

    max_seq_length: int = 512
    max_predictions_per_seq: int = 76
    dupe_factor: int = 10
    masked_lm_prob: float = 0.15
    short_seq_prob: float = 0.1
    seed: int = 12345

    def __post_init__(self) -> None:
        limits = {
            "max_seq_length": (SHORTEST_SEQUENCE, LONGEST_SEQUENCE),
            "max_predictions_per_seq": (1, LONGEST_SEQUENCE),
            "dupe_factor": (1, 1_000_000),
            "masked_lm_prob": (0.0, 1.0),
            "short_seq_prob": (0.0, 1.0),
            "seed": (0, 2**63 - 1),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"{name} must be from {low} to {high}, not {value}")


@dataclass
class Examples:
    """The examples of one text, one after the other, un-padded.

    payload: for each example its input ids, masked positions and masked ids; ends: where in the
    payload each example ends; the other arrays hold one number for each example.
    """

    payload: array[int]
    ends: array[int] = field(default_factory=lambda: array("Q"))
    tokens: array[int] = field(default_factory=lambda: array("H"))
    first_segment: array[int] = field(default_factory=lambda: array("H"))
    masked: array[int] = field(default_factory=lambda: array("H"))
    next_sentence_label: array[int] = field(default_factory=lambda: array("B"))
    order: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ends)


def shuffle(items: list[Any], getrandbits: Callable[[int], int]) -> None:
    """Shuffle in place as random.Random.shuffle does, without a call for each draw."""
    top = len(items) - 1
    while top > 0:
        # All i from low to top take the same number of bits.
        bits = (top + 1).bit_length()
        low = (1 << (bits - 1)) - 1
        for i in range(top, low - 1, -1):
            j = getrandbits(bits)
            while j > i:
                j = getrandbits(bits)
            items[i], items[j] = items[j], items[i]
        top = low - 1


def read_documents(path: Path | str, tokenizer: Tokenizer) -> list[Document]:
    """Read a text: a sentence a line, documents divided by blank lines; empty documents fall away.

    Raises InputError naming file and line where the text is not UTF-8 or holds no word at all;
    OSError where it cannot be read.
    """
    documents: list[Document] = [[]]
    with open(path, "rb") as file:
        for number, content in enumerate(file, 1):
            line = decode_line(content, path, number).strip()
            if not line:
                documents.append([])
                continue
            tokens = tokenizer.encode(line)
            if tokens:
                documents[-1].append(tokens)
    documents = [document for document in documents if document]
    if not documents:
        raise InputError(f"{path} holds no sentence: give a text with a sentence a line")
    return documents


def create_examples(
    documents: list[Document],
    vocabulary: Vocabulary,
    settings: ExampleSettings,
    report: Callable[[float], None] = lambda share: None,
) -> Examples:
    """Make all examples of one text; `documents` is shuffled in place.

    report is called now and then with the share of the work that is done, 0 to 1.
    """
    maker = _Maker(documents, vocabulary, settings)
    shuffle(documents, maker.getrandbits)
    total = settings.dupe_factor * len(documents)
    for done in range(total):
        if done % DOCUMENTS_PER_REPORT == 0:
            report(done / total)
        maker.add_document(done % len(documents))
    examples = maker.examples
    examples.order = list(range(len(examples)))
    shuffle(examples.order, maker.getrandbits)
    return examples


class _Maker:
    """The generator of one text, its documents, and the examples made so far."""

    def __init__(
        self, documents: list[Document], vocabulary: Vocabulary, settings: ExampleSettings
    ) -> None:
        generator = random.Random(settings.seed)
        self.random, self.getrandbits = generator.random, generator.getrandbits
        self.documents = documents
        self.settings = settings
        self.longest_pair = settings.max_seq_length - SPECIAL_TOKENS
        self.vocabulary_size = len(vocabulary)
        self.first, self.separator = vocabulary.ids[FIRST], vocabulary.ids[SEPARATOR]
        self.mask = vocabulary.ids[MASK]
        self.examples = Examples(array("H" if len(vocabulary) <= 1 << 16 else "I"))

    def draw_from(self, low: int, high: int) -> int:
        """Draw a whole number from low to high, both included, as random.Random.randint does."""
        count = high - low + 1
        bits = count.bit_length()
        drawn = self.getrandbits(bits)
        while drawn >= count:
            drawn = self.getrandbits(bits)
        return low + drawn

    def add_document(self, number: int) -> None:
        """Cut a document into chunks of about the wanted length, and make a pair of each."""
        document = self.documents[number]
        wanted = self.longest_pair
        if self.random() < self.settings.short_seq_prob:
            wanted = self.draw_from(2, self.longest_pair)
        start = length = i = 0
        while i < len(document):
            length += len(document[i])
            i += 1
            if i == len(document) or length >= wanted:
                # The sentences that a random second half displaces are cut again.
                i -= self._add_chunk(number, document[start:i], wanted)
                start, length = i, 0

    def _add_chunk(self, number: int, chunk: Document, wanted: int) -> int:
        """Make the pair of one chunk; returns how many of its sentences went unused."""
        cut = self.draw_from(1, len(chunk) - 1) if len(chunk) > 1 else 1
        first = [token for sentence in chunk[:cut] for token in sentence]
        is_random = len(chunk) == 1 or self.random() < 0.5
        if is_random:
            second = self._draw_second(number, wanted - len(first))
        else:
            second = [token for sentence in chunk[cut:] for token in sentence]
        first, second = self._truncate(first, second)
        tokens = [self.first, *first, self.separator, *second, self.separator]
        self._emit(tokens, len(first) + 2, int(is_random))
        return len(chunk) - cut if is_random else 0

    def _draw_second(self, number: int, wanted: int) -> list[int]:
        """Take sentences from a drawn place of another document until `wanted` tokens are there.

        The last document tried is taken even if it is the same one, as in the reference.
        """
        drawn = number
        for _ in range(OTHER_DOCUMENT_TRIES):
            drawn = self.draw_from(0, len(self.documents) - 1)
            if drawn != number:
                break
        document = self.documents[drawn]
        second: list[int] = []
        for place in range(self.draw_from(0, len(document) - 1), len(document)):
            second += document[place]
            if len(second) >= wanted:
                break
        return second

    def _truncate(self, first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
        """Take tokens from the longer half, at a drawn end, until the pair fits."""
        draw, limit = self.random, self.longest_pair
        first_start, first_end, second_start, second_end = 0, len(first), 0, len(second)
        first_length, second_length = first_end, second_end
        while first_length + second_length > limit:
            front = draw() < 0.5
            if first_length > second_length:
                first_length -= 1
                first_start += front
                first_end -= not front
            else:
                second_length -= 1
                second_start += front
                second_end -= not front
        return first[first_start:first_end], second[second_start:second_end]

    def _emit(self, tokens: list[int], first_segment: int, label: int) -> None:
        """Mask words of a finished pair and add the example."""
        length = len(tokens)
        candidates = [*range(1, first_segment - 1), *range(first_segment, length - 1)]
        shuffle(candidates, self.getrandbits)
        limit = self.settings.max_predictions_per_seq
        masked = min(limit, max(1, round(length * self.settings.masked_lm_prob)))
        positions = candidates[:masked]
        draw = self.random
        replaced = []
        for position in positions:
            if draw() < 0.8:
                replaced.append(self.mask)
            elif draw() < 0.5:
                replaced.append(tokens[position])
            else:
                replaced.append(self.draw_from(0, self.vocabulary_size - 1))
        ids = [tokens[position] for position in sorted(positions)]
        for position, token in zip(positions, replaced, strict=True):
            tokens[position] = token
        examples = self.examples
        examples.payload.extend(tokens)
        examples.payload.extend(sorted(positions))
        examples.payload.extend(ids)
        examples.ends.append(len(examples.payload))
        examples.tokens.append(length)
        examples.first_segment.append(first_segment)
        examples.masked.append(len(positions))
        examples.next_sentence_label.append(label)
