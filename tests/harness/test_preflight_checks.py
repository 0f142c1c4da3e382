"""Checks: their verdicts, their one line between rank and host, their table."""

from __future__ import annotations

import json

import pytest

from harness.preflight_checks import (
    LONGEST_FOUND,
    MARK,
    Check,
    describe,
    judge,
    judge_least,
    judge_same,
    read_check,
    write_check,
    write_table,
)


def test_a_mend_is_told_only_where_it_is_needed() -> None:
    assert judge("a", True, "1", "1", "do") == Check("a", "ok", "1", "1", "")
    assert judge("a", False, "2", "1", "do") == Check("a", "failed", "2", "1", "do")


def test_the_same_on_all_nodes_and_as_stated() -> None:
    assert judge_same("a", {"x": "1", "y": "1"}, "do").verdict == "ok"
    assert judge_same("a", {"x": "1"}, "do", wanted="1").verdict == "ok"
    assert judge_same("a", {"x": "1"}, "do", wanted="2").verdict == "failed"
    differs = judge_same("a", {"x": "1", "y": "2", "z": "1"}, "do", wanted="1")
    assert (differs.verdict, differs.found) == ("failed", "1 (x, z); 2 (y)")


def test_the_least_of_the_nodes_counts() -> None:
    check = judge_least("a", {"x": 4096.0, "y": 2048.0}, 3000, ("KiB", 1024), "do")
    assert (check.verdict, check.found) == ("failed", "2.0 KiB (y)")
    assert judge_least("a", {"x": 3000}, 3000, ("KiB", 1024), "do").verdict == "ok"


def test_a_check_survives_its_line() -> None:
    check = Check("a", "failed", "x\ny \u2028 \x1b[2J", "b", "c")
    line = write_check(check)
    assert line.startswith(MARK) and "\n" not in line and line.isascii()
    assert read_check(line) == check
    assert len(write_check(Check("a", "ok", "x" * 100_000))) < LONGEST_FOUND + 200


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "null", "{}", '{"name": "a"}', "[" * 100_000,
        '{"name": "a", "verdict": "good", "found": "b"}',
        '{"name": "a", "verdict": "ok", "found": 1}',
        '{"name": "a", "verdict": "ok", "found": "b", "more": "c"}',
        '{"name": "a", "verdict": [], "found": "b"}',
    ],
)  # fmt: skip
def test_what_is_no_check(text: str) -> None:
    with pytest.raises(ValueError):
        read_check(MARK + text)


def test_table_and_document() -> None:
    checks = [
        Check("memory", "ok", "2 GiB", ">= 1 GiB"),
        Check("clocks", "failed", "\x1b[2Jone\nhour", "none", "set it"),
        Check("input", "not checkable", "no figure"),
    ]
    lines = write_table("mine", checks)
    assert lines == [
        "memory  ok              2 GiB  (wanted: >= 1 GiB)",
        "clocks  failed          ?[2Jone?hour  (wanted: none)",
        "        -> set it",
        "input   not checkable   no figure",
        "mine: NOT READY, 1 check(s) failed, 1 ok, 1 not checkable",
    ]
    document = describe("mine", checks)
    assert (document["good"], document["failed"]) == (False, 1)
    assert describe("mine", checks[:1])["good"] is True
    assert json.loads(json.dumps(document)) == document
    assert write_table("mine", checks[:1])[-1] == "mine: ready, 1 ok, 0 not checkable"
