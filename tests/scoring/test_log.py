"""The reader takes any bytes and answers with events and problems, never an exception."""

import json
import os
import random

import pytest

from scoring.log import (
    FILE_LIMIT_BYTES,
    LINE_LIMIT_BYTES,
    LINE_VALUE_LIMIT,
    NESTING_LIMIT,
    SYSTEM_LINE_LIMIT,
    parse_log,
    read_log,
)

GOOD = b':::MLLOG {"time_ms": 5, "key": "seed", "value": 1, '
GOOD += b'"metadata": {"file": "a/b.py", "lineno": 7}}'


def replace(**members):
    line = json.loads(GOOD[9:])
    line.update(members)
    return b":::MLLOG " + json.dumps(line).encode()


def get_rules(log):
    return [problem.rule for problem in log.problems]


def test_only_what_follows_the_last_token_counts():
    log = parse_log(
        "x", b'\xef\xbb\xbf 0: :::MLLOG {"bro :::MLLOG' + GOOD + b"  \r\nother\r" + GOOD
    )
    assert [(event.line, event.key, event.value) for event in log.events] == [
        (1, "seed", 1),
        (3, "seed", 1),
    ]
    assert log.events[0].source == ("b.py", 7)
    assert log.problems == ()


def test_text_digits_are_a_time():
    assert parse_log("x", replace(time_ms="12")).events[0].time_ms == 12


@pytest.mark.parametrize(
    "line",
    [
        GOOD[:-1],
        b":::MLLOG 7",
        b":::MLLOG null",
        b':::MLLOG {"time_ms": 1}',
        GOOD.replace(b'"value": 1', b'"value": 1, "value": 2'),
        replace(time_ms=None),
        replace(time_ms=True),
        replace(time_ms=-1),
        replace(time_ms=1e300),
        replace(time_ms=float("nan")),
        replace(time_ms="yesterday"),
        replace(key=3),
        replace(metadata=[1]),
        replace(value=float("inf")),
        replace(value={"deep": [float("nan")]}),
        replace(value=1).replace(b": 1", b": " + b"9" * 5000),
        b":::MLLOG " + b"[" * 200_000,
        replace(value=0).replace(b'"value": 0', b'"value": ' + b"[" * 40 + b"]" * 40),
        b":::MLLOG " + b" " * LINE_LIMIT_BYTES + b"{}",
        GOOD[:-3] + b"\0}}",
        replace(key="seed\n\x1b[2J" + "x" * 5000, value=float("nan")),
    ],
    ids=range(21),
)
def test_broken_lines_are_problems_with_their_line(line):
    log = parse_log("x", b"first\n" + line + b"\n" + GOOD)
    assert len(log.events) == 1
    problem = log.problems_of("parse-error")[0]
    assert problem.line == 2
    assert problem.message.isprintable()
    assert len(problem.message) < 200


def test_nan_where_nothing_depends_on_it_is_no_problem():
    log = parse_log("x", replace(key="tracked_stats", value={"loss": float("nan")}))
    assert get_rules(log) == []


def test_nesting_at_the_limit_is_read():
    value = 0
    for _ in range(NESTING_LIMIT - 2):
        value = [value]
    assert get_rules(parse_log("x", replace(value=value))) == []


def test_foreign_bytes_and_nul_bytes_are_told_with_their_line():
    log = parse_log("x", b"one\r\ntwo \xfc\n\0\0" + GOOD)
    assert [(p.rule, p.line) for p in log.problems] == [("nul-bytes", 3), ("not-utf8", 2)]
    assert len(log.events) == 1


@pytest.mark.parametrize("content", [b"", b"\n\n", b"no token", b":::MLLOG\n", b":::SYSJSON {}"])
def test_a_file_without_log_lines_says_so(content):
    assert get_rules(parse_log("x", content)) == ["no-log-lines"]


def test_system_lines_are_kept_apart():
    log = parse_log("x", b'\n:::SYSJSON {"number_of_nodes": "4"} \n:::SYSJSON {broken\n' + GOOD)
    assert log.systems == ((2, {"number_of_nodes": "4"}),)


def test_too_many_broken_lines_are_not_all_told():
    log = parse_log("x", b":::MLLOG {\n" * 5000)
    assert len(log.problems) < 50


def test_files_that_are_none(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_bytes(GOOD)
    root = tmp_path / "root"
    root.mkdir()
    (root / "result_0.txt").symlink_to(outside)
    (root / "result_1.txt").mkdir()
    os.mkfifo(root / "result_2.txt")
    (root / "result_3.txt").symlink_to(root / "nowhere")
    (root / "result_6.txt").symlink_to(root / "result_6.txt")
    assert get_rules(read_log(root / "result_6.txt", root)) == ["parse-error"]
    with (root / "result_4.txt").open("wb") as file:
        file.truncate(FILE_LIMIT_BYTES + 1)
    for place, words in enumerate(("leads out", "no regular", "no regular", "opened", "larger")):
        log = read_log(root / f"result_{place}.txt", root)
        assert get_rules(log) == ["parse-error"]
        assert words in log.problems[0].message
    (root / "result_5.txt").write_bytes(GOOD)
    assert read_log(root / "result_5.txt", root).name == "result_5.txt"


def test_any_damage_to_a_log_is_survived():
    generator = random.Random(1)
    content = b"\n".join(replace(value=value, time_ms=value) for value in range(40))
    for _ in range(300):
        damaged = bytearray(content)
        for _ in range(generator.randrange(1, 30)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        log = parse_log("x", bytes(damaged[: generator.randrange(len(damaged))]))
        assert all(event.line >= 1 for event in log.events)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_lines_are_counted_by_every_kind_of_end(end):
    content = end.join([b"", b"one", GOOD, b"\x00", b"", b"two :::", GOOD, b":::MLLOG x", b""])
    log = parse_log("x", content)
    assert [event.line for event in log.events] == [3, 7]
    assert [(p.rule, p.line) for p in log.problems] == [("nul-bytes", 4), ("parse-error", 8)]


def test_lines_and_values_beyond_the_limits_are_not_read(monkeypatch):
    monkeypatch.setattr("scoring.log.LOG_LINE_LIMIT", 3)
    log = parse_log("x", (GOOD + b"\n") * 4)
    assert (len(log.events), log.problems_of("parse-error")[0].line) == (3, 4)
    monkeypatch.undo()
    monkeypatch.setattr("scoring.log.FILE_VALUE_LIMIT", 20)
    log = parse_log("x", (GOOD + b"\n") * 4)
    assert (len(log.events), log.problems_of("parse-error")[0].line) == (2, 3)
    monkeypatch.undo()
    deep = replace(value=[[]] * LINE_VALUE_LIMIT)
    assert "more than 10000 values" in parse_log("x", deep).problems[0].message


def test_a_file_of_nothing_but_marks_is_read_at_once():
    for piece in (b"\n", b":::\n", b":::MLLOG \n", b":::SYSJSON {}\r"):
        log = parse_log("x", piece * (8_000_000 // len(piece)))
        assert log.problems and len(log.problems) < 50
        assert len(log.systems) <= SYSTEM_LINE_LIMIT
