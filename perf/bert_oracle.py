"""BERT's data preparation once more: slow, plain Python, written from the specification alone.

It takes nothing from the package it judges, works on texts and lists, and draws with Python's own
`random`. Tests compare the compiled loops with it; `perf/bert_data.py` measures them against it.
"""

from __future__ import annotations

import random
import struct
import unicodedata
from dataclasses import dataclass
from typing import Any

CJK = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F)]
CJK += [(0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
ASCII_PUNCTUATION = [(33, 47), (58, 64), (91, 96), (123, 126)]
# Categories that changed after Unicode 11.
CATEGORIES = {"\u166d": "Po", "\u1734": "Mn", "\ua9bd": "Mc"}

Sentence = list[str]
Document = list[Sentence]


@dataclass(frozen=True)
class Row:
    """One example; the first segment ends before `first_segment`."""

    input_ids: list[int]
    first_segment: int
    positions: list[int]
    masked_ids: list[int]
    is_random_next: int


def is_in(code: int, ranges: list[tuple[int, int]]) -> bool:
    return any(low <= code <= high for low, high in ranges)


class Tokenizer:
    """later: the characters that were assigned after Unicode 11 and would show it."""

    def __init__(self, pieces: list[str], later: frozenset[str]) -> None:
        self.pieces, self.later = set(pieces), later

    def category(self, character: str) -> str:
        if character in self.later:
            return "Cn"
        return CATEGORIES.get(character) or unicodedata.category(character)

    def clean(self, line: str) -> str:
        cleaned = []
        for character in line:
            code, category = ord(character), self.category(character)
            if character in "\t\n\r":
                cleaned.append(" ")
            elif code in (0, 0xFFFD) or category in ("Cc", "Cf"):
                continue
            elif category == "Zs":
                cleaned.append(" ")
            elif code >= 0x3400 and is_in(code, CJK):
                cleaned.append(f" {character} ")
            else:
                cleaned.append(character)
        return "".join(cleaned)

    def lower(self, word: str) -> str:
        """Lower-case and decompose, with stand-ins that have no properties for later characters."""
        spare = (chr(code) for code in range(0xF0000, 0x110000) if chr(code) not in word)
        stand_ins = {character: next(spare) for character in sorted(self.later.intersection(word))}
        for character, stand_in in stand_ins.items():
            word = word.replace(character, stand_in)
        word = unicodedata.normalize("NFD", word.lower())
        for character, stand_in in stand_ins.items():
            word = word.replace(stand_in, character)
        return word

    def split(self, line: str) -> list[str]:
        """The words of a line, punctuation apart."""
        words = []
        for word in self.clean(line).split():
            parts = [""]
            for character in self.lower(word):
                category = self.category(character)
                if is_in(ord(character), ASCII_PUNCTUATION) or category[0] == "P":
                    parts += [character, ""]
                elif category != "Mn":
                    parts[-1] += character
            words += parts
        return " ".join(words).split()

    def cut(self, word: str) -> list[str]:
        """The word pieces of a word."""
        pieces = []
        start = 0
        while start < len(word) <= 200:
            for end in range(len(word), start, -1):
                piece = ("##" if start else "") + word[start:end]
                if piece in self.pieces:
                    break
            else:
                return ["[UNK]"]
            pieces.append(piece)
            start = end
        return pieces or ["[UNK]"]

    def tokenize(self, line: str) -> list[str]:
        return [piece for word in self.split(line) for piece in self.cut(word)]


def read_documents(content: bytes, tokenizer: Tokenizer) -> list[Document]:
    documents: list[Document] = [[]]
    for line in content.split(b"\n"):
        text = line.replace(b"\r", b"").decode().strip()
        if not text:
            documents.append([])
        elif tokens := tokenizer.tokenize(text):
            documents[-1].append(tokens)
    return [document for document in documents if document]


def join(sentences: list[Sentence]) -> list[str]:
    return [word for sentence in sentences for word in sentence]


class ExampleMaker:
    """Makes `rows` of documents; settings: anything with attributes as the command has options."""

    def __init__(self, documents: list[Document], pieces: list[str], settings: Any) -> None:
        self.rng = random.Random(settings.seed)
        self.pieces, self.settings = pieces, settings
        self.ids = {piece: number for number, piece in enumerate(pieces)}
        self.documents = list(documents)
        self.rng.shuffle(self.documents)
        self.rows: list[Row] = []
        for _ in range(settings.dupe_factor):
            for document in self.documents:
                self.add(document)
        self.rng.shuffle(self.rows)

    def add(self, document: Document) -> None:
        limit = self.settings.max_seq_length - 3
        short = self.rng.random() < self.settings.short_seq_prob
        target = self.rng.randint(2, limit) if short else limit
        i = 0
        chunk: list[Sentence] = []
        length = 0
        while i < len(document):
            chunk.append(document[i])
            length += len(document[i])
            i += 1
            if i < len(document) and length < target:
                continue
            cut = self.rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
            a = join(chunk[:cut])
            is_random = len(chunk) == 1 or self.rng.random() < 0.5
            if is_random:
                b = self.draw_second(document, target - len(a))
                i -= len(chunk) - cut
            else:
                b = join(chunk[cut:])
            self.emit(a, b, int(is_random))
            chunk, length = [], 0

    def draw_second(self, document: Document, wanted: int) -> list[str]:
        for _ in range(10):
            other = self.documents[self.rng.randint(0, len(self.documents) - 1)]
            if other is not document:
                break
        b: list[str] = []
        for sentence in other[self.rng.randint(0, len(other) - 1) :]:
            b.extend(sentence)
            if len(b) >= wanted:
                break
        return b

    def emit(self, a: list[str], b: list[str], is_random_next: int) -> None:
        while len(a) + len(b) > self.settings.max_seq_length - 3:
            longer = a if len(a) > len(b) else b
            if self.rng.random() < 0.5:
                del longer[0]
            else:
                longer.pop()
        words = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
        places = [i for i, word in enumerate(words) if word not in ("[CLS]", "[SEP]")]
        self.rng.shuffle(places)
        count = max(1, round(len(words) * self.settings.masked_lm_prob))
        chosen = places[: min(self.settings.max_predictions_per_seq, count)]
        shown = list(words)
        for place in chosen:
            if self.rng.random() < 0.8:
                shown[place] = "[MASK]"
            elif self.rng.random() >= 0.5:
                shown[place] = self.pieces[self.rng.randint(0, len(self.pieces) - 1)]
        chosen.sort()
        truth = [self.ids[words[place]] for place in chosen]
        shown_ids = [self.ids[word] for word in shown]
        self.rows.append(Row(shown_ids, len(a) + 2, chosen, truth, is_random_next))


def encode_rows(rows: list[Row], wide: bool) -> tuple[bytes, bytes]:
    """The index and the records of a shard, as the file's format says."""
    index, records = [], []
    start = 0
    for row in rows:
        numbers = [*row.input_ids, *row.positions, *row.masked_ids]
        sizes = (len(row.input_ids), row.first_segment, len(row.positions))
        index.append(struct.pack("<QHHHBB", start, *sizes, row.is_random_next, 0))
        records.append(struct.pack(f"<{len(numbers)}{'I' if wide else 'H'}", *numbers))
        start += len(numbers)
    return b"".join(index), b"".join(records)
