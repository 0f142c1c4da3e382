"""Pre-training examples from the documents of one text: one sequence of draws, seeded anew."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import numpy as np

from bert.documents import Documents
from bert.example_loops import (
    DOCUMENTS_DONE,
    EXAMPLES,
    NEXT_SENTENCE,
    PAYLOAD,
    Rules,
    Scratch,
    Shelf,
    make_examples,
)
from bert.examples import Examples, ExampleSettings
from bert.twister import seed_generator, shuffle
from bert.vocabulary import FIRST, MASK, SEPARATOR, Vocabulary

SPECIAL_TOKENS = 3  # [CLS] A [SEP] B [SEP]
# A call of the compiled loop takes some thousandths of a second, then progress is told. Room for
# more examples at a time would cost more memory, and time to fill it with zeros.
EXAMPLES_PER_CALL = 512
NUMBERS_PER_CALL = 1 << 22
ZEROS = memoryview(bytes(1 << 22))


def make_rules(vocabulary: Vocabulary, settings: ExampleSettings) -> Rules:
    """Say what the compiled loop needs of settings and vocabulary."""
    masked = [
        min(settings.max_predictions_per_seq, max(1, round(length * settings.masked_lm_prob)))
        for length in range(settings.max_seq_length + 1)
    ]
    return Rules(
        longest_pair=settings.max_seq_length - SPECIAL_TOKENS,
        masked_by_length=np.array(masked, np.int64),
        short_probability=float(settings.short_seq_prob),
        repetitions=settings.dupe_factor,
        vocabulary_size=len(vocabulary),
        first=vocabulary.ids[FIRST],
        separator=vocabulary.ids[SEPARATOR],
        mask=vocabulary.ids[MASK],
    )


def list_columns(examples: Examples) -> list[array[int]]:
    """Return the arrays that hold one number for each example, in the order of a Shelf."""
    return [
        examples.ends,
        examples.tokens,
        examples.first_segment,
        examples.masked,
        examples.next_sentence_label,
    ]


def grow(numbers: array[int], length: int) -> None:
    """Append zeros up to a length at least: a quarter more, so that what is there moves rarely."""
    if length > len(numbers):
        missing = max(length - len(numbers), len(numbers) // 4) * numbers.itemsize
        while missing > 0:
            numbers.frombytes(ZEROS[:missing])
            missing -= len(ZEROS)


def make_room(examples: Examples, made: int, used: int, longest: int) -> Shelf:
    """Make room behind `made` examples and `used` numbers for those of one call."""
    count = max(1, min(EXAMPLES_PER_CALL, NUMBERS_PER_CALL // longest))
    grow(examples.payload, used + count * longest)
    views = [np.frombuffer(examples.payload, examples.payload.typecode)]
    for column in list_columns(examples):
        grow(column, made + count)
        views.append(np.frombuffer(column, column.typecode)[: made + count])
    return Shelf(*views)


def trim(examples: Examples, made: int, used: int) -> None:
    """Cut off the room that was not needed."""
    del examples.payload[used:]
    for column in list_columns(examples):
        del column[made:]


def create_examples(
    documents: Documents,
    vocabulary: Vocabulary,
    settings: ExampleSettings,
    report: Callable[[float], None] = lambda share: None,
) -> Examples:
    """Make all examples of one text.

    report is called now and then with the share of the work that is done, 0 to 1.
    """
    generator = seed_generator(settings.seed)
    rules = make_rules(vocabulary, settings)
    order = np.arange(len(documents.document_starts) - 1)
    shuffle(generator, order)
    longest = settings.max_seq_length
    scratch = Scratch(
        np.empty(longest, np.uint16), np.empty(longest, np.int32), np.zeros(longest, np.uint8)
    )
    examples = Examples(array("H" if len(vocabulary) <= 1 << 16 else "I"))
    places = np.zeros(5, np.int64)
    places[NEXT_SENTENCE] = -1
    total = settings.dupe_factor * len(order)
    while places[DOCUMENTS_DONE] < total:
        report(float(places[DOCUMENTS_DONE]) / total)
        shelf = make_room(examples, int(places[EXAMPLES]), int(places[PAYLOAD]), 3 * longest)
        make_examples(generator, documents, order, rules, shelf, scratch, places)
        del shelf  # an array that is looked at cannot grow
    trim(examples, int(places[EXAMPLES]), int(places[PAYLOAD]))
    written = np.arange(len(examples))
    shuffle(generator, written)
    examples.order = written  # type: ignore[assignment]
    return examples
