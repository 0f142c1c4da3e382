"""The manifest: which shards a data set consists of, how large each is, what they were made of.

It says how many examples there are and how large every file is, so that a run knows its data set,
and that it is whole, before the clock starts and without touching a byte of the data.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bert.examples import ExampleSettings
from bert.shard_file import INDEX_ENTRY, read_description
from harness.commands import InputError
from harness.files import write_atomically

MANIFEST_NAME = "manifest.json"
LARGEST_MANIFEST_BYTES = 1 << 26
MOST_EXAMPLES = (1 << 32) - 1  # the training order numbers them with 32 bits
LARGEST_VOCABULARY = 1 << 32
SHARD_NAME = re.compile(r"[0-9]{5,}-[A-Za-z0-9._-]{1,100}\.shard")
MD5_HEX = re.compile(r"[0-9a-f]{32}")
KINDS = {"int": int, "float": float, "str": str}


@dataclass(frozen=True)
class Shard:
    """One file of the data set: its counts, its size, the SHA-256 of its content."""

    name: str
    examples: int
    tokens: int
    masked_tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Text:
    """A text that examples were made of."""

    bytes: int
    md5: str


UNKNOWN_TEXT = Text(0, "unknown")


@dataclass(frozen=True)
class Origin:
    """The texts that a data set comes from, and what was done to their examples, in order.

    operations: such as "pick 10000" and "shuffle 24" (the seed); none where the shards are what
    `create` made.
    """

    texts: tuple[Text, ...]
    operations: tuple[str, ...] = ()

    def add(self, operation: str) -> Origin:
        return Origin(self.texts, (*self.operations, operation))


@dataclass(frozen=True)
class Manifest:
    """A data set: the folder it lies in, how it was made, its shards in the order of the texts.

    origin: None where each shard names the text that it was made of.
    """

    folder: Path
    settings: ExampleSettings
    vocabulary_size: int
    vocabulary_md5: str
    shards: tuple[Shard, ...]
    origin: Origin | None = None

    @property
    def examples(self) -> int:
        return sum(shard.examples for shard in self.shards)

    @property
    def tokens(self) -> int:
        return sum(shard.tokens for shard in self.shards)

    @property
    def masked_tokens(self) -> int:
        return sum(shard.masked_tokens for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def max_seq_length(self) -> int:
        return self.settings.max_seq_length

    @property
    def max_predictions_per_seq(self) -> int:
        return self.settings.max_predictions_per_seq


def name_shard(number: int, name: str) -> str:
    """Name shard `number` (from 0) after the text it is made of."""
    return f"{number:05d}-{re.sub('[^A-Za-z0-9._-]', '_', name)[:100]}.shard"


def write_manifest(manifest: Manifest) -> None:
    """Write manifest.json into the data set's folder, whole or not at all. Raises OSError."""
    content: dict[str, Any] = {
        "schema": 1,
        "examples": manifest.examples,
        "settings": asdict(manifest.settings),
        "vocabulary_size": manifest.vocabulary_size,
        "vocabulary_md5": manifest.vocabulary_md5,
    }
    if manifest.origin is not None:
        content["origin"] = asdict(manifest.origin)
    content["shards"] = [asdict(shard) for shard in manifest.shards]
    with write_atomically(manifest.folder / MANIFEST_NAME) as file:
        json.dump(content, file, indent=1)
        file.write("\n")


def read_manifest(folder: Path | str) -> Manifest:
    """Read manifest.json and check that every shard is there in its full size, by stat alone.

    Raises InputError naming the file, what is wrong and the mend.
    """
    manifest = load_manifest(Path(folder) / MANIFEST_NAME)
    for shard in manifest.shards:
        check_size(manifest.folder / shard.name, shard.bytes)
    return manifest


def load_manifest(path: Path) -> Manifest:
    """Read a manifest and look at no shard; its folder is the one that it lies in.

    Raises InputError naming the file, what is wrong and the mend.
    """
    try:
        if path.stat().st_size > LARGEST_MANIFEST_BYTES:
            raise InputError(f"{path} is larger than 64 MiB, which no manifest is")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{path} is missing: make the data with python -m bert.prepare_data create, "
            "or let an interrupted one finish"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not JSON ({error!s:.300}): make the data anew with create"
        ) from None
    try:
        return _parse_manifest(path.parent, content)
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        what = f"key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise InputError(
            f"{path} is not a manifest of schema 1 ({what:.300}): make the data anew with create"
        ) from None


def _parse_manifest(folder: Path, content: Any) -> Manifest:
    if not isinstance(content, dict):
        raise TypeError("its top is no object")
    if content["schema"] != 1:
        raise ValueError(f"schema is {content['schema']!r}")
    shards = [_parse_shard(item) for item in content["shards"]]
    if not shards:
        raise ValueError("it names no shard")
    if len({shard.name for shard in shards}) != len(shards):
        raise ValueError("it names a shard twice")
    _check_fields(content["settings"], ExampleSettings, "settings")
    size, md5 = content["vocabulary_size"], content["vocabulary_md5"]
    if type(size) is not int or not 1 <= size <= LARGEST_VOCABULARY:
        raise ValueError(f"vocabulary_size is {size!r}")
    if type(md5) is not str or not MD5_HEX.fullmatch(md5):
        raise ValueError(f"vocabulary_md5 is {md5!r}")
    settings = ExampleSettings(**content["settings"])
    origin = _parse_origin(content["origin"]) if "origin" in content else None
    manifest = Manifest(folder, settings, size, md5, tuple(shards), origin)
    if type(content["examples"]) is not int or manifest.examples != content["examples"]:
        raise ValueError(
            f"examples is {content['examples']!r}, but its shards have {manifest.examples}"
        )
    if manifest.examples > MOST_EXAMPLES:
        raise ValueError(f"it has {manifest.examples} examples, more than {MOST_EXAMPLES}")
    return manifest


def _check_fields(item: Any, kind: type, what: str) -> None:
    """Raise ValueError or TypeError unless a table has the fields of a dataclass, each its type."""
    known = {field.name: KINDS[str(field.type)] for field in fields(kind)}
    if set(item) != set(known):
        raise ValueError(f"{what} has the keys {sorted(item)}")
    for name, wanted in known.items():
        given = type(item[name])
        if given is not wanted and not (wanted is float and given is int):
            raise ValueError(f"{what} has {name} {item[name]!r}")


def _parse_shard(item: Any) -> Shard:
    _check_fields(item, Shard, "a shard")
    shard = Shard(**item)
    if not SHARD_NAME.fullmatch(shard.name):
        raise ValueError(f"a shard has the name {shard.name!r}")
    for name in ("examples", "tokens", "masked_tokens", "bytes"):
        if getattr(shard, name) < 1:
            raise ValueError(f"a shard has {name} {getattr(shard, name)}")
    if shard.bytes <= shard.examples * INDEX_ENTRY.itemsize:
        raise ValueError(f"{shard.examples} examples do not fit into {shard.bytes} bytes")
    return shard


def _parse_origin(item: Any) -> Origin:
    if set(item) != {"texts", "operations"} or not isinstance(item["operations"], list):
        raise ValueError(f"origin is {item!r:.200}")
    if not all(type(operation) is str for operation in item["operations"]):
        raise ValueError(f"origin has the operations {item['operations']!r:.200}")
    for text in item["texts"]:
        _check_fields(text, Text, "a text")
    return Origin(tuple(Text(**text) for text in item["texts"]), tuple(item["operations"]))


def trace_origin(manifest: Manifest) -> Origin:
    """Return what a data set was made of, asking its shards where the manifest does not say.

    Raises InputError where a shard is damaged.
    """
    if manifest.origin is not None:
        return manifest.origin
    texts = []
    for shard in manifest.shards:
        text = read_description(manifest.folder / shard.name)[0].get("text")
        try:
            _check_fields(text, Text, "the text of a shard")
            texts.append(Text(**text))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            texts.append(UNKNOWN_TEXT)
    return Origin(tuple(texts))


def check_size(path: Path, wanted_bytes: int) -> None:
    """Raise InputError, naming the mend, unless a file is there and of the wanted size."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(
            f"{path} is missing ({wanted_bytes} bytes wanted): run the same create again"
        ) from None
    if size != wanted_bytes:
        raise InputError(
            f"{path} has {size} bytes instead of {wanted_bytes}: delete it and run the same "
            "create again"
        )
