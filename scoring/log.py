"""Reads one run log, trusting nothing in it.

A log line is the token `:::MLLOG`, one blank and a JSON object; whatever stands before the
token's last occurrence in the line is ignored. The file may be of any kind, size and content:
every bound is checked before the work is done, and a line that cannot be read becomes a problem
with its line number, never an exception.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scoring.findings import quote

TOKEN = b":::MLLOG "
SYSTEM_TOKEN = b":::SYSJSON "
_ANY_TOKEN = re.compile(rb":::(?:MLLOG|SYSJSON) ")
FILE_LIMIT_BYTES = 64 << 20
LINE_LIMIT_BYTES = 1 << 20
LOG_LINE_LIMIT = 200_000
SYSTEM_LINE_LIMIT = 1000
# A number, text or list of a few bytes takes some hundred in memory. Published logs hold up to 13
# in a line, and 41,000 in all.
LINE_VALUE_LIMIT = 10_000
FILE_VALUE_LIMIT = 2_000_000
NESTING_LIMIT = 32
DIGIT_LIMIT = 40
TIME_LIMIT_MS = 10**14
PROBLEMS_SHOWN = 20

# A line with one of these keys decides something; NaN or infinity in it is a broken line.
_DECISIVE_PREFIXES = (
    *("run_", "init_", "eval_", "epoch_", "block_", "submission_", "cache_", "seed"),
    *("opt_", "lars_", "sgd_", "global_batch", "gradient_", "train_samples"),
)


class LineError(Exception):
    """A log line that cannot be read, with the reason in words."""


@dataclass(frozen=True)
class Event:
    """One log line: physical line number from 1, time in ms, key, value and metadata."""

    line: int
    time_ms: float
    key: str
    value: Any
    metadata: dict[str, Any]
    text: bytes = field(repr=False)

    @property
    def source(self) -> tuple[str, Any]:
        """Give file name (without folders) and line of the call that logged this line."""
        name = self.metadata.get("file")
        return (os.path.basename(name) if isinstance(name, str) else "", self.lineno)

    @property
    def lineno(self) -> int | None:
        """Give the logging call's line number where it is a number."""
        number = self.metadata.get("lineno")
        return number if isinstance(number, int) else None


@dataclass(frozen=True)
class Problem:
    """Something wrong with the file itself: slug of the finding, line or None, message."""

    rule: str
    line: int | None
    message: str


@dataclass(frozen=True)
class RunLog:
    """One log file as read: `name` relative to the examined folder, events in file order."""

    name: str
    events: tuple[Event, ...]
    problems: tuple[Problem, ...]
    systems: tuple[tuple[int, dict[str, Any]], ...] = ()
    value_count: int = 0

    def problems_of(self, rule: str) -> list[Problem]:
        """Give the problems with this slug."""
        return [problem for problem in self.problems if problem.rule == rule]


def read_named(path: Path, limit_bytes: int) -> bytes:
    """Read a regular file that the user names, links followed. Raises LineError."""
    try:
        place = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        raise LineError(f"cannot be opened: {error.strerror}") from None
    return read_bounded(place, place.parent, limit_bytes)


def read_bounded(path: Path, root: Path, limit_bytes: int) -> bytes:
    """Read a regular file below `root` of at most `limit_bytes`.

    Raises LineError where it is no regular file, leads out of `root` by a link, or is larger.
    """
    if not stays_inside(path, root):
        raise LineError("is a link that leads out of the folder; it is not followed")
    # Without O_NONBLOCK, opening a named pipe would wait for its writer for ever.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LineError(f"cannot be opened: {error.strerror}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LineError("is no regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(limit_bytes + 1)
    except OSError as error:
        raise LineError(f"cannot be read: {error.strerror}") from None
    finally:
        os.close(descriptor)
    if len(content) > limit_bytes:
        raise LineError(f"is larger than {limit_bytes >> 20} MiB")
    return content


def stays_inside(path: Path, root: Path) -> bool:
    """Say whether a path, all links followed, lies below `root`; a loop of links does not."""
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):
        return False


def read_log(path: Path, root: Path) -> RunLog:
    """Read one log file below `root`; never raises for what the file holds."""
    name = path.relative_to(root).as_posix()
    try:
        content = read_bounded(path, root, FILE_LIMIT_BYTES)
    except LineError as error:
        return RunLog(name, (), (Problem("parse-error", None, f"the file {error}"),))
    return parse_log(name, content)


def parse_log(name: str, content: bytes) -> RunLog:
    """Read the bytes of a log into events and problems."""
    events: list[Event] = []
    systems: list[tuple[int, dict[str, Any]]] = []
    problems = list(_find_byte_problems(content))
    broken = values = 0
    for seen, (number, line) in enumerate(_split_lines(content)):
        start = line.rfind(TOKEN)
        values += _count_values(line) if start >= 0 else 0
        if seen >= LOG_LINE_LIMIT or values > FILE_VALUE_LIMIT:
            message = f"more than {LOG_LINE_LIMIT} log lines, or {FILE_VALUE_LIMIT} values in them"
            problems.append(Problem("parse-error", number, f"{message}: the rest is not read"))
            break
        if start < 0:
            if len(systems) < SYSTEM_LINE_LIMIT:
                systems.extend(_read_system_line(number, line))
            continue
        try:
            events.append(_parse_event(number, line[start + len(TOKEN) :]))
        except LineError as error:
            broken += 1
            if broken <= PROBLEMS_SHOWN:
                problems.append(Problem("parse-error", number, f"broken log line: {error}"))
    if not events and not any(problem.rule == "parse-error" for problem in problems):
        problems.append(Problem("no-log-lines", None, "the file holds no :::MLLOG line"))
    return RunLog(name, tuple(events), tuple(problems), tuple(systems), values)


def _find_byte_problems(content: bytes) -> Iterator[Problem]:
    position = content.find(b"\0")
    if position >= 0:
        line = _count_line_ends(content, position) + 1
        yield Problem("nul-bytes", line, "the file holds NUL bytes: it was cut or overwritten")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = _count_line_ends(content, error.start) + 1
        message = "bytes that are not UTF-8, read as Latin-1"
        yield Problem("not-utf8", line, message)


def _count_line_ends(content: bytes, end: int) -> int:
    """Count CR, LF, or both together, before `end`."""
    both = content.count(b"\r\n", 0, end)
    return content.count(b"\n", 0, end) + content.count(b"\r", 0, end) - both


def _split_lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Split at CR, LF or both, as text files are read; yields only lines with a token.

    A file of line ends alone costs no more than its bytes: no line is made that is not yielded.
    """
    content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    number, begin = 1, 0
    while match := _ANY_TOKEN.search(content, begin):
        place = match.start()
        start = max(content.rfind(b"\n", begin, place) + 1, begin)
        end = content.find(b"\n", place)
        end = len(content) if end < 0 else end
        number += content.count(b"\n", begin, start)
        yield number, content[start:end]
        number, begin = number + 1, end + 1


def _count_values(text: bytes) -> int:
    """Give at least how many values a JSON text holds, by the marks between them."""
    return 1 + text.count(b",") + text.count(b"[") + text.count(b"{")


def _read_system_line(number: int, line: bytes) -> list[tuple[int, dict[str, Any]]]:
    start = line.rfind(SYSTEM_TOKEN)
    if start < 0:
        return []
    try:
        system = parse_json(line[start + len(SYSTEM_TOKEN) :], allow_repeated=True)
    except LineError:
        # It is no log line, so nothing depends on it; a broken one is as good as none.
        return []
    return [(number, system)] if isinstance(system, dict) else []


def parse_json(text: bytes, allow_repeated: bool = False) -> Any:
    """Read JSON strictly: bounded size and nesting, no member twice. Raises LineError.

    allow_repeated: a member may stand twice with one value, as in some published descriptions.
    """
    if len(text) > LINE_LIMIT_BYTES:
        raise LineError(f"longer than {LINE_LIMIT_BYTES >> 20} MiB")
    if _count_values(text) > LINE_VALUE_LIMIT:
        raise LineError(f"more than {LINE_VALUE_LIMIT} values")
    if text.startswith(codecs.BOM_UTF8):
        raise LineError("begins with a byte order mark: save it as UTF-8 without one")
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        decoded = text.decode("latin-1")
    try:
        value = (_LENIENT if allow_repeated else _STRICT).decode(decoded.strip())
    except json.JSONDecodeError as error:
        raise LineError(f"not JSON: {error.msg} at character {error.pos + 1}") from None
    except (ValueError, RecursionError):
        raise LineError("not JSON: a number or nesting beyond all bounds") from None
    if text.count(b"{") + text.count(b"[") > NESTING_LIMIT and _nests_too_deep(value):
        raise LineError(f"nested deeper than {NESTING_LIMIT}")
    return value


def _parse_whole_number(digits: str) -> int:
    if len(digits) > DIGIT_LIMIT:
        raise LineError(f"a number of more than {DIGIT_LIMIT} digits")
    return int(digits)


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise LineError("names a member of an object twice")
    return members


def _make_object_with_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs) and any(members[name] != value for name, value in pairs):
        raise LineError("gives a member of an object two values")
    return members


_STRICT = json.JSONDecoder(object_pairs_hook=_make_object, parse_int=_parse_whole_number)
_LENIENT = json.JSONDecoder(
    object_pairs_hook=_make_object_with_repeats, parse_int=_parse_whole_number
)


def _nests_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(NESTING_LIMIT + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
        level = [item for item in inner if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _parse_event(number: int, text: bytes) -> Event:
    line = parse_json(text)
    if not isinstance(line, dict):
        raise LineError("not a JSON object")
    for member in ("time_ms", "key", "value", "metadata"):
        if member not in line:
            raise LineError(f"no {member}")
    key, metadata = line["key"], line["metadata"]
    if not isinstance(key, str):
        raise LineError("key is no text")
    if metadata is None:
        metadata = {}
    if not isinstance(metadata, dict):
        raise LineError("metadata is no object")
    if key.startswith(_DECISIVE_PREFIXES) and _holds_infinity(line):
        raise LineError(f"{quote(key, 40)} with NaN or infinity")
    return Event(number, _parse_time(line["time_ms"]), key, line["value"], metadata, text)


def _parse_time(value: Any) -> float:
    if isinstance(value, str) and re.fullmatch(r"\d{1,15}", value, re.ASCII):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LineError("time_ms is no number")
    if not 0 <= value <= TIME_LIMIT_MS:
        raise LineError("time_ms is out of all bounds")
    return value


def _holds_infinity(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(_holds_infinity(item) for item in value.values())
    if isinstance(value, list):
        return any(_holds_infinity(item) for item in value)
    return False
