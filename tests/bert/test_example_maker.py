"""Examples against the oracle: its draws are Python's own."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bert import example_maker
from bert.documents import Documents
from bert.example_maker import create_examples
from bert.examples import Examples, ExampleSettings
from perf import bert_oracle as oracle
from tests.bert.sample_vocabulary import SPECIAL, make_vocabulary

PIECES = [*SPECIAL, *(f"w{i}" for i in range(40))]
VOCABULARY = make_vocabulary(PIECES)


def make_documents(seed: int, count: int, longest_sentence: int = 12) -> list[oracle.Document]:
    rng = random.Random(seed)
    return [
        [
            [f"w{rng.randrange(40)}" for _ in range(rng.randint(1, longest_sentence))]
            for _ in range(rng.randint(1, 15))
        ]
        for _ in range(count)
    ]


def flatten(documents: list[oracle.Document], ids: dict[str, int]) -> Documents:
    sentences = [sentence for document in documents for sentence in document]
    return Documents(
        np.array([ids[word] for word in oracle.join(sentences)], np.int32),
        np.array([0, *itertools.accumulate(map(len, sentences))], np.int64),
        np.array([0, *itertools.accumulate(map(len, documents))], np.int64),
    )


def list_rows(examples: Examples) -> list[oracle.Row]:
    """In the written order."""
    rows = []
    size = len(examples.payload[0])
    for number in map(int, examples.order):
        tokens, masked = examples.tokens[number], examples.masked[number]
        block, start = divmod(examples.ends[number] - tokens - 2 * masked, size)
        record = examples.payload[block][start : start + tokens + 2 * masked].tolist()
        rows.append(
            oracle.Row(
                record[:tokens],
                examples.first_segment[number],
                record[tokens : tokens + masked],
                record[tokens + masked :],
                examples.next_sentence_label[number],
            )
        )
    return rows


def compare(text: list[oracle.Document], chosen: ExampleSettings) -> Examples:
    examples = create_examples(flatten(text, VOCABULARY.ids), VOCABULARY, chosen)
    assert list_rows(examples) == oracle.ExampleMaker(text, PIECES, chosen).rows
    return examples


@pytest.mark.parametrize(
    ("documents", "chosen"),
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
def test_same_as_the_oracle(documents: int, chosen: ExampleSettings) -> None:
    compare(make_documents(documents, documents), chosen)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 999), st.integers(1, 12), st.sampled_from([1, 5, 40, 700])),
    length=st.sampled_from([5, 8, 32, 128, 512]),
    predictions=st.sampled_from([1, 5, 20, 76, 600]),
    rest=st.tuples(st.integers(1, 12), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**63 - 1)),
)
def test_same_as_the_oracle_whatever_the_settings(
    shape: tuple[int, int, int], length: int, predictions: int, rest: tuple[Any, ...]
) -> None:
    compare(make_documents(*shape), ExampleSettings(length, predictions, *rest))


@pytest.mark.parametrize(("count", "size"), [(1, 1 << 20), (7, 1 << 20), (512, 1), (7, 100)])
def test_many_small_calls_make_the_same(
    count: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop stops in the middle of documents and goes on, in many small blocks of memory, too.

    A block has room for one of the longest records at least.
    """
    monkeypatch.setattr(example_maker, "EXAMPLES_PER_CALL", count)
    monkeypatch.setattr(example_maker, "NUMBERS_PER_BLOCK", size)
    text, chosen = make_documents(9, 12), ExampleSettings(24, 4, 3)
    shares: list[float] = []
    examples = create_examples(flatten(text, VOCABULARY.ids), VOCABULARY, chosen, shares.append)
    assert list_rows(examples) == oracle.ExampleMaker(text, PIECES, chosen).rows
    assert len(shares) >= (len(examples) // 8 if size < 1 << 20 else len(examples) // count)
    assert (len(examples.payload) > len(examples) // 8) == (size < 1 << 20)
    assert shares[0] == 0.0 and shares == sorted(shares) and shares[-1] <= 1.0


def test_sentences_longer_than_any_sequence() -> None:
    compare(make_documents(3, 4, longest_sentence=5000), ExampleSettings(64, 10, 2))


def test_the_longest_sequences() -> None:
    text = [[["w1", "w2", "w3"] * 9000] * 3, [["w4"] * 40_000]]
    examples = compare(text, ExampleSettings(65_535, 65_535, 1, masked_lm_prob=0.9))
    assert max(examples.tokens) == 65_535


def test_structure() -> None:
    documents = flatten(make_documents(5, 30), VOCABULARY.ids)
    rows = list_rows(create_examples(documents, VOCABULARY, ExampleSettings(64, 8, 10)))
    masks = [row.input_ids[position] for row in rows for position in row.positions]
    for row in rows:
        ids, first = row.input_ids, row.first_segment
        assert len(ids) <= 64 and ids[0] == 2 and ids[first - 1] == 3 and ids[-1] == 3
        assert len(row.positions) == len(row.masked_ids)
        assert len(row.positions) == min(8, max(1, round(0.15 * len(ids))))
        assert row.positions == sorted(set(row.positions))
        assert not {0, first - 1, len(ids) - 1} & set(row.positions)
        assert not {2, 3} & set(row.masked_ids)
    assert 0.4 < sum(row.is_random_next for row in rows) / len(rows) < 0.7
    assert 0.75 < masks.count(4) / len(masks) < 0.86


def test_wide_vocabularies_take_wide_numbers() -> None:
    pieces = [*PIECES, *(f"x{i}" for i in range(70_000))]
    vocabulary = make_vocabulary(pieces)
    text = [[["x69900", "x69901", "x69902"]], [["x69000"] * 4]]
    chosen = ExampleSettings(16, 3, 1)
    examples = create_examples(flatten(text, vocabulary.ids), vocabulary, chosen)
    assert examples.payload[0].dtype == np.uint32
    assert list_rows(examples) == oracle.ExampleMaker(text, pieces, chosen).rows
