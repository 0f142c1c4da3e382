"""The loop that makes examples, compiled: pairs of sentences with masked words, draw for draw the
reference's.

Every example hangs on one sequence of draws from Python's Mersenne Twister, so the order of the
draws below is part of the format.
Source: mlcommons/training bert cleanup_scripts/create_pretraining_data.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bert.compilation import compiled, count_trailing_zeros, inlined
from bert.twister import (
    END,
    POSITION,
    count_bits,
    draw_from,
    draw_half,
    draw_unit,
    read_unit,
    reserve,
    shuffle_front,
)

OTHER_DOCUMENT_TRIES = 10
MASK_PROBABILITY, KEEP_PROBABILITY = 0.8, 0.5
# `random() < p` in whole numbers: of 53 bits, and of the first 32 where they decide.
MASK_BELOW, KEEP_BELOW = np.uint64(MASK_PROBABILITY * 2**53), np.uint64(KEEP_PROBABILITY * 2**32)
# Signed and unsigned numbers together would become floats.
ZERO, ONE, TWO, FOUR, FIVE = (np.uint64(number) for number in (0, 1, 2, 4, 5))
SIX, LAST_BIT, LAST_OF_FIVE = np.uint64(6), np.uint64(63), np.uint64(END - 5)


class Rules(NamedTuple):
    """longest_pair: tokens of both halves; masked_by_length: how many positions a sequence of each
    length masks, int64; the rest are probabilities and numbers of special pieces.
    """

    longest_pair: int
    masked_by_length: npt.NDArray[np.int64]
    short_probability: float
    repetitions: int
    vocabulary_size: int
    first: int
    separator: int
    mask: int


class Shelf(NamedTuple):
    """Where examples are put: the columns of `bert.examples.Examples`, with room at their ends, the
    last array of its payload, and how many numbers the arrays before have.
    """

    payload: npt.NDArray[Any]
    before: int
    ends: npt.NDArray[np.uint64]
    tokens: npt.NDArray[np.uint16]
    first_segment: npt.NDArray[np.uint16]
    masked: npt.NDArray[np.uint16]
    next_sentence_label: npt.NDArray[np.uint8]


class Scratch(NamedTuple):
    """Of the longest sequence's length: positions in drawn order uint16, the original token at each
    position uint32, and one bit for each, set where it is masked, uint64.
    """

    candidates: npt.NDArray[np.uint16]
    originals: npt.NDArray[np.uint32]
    bits: npt.NDArray[np.uint64]


# Where the loop stands, one array (5,) int64: documents done, the next sentence (-1: the document
# is not begun), the wanted length, examples made, where in the payload the next one begins.
DOCUMENTS_DONE, NEXT_SENTENCE, WANTED, EXAMPLES, PAYLOAD = 0, 1, 2, 3, 4


@inlined
def find_second(generator: Any, document: Any, wanted: Any, sentences: Any, starts: Any,
                order: Any) -> Any:  # fmt: skip
    """Draw sentences from a drawn place of another document until `wanted` tokens are there.

    The last document tried is taken even if it is the same one, as in the reference. Returns where
    they begin and end, in tokens.
    """
    drawn = document
    for _ in range(OTHER_DOCUMENT_TRIES):
        drawn = draw_from(generator, 0, order.size - 1)
        if drawn != document:
            break
    first, end = starts[order[drawn]], starts[order[drawn] + 1]
    sentence = draw_from(generator, first, end - 1)
    start = sentences[sentence]
    sentence += 1
    while sentence < end and sentences[sentence] - start < wanted:
        sentence += 1
    return start, sentences[sentence]


@inlined
def truncate(generator: Any, first: Any, first_end: Any, second: Any, second_end: Any,
             longest: Any) -> Any:  # fmt: skip
    """Take tokens from the longer half, at a drawn end, until the pair fits; returns its bounds."""
    excess = first_end - first + second_end - second - longest
    while excess > 0:
        front = draw_half(generator)
        if first_end - first > second_end - second:
            first += front
            first_end -= not front
        else:
            second += front
            second_end -= not front
        excess -= 1
    return first, first_end, second, second_end


@inlined
def copy_tokens(target: Any, source: Any) -> None:
    """Copy as many tokens as the target has. Indices from 0 are what the compiler vectorises."""
    for i in range(target.size):
        target[i] = source[i]


@inlined
def mask_tokens(generator: Any, sequence: Any, drawn: Any, separator: Any, originals: Any,
                bits: Any, rules: Any) -> Any:  # fmt: skip
    """Mask the words at the drawn positions, in their order.

    drawn: uint16, counted without the special tokens, of which one stands before the first and one
    more before those from `separator` on. The originals and the bits say afterwards what stood
    where.
    """
    mask, size = rules.mask, np.uint64(rules.vocabulary_size)
    shift = np.uint64(32 - count_bits(rules.vocabulary_size))
    place = np.uint64(generator[POSITION])
    for i in range(drawn.size):
        position = np.uint64(drawn[i]) + ONE
        position += np.uint64(position >= separator)
        originals[position] = sequence[position]
        bits[position >> SIX] |= ONE << (position & LAST_BIT)
        if place > LAST_OF_FIVE:
            place = reserve(generator, place, FIVE)
        if read_unit(generator, place) < MASK_BELOW:
            sequence[position] = mask
            place += TWO
        elif generator[place + TWO] < KEEP_BELOW:
            place += FOUR
        else:
            place += FOUR
            word = np.uint64(generator[place]) >> shift
            place += ONE
            while word >= size:
                place = reserve(generator, place, ONE)
                word = np.uint64(generator[place]) >> shift
                place += ONE
            sequence[position] = word
    generator[POSITION] = place


@inlined
def write_masked(positions: Any, truth: Any, originals: Any, bits: Any) -> None:
    """Write the positions whose bit is set and their originals in rising order; clear the bits.

    Both arrays are as long as there are bits.
    """
    place = np.uint64(0)
    word = bits[place]
    bits[place] = ZERO
    for i in range(positions.size):
        while word == ZERO:
            place += ONE
            word = bits[place]
            bits[place] = ZERO
        position = (place << SIX) + count_trailing_zeros(word)
        word &= word - ONE
        positions[i] = position
        truth[i] = originals[position]


@inlined
def write_pair(generator: Any, tokens: Any, bounds: Any, record: Any, rules: Any,
               scratch: Any) -> Any:  # fmt: skip
    """Write one example to a record. Returns its length, its first segment's, and its masks.

    bounds: of both halves in tokens; together they fit. The record has room for the longest.
    """
    first, first_end, second, second_end = bounds
    segment = first_end - first + 2
    length = segment + second_end - second + 1
    record[0] = rules.first
    copy_tokens(record[1 : segment - 1], tokens[first:first_end])
    record[segment - 1] = rules.separator
    copy_tokens(record[segment : length - 1], tokens[second:second_end])
    record[length - 1] = rules.separator
    candidates = scratch.candidates[: length - 3]
    for i in range(candidates.size):
        candidates[i] = i
    masked = min(rules.masked_by_length[length], length - 3)
    shuffle_front(generator, candidates, masked)
    originals, bits = scratch.originals, scratch.bits
    drawn = candidates[:masked]
    mask_tokens(generator, record, drawn, np.uint64(segment - 1), originals, bits, rules)
    end = length + masked
    write_masked(record[length:end], record[end : end + masked], originals, bits)
    return length, segment, masked


@inlined
def cut_chunk(generator: Any, document: Any, start: Any, end: Any, wanted: Any, longest: Any,
              sentences: Any, starts: Any, order: Any) -> Any:  # fmt: skip
    """Make a pair of the sentences from start to end.

    Returns its bounds in tokens, its label, and the sentence that the next chunk begins with:
    those that a random second half displaces are cut again.
    """
    cut = start + 1
    if end - start > 1:
        cut = start + draw_from(generator, 1, end - start - 1)
    first, first_end = sentences[start], sentences[cut]
    second, second_end = first_end, sentences[end]
    is_random = end - start == 1 or draw_half(generator)
    if is_random:
        room = wanted - (first_end - first)
        second, second_end = find_second(generator, document, room, sentences, starts, order)
        end = cut
    bounds = truncate(generator, first, first_end, second, second_end, longest)
    return bounds, is_random, end


@compiled
def make_examples(generator: Any, documents: Any, order: Any, rules: Any, shelf: Any,
                  scratch: Any, places: Any) -> None:  # fmt: skip
    """Make examples until all are made or the shelf has no room for one more.

    documents: bert.documents.Documents, none of them empty; order: (documents,) int64; places:
    where the loop stands, changed in place, so that a second call goes on.
    """
    tokens, sentences, starts = documents
    longest = rules.longest_pair
    longest_record = 3 * (longest + 3)
    payload, before, made = shelf.payload, shelf.before, places[EXAMPLES]
    used = places[PAYLOAD] - before
    while places[DOCUMENTS_DONE] < rules.repetitions * order.size:
        document = places[DOCUMENTS_DONE] % order.size
        sentence, document_end = places[NEXT_SENTENCE], starts[order[document] + 1]
        if sentence < 0:
            sentence = starts[order[document]]
            places[WANTED] = longest
            if draw_unit(generator) < rules.short_probability:
                places[WANTED] = draw_from(generator, 2, longest)
        wanted = places[WANTED]
        while sentence < document_end:
            if made == shelf.ends.size or payload.size - used < longest_record:
                places[NEXT_SENTENCE], places[EXAMPLES] = sentence, made
                places[PAYLOAD] = before + used
                return
            end = sentence + 1
            while end < document_end and sentences[end] - sentences[sentence] < wanted:
                end += 1
            bounds, label, sentence = cut_chunk(
                generator, document, sentence, end, wanted, longest, sentences, starts, order
            )
            length, segment, masked = write_pair(
                generator, tokens, bounds, payload[used:], rules, scratch
            )
            used += length + 2 * masked
            shelf.ends[made] = before + used
            shelf.tokens[made] = length
            shelf.first_segment[made] = segment
            shelf.masked[made] = masked
            shelf.next_sentence_label[made] = label
            made += 1
        places[DOCUMENTS_DONE] += 1
        places[NEXT_SENTENCE] = -1
    places[EXAMPLES], places[PAYLOAD] = made, before + used
