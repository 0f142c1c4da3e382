"""The documents of a text as flat arrays of word pieces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bert.tokenization import LINE_FEED, Tokenizer
from bert.vocabulary import decode_line
from bert.word_pieces import DOCUMENTS, SENTENCES, TOKENS, end_document
from harness.commands import InputError

SLICE_BYTES = 1 << 22


class Documents(NamedTuple):
    """tokens: int32; sentence i: tokens[sentence_starts[i] : sentence_starts[i + 1]], int64;
    document k: sentences document_starts[k] to document_starts[k + 1], int64. None is empty.
    """

    tokens: npt.NDArray[np.int32]
    sentence_starts: npt.NDArray[np.int64]
    document_starts: npt.NDArray[np.int64]


def check_text(content: bytes, place: int, stop: int, path: Path | str) -> None:
    """Check that bytes of a text are UTF-8. Raises InputError naming file, line and byte."""
    try:
        str(memoryview(content)[place:stop], "utf-8")
    except UnicodeDecodeError as error:
        wrong = place + error.start
        number = content.count(LINE_FEED, 0, wrong) + 1
        first = content.rfind(LINE_FEED, 0, wrong) + 1
        end = content.find(LINE_FEED, wrong)
        decode_line(content[first : end + 1 if end >= 0 else len(content)], path, number)
        raise


def read_documents(
    path: Path | str, tokenizer: Tokenizer, report: Callable[[float], None] = lambda share: None
) -> Documents:
    """Read a text: a sentence a line, documents divided by blank lines; empty documents fall away.

    Lines end at LF alone, and every CR is dropped, as by the reference's reader. report is called
    now and then with the share that is done, 0 to 1. Raises InputError naming file and line where
    the text is not UTF-8 or holds no word at all; OSError where it cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read()
    return cut_documents(content.replace(b"\r", b""), path, tokenizer, report)


def cut_documents(
    content: bytes,
    path: Path | str,
    tokenizer: Tokenizer,
    report: Callable[[float], None] = lambda share: None,
) -> Documents:
    """Do what read_documents does with a text that has been read, and has lost its CRs."""
    pages = tokenizer.make_pages(content)
    place = 0
    while place < len(content):
        report(place / len(content))
        stop = content.find(LINE_FEED, place + SLICE_BYTES) + 1 or len(content)
        check_text(content, place, stop, path)
        tokenizer.add_lines(content, place, stop, pages)
        place = stop
    end_document(pages)
    tokens, sentences, documents = (int(pages.counts[i]) for i in (TOKENS, SENTENCES, DOCUMENTS))
    if not documents:
        raise InputError(f"{path} holds no sentence: give a text with a sentence a line")
    return Documents(
        pages.tokens[:tokens],
        np.concatenate([[0], pages.sentence_ends[:sentences]]),
        np.concatenate([[0], pages.document_ends[:documents]]),
    )
