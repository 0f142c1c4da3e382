"""The vocabulary: one word piece a line, its number being its line."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from harness.commands import InputError

UNKNOWN, FIRST, SEPARATOR, MASK = "[UNK]", "[CLS]", "[SEP]", "[MASK]"


@dataclass(frozen=True)
class Vocabulary:
    """ids: piece -> number, in file order; md5: hex digest of the file's bytes."""

    ids: dict[str, int] = field(repr=False)
    md5: str

    def __len__(self) -> int:
        return len(self.ids)


def decode_line(line: bytes, path: Path | str, number: int) -> str:
    """Decode line `number` (from 1) of a file as the reference's reader does.

    That reader ends lines at LF alone and drops every CR before it decodes, a lone one too
    (tensorflow core/lib/io/buffered_inputstream.cc, behind tf.io.gfile.GFile.readline).
    Raises InputError naming file, line and byte where it is not UTF-8.
    """
    try:
        return line.replace(b"\r", b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: not UTF-8 ({error.reason} at byte {error.start + 1} of the "
            "line): convert the file to UTF-8"
        ) from None


def read_vocabulary(path: Path | str) -> Vocabulary:
    """Read vocab.txt: stripped lines in order, a line met before adds nothing.

    Raises InputError naming the file where a special piece is missing or a line is not UTF-8;
    OSError where it cannot be read. Source: mlcommons/training bert tokenization.py load_vocab.
    """
    content = Path(path).read_bytes()
    lines = content.split(b"\n")
    if not lines[-1]:
        lines.pop()
    ids: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        ids.setdefault(decode_line(line, path, number).strip(), len(ids))
    for piece in (UNKNOWN, FIRST, SEPARATOR, MASK):
        if piece not in ids:
            raise InputError(f"{path} has no line {piece}: give the vocab.txt of the checkpoint")
    return Vocabulary(ids, hashlib.md5(content, usedforsecurity=False).hexdigest())
