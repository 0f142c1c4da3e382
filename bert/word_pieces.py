"""Text to numbers of word pieces, compiled: from bytes of UTF-8 to sentences and documents.

One loop reads a byte, looks its character up, gathers a word and cuts it by the vocabulary, which
is a tree of characters in one hash table: an entry's place in the table is its node's number, and
its key names the parent and the character.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bert.characters import (
    CODE,
    DROPPED_BLANK,
    EXPANSION,
    OWN_WORD,
    SPACE,
    UNDECIDED,
)
from bert.compilation import compiled

MAX_WORD_CHARACTERS = 200
CODE_BITS = 21
# 2**64 divided by the golden ratio, as a signed number: spreads keys that lie close together.
SPREAD = -7046029254386353131
EMPTY = -1
LINE_FEED = 10
# Places in the counts of `Pages`.
TOKENS, SENTENCES, DOCUMENTS = 0, 1, 2


class PieceTree(NamedTuple):
    """The vocabulary: keys (2**n,) int64; pieces (2**n,) int32, the number of the piece, or -1.

    The root of pieces that begin a word is node 2**n, that of the others, written ##, 2**n + 1.
    """

    keys: npt.NDArray[np.int64]
    pieces: npt.NDArray[np.int32]


class Pages(NamedTuple):
    """What a text becomes: tokens int32, where sentences (in tokens) and documents (in sentences)
    end, int64, and how far each of these is filled, `counts` (3,) int64; `word` is scratch.
    """

    tokens: npt.NDArray[np.int32]
    sentence_ends: npt.NDArray[np.int64]
    document_ends: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    word: npt.NDArray[np.int32]


def make_pages(tokens: int, lines: int) -> Pages:
    """Make empty pages with room for so many tokens and lines; untouched room takes no memory."""
    return Pages(
        np.empty(tokens, np.int32),
        np.empty(lines, np.int64),
        np.empty(lines, np.int64),
        np.zeros(3, np.int64),
        np.empty(MAX_WORD_CHARACTERS, np.int32),
    )


def make_tree(ids: dict[str, int]) -> PieceTree:
    """Make the tree of a vocabulary: piece -> number."""
    # A piece that begins with ## is also taken as it stands, as the reference does.
    within = {piece[2:]: number for piece, number in ids.items() if piece.startswith("##")}
    text = "".join([*ids, *within]).encode("utf-32-le", "surrogatepass")
    lengths = np.array([*map(len, ids), *map(len, within)], np.int64)
    numbers = np.array([*ids.values(), *within.values()], np.int32)
    capacity = 1 << (2 * len(text) // 4 + 2).bit_length()
    tree = PieceTree(np.full(capacity, EMPTY, np.int64), np.full(capacity, -1, np.int32))
    fill_tree(tree, np.frombuffer(text, np.int32), lengths, numbers, len(ids))
    return tree


@compiled
def find_place(keys: Any, node: Any, character: Any) -> Any:
    """Return the place of a node's child, or the empty one where it would stand."""
    key = node << CODE_BITS | character
    last = keys.size - 1
    place = ((key * SPREAD) >> 32) & last
    while keys[place] != key and keys[place] != EMPTY:
        place = (place + 1) & last
    return place


@compiled
def fill_tree(tree: Any, characters: Any, lengths: Any, numbers: Any, first: Any) -> None:
    """Enter pieces, which lie one after the other in `characters`; the `first` ones begin a word.

    At most half of the table is ever filled. No two pieces of a root are equal.
    """
    start = 0
    for i in range(lengths.size):
        node = np.int64(tree.keys.size + (i >= first))
        for j in range(start, start + lengths[i]):
            character = np.int64(characters[j])
            place = find_place(tree.keys, node, character)
            tree.keys[place] = node << CODE_BITS | character
            node = place
        if lengths[i] > 0:
            tree.pieces[node] = numbers[i]
        start += lengths[i]


@compiled
def end_word(word: Any, length: Any, keys: Any, pieces: Any, unknown: Any, tokens: Any,
             count: Any) -> Any:  # fmt: skip
    """Cut a word of `length` characters: the longest piece that begins the rest, again and again.

    A word that cannot be cut, or is too long, is one unknown piece. Returns the count of tokens
    with those of the word; there is room for one for each character.
    """
    if length > MAX_WORD_CHARACTERS:
        tokens[count] = unknown
        return count + 1
    first, start = count, 0
    while start < length:
        node = keys.size + (start > 0)
        found, end = -1, start
        for i in range(start, length):
            node = find_place(keys, node, np.int64(word[i]))
            if keys[node] == EMPTY:
                break
            if pieces[node] >= 0:
                found, end = np.int64(pieces[node]), i + 1
        if found < 0:
            tokens[first] = unknown
            return first + 1
        tokens[count] = found
        count += 1
        start = end
    return count


@compiled
def add_entry(entry: Any, word: Any, length: Any, keys: Any, pieces: Any, unknown: Any,
              tokens: Any, count: Any) -> Any:  # fmt: skip
    """Take one entry of the table of characters that is neither below SPACE nor an expansion.

    Returns the length of the word gathered so far and the count of tokens.
    """
    if entry >= 0 and entry < OWN_WORD:
        if length < MAX_WORD_CHARACTERS:
            word[length] = entry
        return length + 1, count
    count = end_word(word, length, keys, pieces, unknown, tokens, count)
    if entry != SPACE:
        word[0] = entry & CODE
        count = end_word(word, 1, keys, pieces, unknown, tokens, count)
    return 0, count


@compiled
def decode_character(content: Any, place: Any) -> Any:
    """Return the character at a place of valid UTF-8, at most three bytes before its end, and its
    bytes."""
    first = np.int64(content[place])
    if first < 0x80:
        return first, 1
    second = np.int64(content[place + 1]) & 0x3F
    if first < 0xE0:
        return (first & 0x1F) << 6 | second, 2
    third = np.int64(content[place + 2]) & 0x3F
    if first < 0xF0:
        return (first & 0x0F) << 12 | second << 6 | third, 3
    return (first & 7) << 18 | second << 12 | third << 6 | np.int64(content[place + 3]) & 0x3F, 4


@compiled
def add_line(content: Any, place: Any, stop: Any, plan: Any, expansions: Any, word: Any,
             keys: Any, pieces: Any, unknown: Any, tokens: Any, count: Any) -> Any:  # fmt: skip
    """Cut one line into tokens.

    Returns where it ends, the count of tokens, whether it is blank, and whether the table decides
    it; where it does not, nothing else of the answer means anything.
    """
    blank = True
    length = 0
    while place < stop:
        code, size = decode_character(content, place)
        if code == LINE_FEED:
            break
        place += size
        entry = np.int64(plan[code])
        if entry >= 0 and entry < OWN_WORD:  # as add_entry does, without the cost of the call
            blank = False
            if length < MAX_WORD_CHARACTERS:
                word[length] = entry
            length += 1
        elif entry == SPACE or (entry >= 0 and entry < EXPANSION):
            blank = blank and entry == SPACE
            length, count = add_entry(entry, word, length, keys, pieces, unknown, tokens, count)
        elif entry >= EXPANSION:
            blank = False
            at = entry - EXPANSION
            for i in range(at + 1, at + 1 + expansions[at]):
                length, count = add_entry(
                    np.int64(expansions[i]), word, length, keys, pieces, unknown, tokens, count
                )
        elif entry == UNDECIDED:
            return place, count, False, False
        else:
            blank = blank and entry == DROPPED_BLANK
    count = end_word(word, length, keys, pieces, unknown, tokens, count)
    return place, count, blank, True


@compiled
def add_lines(content: Any, place: Any, stop: Any, table: Any, tree: Any, unknown: Any,
              pages: Any) -> Any:  # fmt: skip
    """Cut lines into sentences and documents. Returns where it stopped: at `stop`, or at the
    beginning of a line that the table does not decide.

    content: (bytes,) uint8, valid UTF-8; place and stop: from the beginning of a line to that of
    another or to the end. The pages have room for as many tokens as there are characters, growth
    included, and for a line more than there are.
    """
    # Fetched once: the loops below take bare arrays, which cost no counting of references.
    plan, expansions, keys, pieces = table.plan, table.expansions, tree.keys, tree.pieces
    tokens, counts, word = pages.tokens, pages.counts, pages.word
    while place < stop:
        end, count, blank, decided = add_line(
            content, place, stop, plan, expansions, word, keys, pieces, unknown, tokens,
            counts[TOKENS],
        )  # fmt: skip
        if not decided:
            return place
        place = end + 1
        if blank:
            end_document(pages)
        elif count > counts[TOKENS]:
            pages.sentence_ends[counts[SENTENCES]] = count
            counts[SENTENCES] += 1
            counts[TOKENS] = count
    return stop


@compiled
def end_document(pages: Any) -> None:
    """End the document that the last sentences belong to; one without sentences falls away."""
    documents, sentences = pages.counts[DOCUMENTS], pages.counts[SENTENCES]
    before = pages.document_ends[documents - 1] if documents else 0
    if sentences > before:
        pages.document_ends[documents] = sentences
        pages.counts[DOCUMENTS] = documents + 1
