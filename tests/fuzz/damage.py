"""Damage done to logs and other bytes: small operations, drawn at random."""

from __future__ import annotations

import json
from random import Random
from typing import Any

TOKEN = b":::MLLOG "
KEYS = (
    *("run_start", "run_stop", "init_start", "init_stop", "eval_accuracy", "eval_error", "seed"),
    *("block_start", "block_stop", "epoch_start", "epoch_stop", "tracked_stats", "cache_clear"),
    *("submission_benchmark", "submission_division", "submission_platform", "submission_org"),
    *("global_batch_size", "train_samples", "eval_samples", "opt_name", "lars_opt_momentum"),
    *("number_of_nodes", "demonstration", "gradient_accumulation_steps", "opt_lamb_epsilon"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 0.5, 0.759, 0.72, 1e308, -1e308, 10**15, 10**16, 10**39),
    *(1e-320, float("nan"), float("inf"), "", "x", "7", "success", "closed", "open", "\x00\n"),
    *("\ud800", "\u202e", "9" * 50, [], [None], {}, {"epoch_num": 1}, {"a": [None, {"b": 1}]}),
)
PIECES = (
    *(
        TOKEN,
        b":::SYSJSON ",
        b":::MLLOG",
        b"\r",
        b"\n",
        b"\r\n",
        b"\0",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
    ),
    *(b"{", b"}", b"[" * 40, b'"', b"\\u0000", b"\\ud800", b"NaN", b"-Infinity", b"1e999", b"null"),
    *(b"9" * 5000, b'{"a":' * 300, b":::MLLOG {}", b'"time_ms": ', b" " * 300, b"\x1b[2J"),
)
_MEMBERS = ("time_ms", "key", "value", "metadata", "namespace", "event_type")
_METADATA = ("epoch_num", "status", "first_epoch_num", "epoch_count", "file", "lineno", "hosts")


def damage_lines(random: Random, lines: list[bytes]) -> list[bytes]:
    """Drop, double, swap, move, cut or rewrite one line of a log; gives a new list."""
    lines = list(lines)
    if not lines:
        return [random.choice(PIECES)]
    place, other = random.randrange(len(lines)), random.randrange(len(lines))
    kind = random.randrange(8)
    if kind == 0:
        del lines[place]
    elif kind == 1:
        lines.insert(other, lines[place])
    elif kind == 2:
        lines[place], lines[other] = lines[other], lines[place]
    elif kind == 3:
        lines[place] = lines[place][: random.randrange(len(lines[place]) + 1)]
    elif kind == 4:
        lines[place] = damage_bytes(random, lines[place])
    else:
        lines[place] = damage_event(random, lines[place])
    return lines


def damage_event(random: Random, line: bytes) -> bytes:
    """Rewrite one member of a log line: time, key, value, metadata, or any."""
    head, token, text = line.rpartition(TOKEN)
    try:
        event = json.loads(text)
    except ValueError:
        return damage_bytes(random, line)
    if not token or not isinstance(event, dict):
        return damage_bytes(random, line)
    kind = random.randrange(6)
    metadata = event.get("metadata")
    if kind == 0 and isinstance(event.get("time_ms"), int):
        event["time_ms"] += random.choice((-1, 1)) * 10 ** random.randrange(14)
    elif kind == 1:
        event["key"] = random.choice(KEYS)
    elif kind == 2:
        event["value"] = random.choice(VALUES)
    elif kind == 3 and isinstance(metadata, dict):
        metadata[random.choice(_METADATA)] = random.choice(VALUES)
    elif kind == 4:
        event.pop(random.choice(_MEMBERS), None)
    else:
        event[random.choice(_MEMBERS)] = random.choice(VALUES)
    return head + token + json.dumps(event).encode()


def damage_bytes(random: Random, content: bytes) -> bytes:
    """Flip, cut, put in, double or overwrite bytes at a random place."""
    if not content:
        return random.choice(PIECES)
    place = random.randrange(len(content))
    end = min(len(content), place + 1 + random.randrange(1 << random.randrange(1, 10)))
    kind = random.randrange(6)
    if kind == 0:
        return content[:place] + bytes([random.randrange(256)]) + content[place + 1 :]
    if kind == 1:
        return content[:place] + content[end:]
    if kind == 2:
        return content[:place] + random.choice(PIECES) + content[place:]
    if kind == 3:
        return content[:end] + content[place:]
    if kind == 4:
        return content[:place] + bytes(end - place) + content[end:]
    return content[:place]
