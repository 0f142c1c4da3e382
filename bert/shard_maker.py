"""One text to one shard. Imports compiled loops, so that only who makes data imports it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bert.compilation import CACHE_FOLDER, PACKAGE
from bert.documents import cut_documents, read_documents
from bert.example_maker import create_examples
from bert.examples import Examples, ExampleSettings
from bert.shard_file import hash_content, order_examples, read_description, write_shard
from bert.tokenization import Tokenizer
from bert.vocabulary import Vocabulary
from harness.commands import InputError

READ_BYTES = 1 << 20
# Share of a text's work that lies before the first example: reading and cutting into word pieces.
READING_SHARE = 0.2


def describe_origin(
    text: Path, vocabulary: Vocabulary, settings: ExampleSettings
) -> dict[str, Any]:
    """Say of a shard what it is made of; two equal answers mean two equal shards."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with open(text, "rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            size += len(block)
    return {
        "settings": asdict(settings),
        "vocabulary": {"size": len(vocabulary), "md5": vocabulary.md5},
        "text": {"bytes": size, "md5": digest.hexdigest()},
    }


def find_shard(path: Path, origin: dict[str, Any]) -> dict[str, Any] | None:
    """Return the description of a finished shard of the same origin, None where it must be made."""
    try:
        description, start = read_description(path)
    except (InputError, FileNotFoundError):
        return None
    if any(description.get(key) != value for key, value in origin.items()):
        return None
    return description if hash_content(path, start) == description["sha256"] else None


def count_compiled() -> int:
    """Count the files of machine code that are kept."""
    return len(list(CACHE_FOLDER.rglob("*.nbc")))


class ShardMaker:
    """Makes shards of one vocabulary with the same settings."""

    def __init__(self, vocabulary: Vocabulary, settings: ExampleSettings) -> None:
        self.start_seconds, self.compiled_files = time.monotonic(), count_compiled()
        self.vocabulary, self.settings = vocabulary, settings
        self.tokenizer = Tokenizer(vocabulary)

    def make(
        self, text: Path, shard: Path, report: Callable[[float], None]
    ) -> tuple[dict[str, Any], bool]:
        """Make the shard of a text, or keep it; return its description and whether it was kept.

        report gets the share that is done, 0 to 1. Raises InputError where the text cannot be
        used, OSError where a file cannot.
        """
        origin = describe_origin(text, self.vocabulary, self.settings)
        kept = find_shard(shard, origin)
        if kept is not None:
            return kept, True
        try:
            index, records = order_examples(self._make_examples(text, report))
            return write_shard(shard, index, records, origin), False
        except MemoryError:
            raise InputError(
                f"{text}: its {origin['text']['bytes']:,} bytes are too many for the memory of "
                "this machine: give fewer --workers, or divide it at a blank line"
            ) from None

    def _make_examples(self, text: Path, report: Callable[[float], None]) -> Examples:
        documents = read_documents(
            text, self.tokenizer, lambda share: report(share * READING_SHARE)
        )
        return create_examples(
            documents,
            self.vocabulary,
            self.settings,
            lambda share: report(READING_SHARE + share * (1 - READING_SHARE)),
        )

    def compile(self, report: Callable[[str], None]) -> None:
        """Compile every loop, or load what is compiled, by making the examples of one word.

        report gets a sentence where something was compiled, and where the machine code is kept
        elsewhere than beside the sources. Processes started after this find it there.
        """
        documents = cut_documents(b"a\n", "a word", self.tokenizer)
        create_examples(documents, self.vocabulary, replace(self.settings, dupe_factor=1))
        seconds = time.monotonic() - self.start_seconds
        if not CACHE_FOLDER.is_relative_to(PACKAGE):
            report(f"compiled loops are kept in {CACHE_FOLDER}, not in {PACKAGE / '__pycache__'}")
        if count_compiled() > self.compiled_files:
            report(f"compiled the loops in {seconds:.0f} s, once for this version and processor")
