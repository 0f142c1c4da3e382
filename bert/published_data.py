"""What others have published about MLPerf's BERT data, read from published_data.toml."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bert.examples import ExampleSettings
from bert.manifest import Origin

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PUBLISHED_DATA = Path(__file__).with_name("published_data.toml")


@dataclass(frozen=True)
class PublishedFile:
    """A file of MLCommons' download; needed: our data are made of it."""

    path: str
    bytes: int
    md5: str
    needed: bool
    source: str

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True)
class PublishedCount:
    """How many examples or masked_tokens somebody's data set has."""

    what: str
    count: int
    by: str
    source: str


@dataclass(frozen=True)
class PublishedDigest:
    """The input_ids_md5 of some rows; of_examples: how many the whole set has, where it counts."""

    first: int
    examples: int
    input_ids_md5: str
    source: str
    of_examples: int | None = None


@dataclass(frozen=True)
class PublishedSet:
    """A data set; texts: (place, file) of those texts whose MD5 is published."""

    name: str
    texts: tuple[tuple[int, PublishedFile], ...]
    text_count: int
    operations: tuple[str, ...]
    counts: tuple[PublishedCount, ...]
    digests: tuple[PublishedDigest, ...]

    def matches(self, origin: Origin) -> bool:
        """True where examples say that they come from these texts in this way."""
        return (
            origin.operations == self.operations
            and len(origin.texts) == self.text_count
            and all(origin.texts[place].md5 == file.md5 for place, file in self.texts)
        )

    def list_counts(self, what: str) -> dict[int, PublishedCount]:
        return {item.count: item for item in self.counts if item.what == what}


@dataclass(frozen=True)
class PublishedLength:
    """Of Wikipedia passed over once, the share of sequences of first to last tokens, per cent."""

    first: int
    last: int
    sequences_percent: float
    tokens_percent: float


@dataclass(frozen=True)
class PublishedData:
    """All that published_data.toml holds; sources: what the files' `source` stands for."""

    sources: dict[str, str]
    script: str
    catalogues: tuple[str, ...]
    text_parts: int
    files: tuple[PublishedFile, ...]
    sets: tuple[PublishedSet, ...]
    lengths: tuple[PublishedLength, ...]

    def find_file(self, name: str) -> PublishedFile | None:
        """Return the needed file of this name; None where nothing is published of it."""
        found = (file for file in self.files if file.needed and file.name == name)
        return next(found, None)

    def find_set(
        self, origin: Origin, settings: ExampleSettings, vocabulary_md5: str
    ) -> PublishedSet | None:
        """Return the published set that examples say they are; None where they say none."""
        vocabulary = self.find_file("vocab.txt")
        known = vocabulary is not None and vocabulary.md5 == vocabulary_md5
        if not known or settings != ExampleSettings():
            return None
        return next((item for item in self.sets if item.matches(origin)), None)


def read_published_data(path: Path = PUBLISHED_DATA) -> PublishedData:
    """Read the published figures. Raises OSError, KeyError, TypeError for a file not like ours."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    files = {item["path"]: PublishedFile(**item) for item in content["files"]}
    return PublishedData(
        content["sources"],
        content["download"]["script"],
        tuple(content["download"]["catalogues"]),
        content["download"]["text_parts"],
        tuple(files.values()),
        tuple(_build_set(item, files) for item in content["sets"]),
        tuple(PublishedLength(**item) for item in content["lengths"]),
    )


def _build_set(item: dict[str, Any], files: dict[str, PublishedFile]) -> PublishedSet:
    return PublishedSet(
        item["name"],
        tuple((place, files[path]) for place, path in item["texts"]),
        item["text_count"],
        tuple(item["operations"]),
        tuple(PublishedCount(**count) for count in item["counts"]),
        tuple(PublishedDigest(**digest) for digest in item["digests"]),
    )
