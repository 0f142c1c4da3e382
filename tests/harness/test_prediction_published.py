"""The facts table: readable, and equal to the logs where they stand beside the checkout."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from harness.commands import InputError
from harness.prediction_convergence import find_group
from harness.prediction_published import (
    CONVERGENCE_FILE,
    RESULTS_FILE,
    PublishedResult,
    load_published_convergence,
    load_published_results,
)

LOGS = Path(__file__).resolve().parents[3] / "shared" / "logs" / "expected.json"
NEED_LOGS = pytest.mark.skipif(not LOGS.is_file(), reason=f"no published logs at {LOGS}")


def test_no_result_stands_twice_and_no_platform_has_more_than_two_anchors():
    rows = load_published_results()
    names = [(row.round, row.submitter, row.system, row.benchmark) for row in rows]
    assert len(set(names)) == len(names) >= 90
    for platform in {row.platform for row in rows}:
        anchors = [row for row in rows if row.platform == platform and row.anchor]
        assert len(anchors) <= 2
        assert len({row.benchmark for row in rows if row.platform == platform}) == 1


def list_logged() -> list[tuple[PublishedResult, dict]]:
    sets = json.loads(LOGS.read_text(encoding="utf-8"))["sets"].values()
    found = []
    for row in load_published_results():
        for one in sets:
            origin = one["origin"]["path"]
            path = f"{row.submitter}/results/{row.system}/{row.benchmark}"
            if one["round"] == row.round and origin == path:
                found.append((row, one))
    return found


@NEED_LOGS
def test_rows_equal_the_published_logs():
    found = list_logged()
    assert len(found) >= 6
    for row, one in found:
        assert row.minutes == pytest.approx(one["olympic_minutes"], abs=1e-4)
        reached = [run["converged_at"] for run in one["files"].values() if run["converged"]]
        assert row.converged_runs == len(reached)
        assert row.failed_runs == len(one["files"]) - len(reached)
        assert row.converged_mean == pytest.approx(sum(reached) / len(reached), abs=0.51)


def test_a_result_is_taken_out_of_its_group():
    row = next(r for r in load_published_results() if r.system == "h200_ngc23.09_pytorch")
    group = find_group(row.hyperparameters)
    assert group is not None and group.sets == 62
    rest = group.without(row)
    assert rest is not None and rest.converged_runs == group.converged_runs - row.converged_runs
    whole = (
        rest.converged_runs * rest.mean_samples + row.converged_runs * row.converged_mean
    ) / group.converged_runs
    assert whole == pytest.approx(group.mean_samples)


def test_a_group_of_one_result_leaves_nothing():
    row = next(r for r in load_published_results() if r.system == "8xXE9712x4GB200")
    assert find_group(row.hyperparameters) is not None
    assert find_group(row.hyperparameters, without=row) is None


def test_no_group_stands_twice_and_each_row_of_results_is_in_one():
    groups = [group.hyperparameters for group in load_published_convergence()]
    assert len(groups) >= 50
    assert not any(a.equal(b) for a, b in itertools.combinations(groups, 2))
    for row in load_published_results():
        if row.benchmark == "bert":
            assert row.hyperparameters is not None
            found = find_group(row.hyperparameters)
            assert found is not None and found.converged_runs >= row.converged_runs


@pytest.mark.parametrize(
    ("column", "value", "word"),
    [
        ("benchmark", "gpt", "resnet or bert"),
        ("minutes", "0", "positive number"),
        ("minutes", "nan", "positive number"),
        ("minutes", "x", "positive number"),
        ("nodes", "1.5", "whole number"),
        ("nodes", "0", "at least 1"),
        ("round", "", "missing or empty"),
        ("start_warmup_step", "3", "0 or less"),
        ("training_steps", "0", "at least 1"),
    ],
)
def test_a_bad_value_is_named_with_its_line(tmp_path: Path, column: str, value: str, word: str):
    lines = RESULTS_FILE.read_text(encoding="utf-8").splitlines()
    head = next(n for n, line in enumerate(lines) if line.startswith("round,"))
    # A row of BERT's, whose hyperparameters are read.
    cells = next(line for line in lines[head:] if ",bert," in line).split(",")
    cells[lines[head].split(",").index(column)] = value
    file = tmp_path / "results.csv"
    file.write_text("\n".join([lines[head], ",".join(cells)]), encoding="utf-8")
    with pytest.raises(InputError, match=f"results.csv:2: .*'{column}'.*{word}"):
        load_published_results(file)


def test_a_line_of_another_length_is_named(tmp_path: Path):
    text = CONVERGENCE_FILE.read_text(encoding="utf-8")
    file = tmp_path / "convergence.csv"
    file.write_text(text + "1,2,3\n", encoding="utf-8")
    with pytest.raises(InputError, match="has 3 columns, must have 14"):
        load_published_convergence(file)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"\xff\xfe"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes):
    file = tmp_path / "empty.csv"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"empty\.csv"):
        load_published_results(file)
