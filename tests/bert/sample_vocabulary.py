"""What tests of tokens and examples share: small vocabularies, and the oracle's view of them."""

from __future__ import annotations

from bert.characters import LATER_CLASS
from bert.vocabulary import Vocabulary
from perf import bert_oracle as oracle

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def list_later() -> frozenset[str]:
    """The characters of the ranges that the product takes as later than Unicode 11."""
    later: set[str] = set()
    for item in LATER_CLASS.split():
        low, _, high = item.partition("-")
        later.update(map(chr, range(ord(low), ord(high or low) + 1)))
    return frozenset(later)


LATER = list_later()


def make_vocabulary(pieces: list[str]) -> Vocabulary:
    """The vocabulary of a file with these lines."""
    return Vocabulary({piece: number for number, piece in enumerate(pieces)}, "")


def make_oracle(pieces: list[str]) -> oracle.Tokenizer:
    """The oracle's tokenizer for the same lines."""
    return oracle.Tokenizer(pieces, LATER)
