"""Pre-training examples from the documents of one text: one sequence of draws, seeded anew."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

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
# A call of the compiled loop takes some thousandths of a second, then progress is told.
EXAMPLES_PER_CALL = 512
# Memory for records is taken in blocks that the system gives in large pages: fetching them in small
# ones took a fifth of the time. What of a block is not written to costs nothing.
NUMBERS_PER_BLOCK = 1 << 24


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


def make_room(examples: Examples, places: npt.NDArray[np.int64], longest: int) -> Shelf:
    """Make room for the examples of one call, a new block where the last one has none for one more.

    longest: numbers of a record at most.
    """
    made = int(places[EXAMPLES])
    columns = []
    for column in list_columns(examples):
        missing = made + EXAMPLES_PER_CALL - len(column)
        column.frombytes(bytes(missing * column.itemsize))
        columns.append(np.frombuffer(column, column.typecode))
    blocks = examples.payload
    size, kind = len(blocks[0]), blocks[0].dtype
    if size * len(blocks) - places[PAYLOAD] < longest:
        places[PAYLOAD] = size * len(blocks)
        blocks.append(np.empty(size, kind))
    return Shelf(blocks[-1], size * (len(blocks) - 1), *columns)


def trim(examples: Examples, made: int) -> None:
    """Cut off the room that was not needed."""
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
        np.empty(longest, np.uint16),
        np.empty(longest, np.uint32),
        np.zeros(longest // 64 + 1, np.uint64),
    )
    size = max(NUMBERS_PER_BLOCK, 3 * longest)
    kind = np.uint16 if len(vocabulary) <= 1 << 16 else np.uint32
    examples = Examples([np.empty(size, kind)])
    places = np.zeros(5, np.int64)
    places[NEXT_SENTENCE] = -1
    total = settings.dupe_factor * len(order)
    while places[DOCUMENTS_DONE] < total:
        report(float(places[DOCUMENTS_DONE]) / total)
        shelf = make_room(examples, places, 3 * longest)
        make_examples(generator, documents, order, rules, shelf, scratch, places)
        del shelf  # an array that is looked at cannot grow
    trim(examples, int(places[EXAMPLES]))
    written = np.arange(len(examples))
    shuffle(generator, written)
    examples.order = written  # type: ignore[assignment]
    return examples
