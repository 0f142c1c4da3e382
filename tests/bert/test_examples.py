"""Examples from text against an independent, slow generator, and against Python's own draws."""

from __future__ import annotations

import random
from array import array
from pathlib import Path
from typing import Any

import pytest

from bert.examples import (
    Examples,
    ExampleSettings,
    create_examples,
    read_documents,
    shuffle,
)
from bert.tokenization import Tokenizer
from bert.vocabulary import Vocabulary
from harness.commands import InputError

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(40))]
VOCABULARY = Vocabulary({piece: i for i, piece in enumerate(PIECES)}, "")


def join(sentences: list[list[str]]) -> list[str]:
    return [word for sentence in sentences for word in sentence]


class Oracle:
    """The algorithm once more, in lists of words and Python's own randint and shuffle."""

    def __init__(self, documents: list[list[list[str]]], settings: ExampleSettings) -> None:
        self.rng = random.Random(settings.seed)
        self.settings = settings
        self.documents = list(documents)
        self.rng.shuffle(self.documents)
        self.rows: list[list[Any]] = []
        for _ in range(settings.dupe_factor):
            for document in self.documents:
                self.add(document)
        self.rng.shuffle(self.rows)

    def add(self, document: list[list[str]]) -> None:
        limit = self.settings.max_seq_length - 3
        short = self.rng.random() < self.settings.short_seq_prob
        target = self.rng.randint(2, limit) if short else limit
        todo = list(document)
        while todo:
            chunk = [todo.pop(0)]
            while todo and sum(map(len, chunk)) < target:
                chunk.append(todo.pop(0))
            cut = self.rng.randint(1, len(chunk) - 1) if len(chunk) > 1 else 1
            a, rest = join(chunk[:cut]), chunk[cut:]
            if len(chunk) > 1 and self.rng.random() >= 0.5:
                self.emit(a, join(rest), 0)
                continue
            tries = []
            while len(tries) < 10 and (not tries or tries[-1] is document):
                tries.append(self.documents[self.rng.randint(0, len(self.documents) - 1)])
            other = tries[-1]
            b: list[str] = []
            for sentence in other[self.rng.randint(0, len(other) - 1) :]:
                b = b + sentence
                if len(b) >= target - len(a):
                    break
            todo = rest + todo
            self.emit(a, b, 1)

    def emit(self, a: list[str], b: list[str], label: int) -> None:
        a, b = list(a), list(b)
        while len(a) + len(b) > self.settings.max_seq_length - 3:
            longer = a if len(a) > len(b) else b
            longer.pop(0 if self.rng.random() < 0.5 else -1)
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
                shown[place] = PIECES[self.rng.randint(0, len(PIECES) - 1)]
        chosen.sort()
        truth = [PIECES.index(words[place]) for place in chosen]
        shown_ids = [PIECES.index(word) for word in shown]
        self.rows.append([shown_ids, len(a) + 2, chosen, truth, label])


def list_rows(examples: Examples) -> list[list[Any]]:
    """In the written order: input ids, first segment's length, masked positions and ids, label."""
    rows = []
    for number in examples.order:
        start = examples.ends[number - 1] if number else 0
        record = examples.payload[start : examples.ends[number]].tolist()
        tokens, masked = examples.tokens[number], examples.masked[number]
        rows.append(
            [
                record[:tokens],
                examples.first_segment[number],
                record[tokens : tokens + masked],
                record[tokens + masked :],
                examples.next_sentence_label[number],
            ]
        )
    return rows


def make_documents(seed: int, count: int) -> list[list[list[str]]]:
    rng = random.Random(seed)
    return [
        [
            [f"w{rng.randrange(40)}" for _ in range(rng.randint(1, 12))]
            for _ in range(rng.randint(1, 15))
        ]
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("documents", "settings"),
    [
        (20, ExampleSettings(32, 5, 3)),
        (20, ExampleSettings(128, 20, 10)),
        (20, ExampleSettings(512, 76, 2, seed=1)),
        (30, ExampleSettings(16, 40, 2, masked_lm_prob=1.0, short_seq_prob=1.0)),
        (30, ExampleSettings(5, 1, 2, masked_lm_prob=0.0, short_seq_prob=0.5, seed=0)),
        (1, ExampleSettings(32, 5, 4)),  # the other document is the same one
        (2, ExampleSettings(32, 5, 4)),
    ],
)
def test_same_as_the_slow_generator(documents: int, settings: ExampleSettings) -> None:
    text = make_documents(documents, documents)
    as_ids = [[[VOCABULARY.ids[w] for w in sentence] for sentence in doc] for doc in text]
    shares: list[float] = []
    examples = create_examples(as_ids, VOCABULARY, settings, shares.append)
    assert list_rows(examples) == Oracle(text, settings).rows
    assert shares[0] == 0.0 and shares == sorted(shares) and shares[-1] < 1.0


def test_structure() -> None:
    text = make_documents(5, 30)
    as_ids = [[[VOCABULARY.ids[w] for w in sentence] for sentence in doc] for doc in text]
    rows = list_rows(create_examples(as_ids, VOCABULARY, ExampleSettings(64, 8, 10)))
    labels = [row[4] for row in rows]
    masks = [ids[p] for ids, _, positions, _, _ in rows for p in positions]
    for ids, first, positions, truth, _ in rows:
        assert len(ids) <= 64 and ids[0] == 2 and ids[first - 1] == 3 and ids[-1] == 3
        assert len(positions) == len(truth) == min(8, max(1, round(0.15 * len(ids))))
        assert positions == sorted(set(positions))
        assert not {0, first - 1, len(ids) - 1} & set(positions)
        assert not {2, 3} & set(truth)
    assert 0.4 < sum(labels) / len(labels) < 0.7
    assert 0.75 < masks.count(4) / len(masks) < 0.86


def test_wide_vocabularies_take_wide_numbers() -> None:
    ids = {piece: i for i, piece in enumerate(PIECES)}
    ids.update({f"x{i}": len(PIECES) + i for i in range(70_000)})
    documents = [[[70_000, 70_001, 70_002]], [[69_000] * 4]]
    examples = create_examples(documents, Vocabulary(ids, ""), ExampleSettings(16, 3, 1))
    assert isinstance(examples.payload, array) and examples.payload.itemsize == 4
    assert max(examples.payload) >= 70_000


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 7, 8, 9, 255, 256, 257, 1000])
def test_shuffle_is_pythons(count: int) -> None:
    ours, theirs = random.Random(count), random.Random(count)
    a, b = list(range(count)), list(range(count))
    shuffle(a, ours.getrandbits)
    theirs.shuffle(b)
    assert a == b and ours.random() == theirs.random()


def test_generator_is_the_one_of_the_format() -> None:
    # MT19937 seeded by init_by_array([12345]): fixed whatever Python does one day.
    rng = random.Random(12345)
    assert [rng.getrandbits(32) for _ in range(3)] == [1789368711, 3146859322, 43676229]


def read(folder: Path, content: bytes) -> list[list[list[str]]]:
    path = folder / "text.txt"
    path.write_bytes(content)
    documents = read_documents(path, Tokenizer(VOCABULARY))
    return [[[PIECES[i] for i in sentence] for sentence in doc] for doc in documents]


def test_documents(tmp_path: Path) -> None:
    assert read(tmp_path, b"w1 w2\nw3\n\n\n \t\nw4") == [[["w1", "w2"], ["w3"]], [["w4"]]]
    assert read(tmp_path, b"w1\r\nw2\r\n\r\nw3\r\n") == [[["w1"], ["w2"]], [["w3"]]]
    # A lone CR ends no line and divides no word; U+2028 divides words alone.
    assert read(tmp_path, b"w\r1\xe2\x80\xa8w2\r") == [[["w1", "w2"]]]
    # A line of characters that all fall away neither is a sentence nor divides documents.
    assert read(tmp_path, b"w1\n\x00\xe2\x80\x8b\nw2\n") == [[["w1"], ["w2"]]]
    # A line of control characters that Python strips is blank.
    assert read(tmp_path, b"w1\n\x1c\x0b\nw2\n") == [[["w1"]], [["w2"]]]
    assert read(tmp_path, b"\xef\xbb\xbfw1\n") == [[["w1"]]]
    assert read(tmp_path, b"w1 " * 100_000) == [[["w1"] * 100_000]]


@pytest.mark.parametrize("content", [b"", b"\n\n", b" \n\x00\n"])
def test_text_without_words(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match="holds no sentence"):
        read(tmp_path, content)


def test_text_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"text.txt, line 3: not UTF-8 .* at byte 4 of the line"):
        read(tmp_path, b"w1\n\nw2 \x80\n")
