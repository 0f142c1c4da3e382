"""What stands in for slow parts of mlperf-logging's checkers gives what the parts give."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoring import stock_process
from scoring.stock_process import TOKEN, Search, ttest_ind_from_stats

PARTS = st.sampled_from([TOKEN, ":::MLLOG", "0: ", '{"key": 1}', "é\x85\x1b", " ", "\r", "\n"])


@given(st.lists(PARTS, max_size=8).map("".join))
def test_cutting_before_the_token_is_what_the_pattern_does(line):
    expected = re.sub(".*" + TOKEN, TOKEN, line)
    assert Search.sub(".*" + TOKEN, TOKEN, line) == expected


def test_other_patterns_are_left_to_re():
    search = Search()
    assert search.sub("a+", "b", "caat") == "cbt"
    assert search.match(r"\d", "1")


@pytest.mark.parametrize("mean", [33.0, 34.9, 35.0, 40.0])
@pytest.mark.parametrize(("deviation", "reference_runs"), [(0.5, 8), (3.0, 20)])
def test_the_test_of_means_is_that_of_scipy(mean, deviation, reference_runs):
    from scipy.stats import ttest_ind_from_stats as known

    values = (mean, deviation, 3, 35.0, deviation, reference_runs)
    expected = known(*values, equal_var=True)
    assert ttest_ind_from_stats(*values, equal_var=True) == pytest.approx(tuple(expected), 1e-9)


def test_unequal_variances_are_not_made_up():
    with pytest.raises(ValueError, match="one variance"):
        ttest_ind_from_stats(1.0, 1.0, 3, 1.0, 2.0, 3, equal_var=False)


def run_process(job):
    done = subprocess.run(
        [sys.executable, "-I", stock_process.__file__],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    return json.loads(done.stdout)


def test_a_long_line_costs_no_more_than_its_length(tmp_path):
    """With the checkers' own pattern this line takes hours, and the process's time limit."""
    path = tmp_path / "result_0.txt"
    line = {"time_ms": 1, "key": "x", "value": "y" * 900_000, "metadata": {}}
    path.write_text(f"{TOKEN}{json.dumps(line)}\n")
    job = {"ruleset": "4.0.0", "logs": [str(path)], "groups": {"resnet": str(tmp_path)}}
    answer = run_process(job)
    assert answer["compliance"][str(path)]["passed"] is False
    assert "resnet" in answer["convergence"]


@pytest.mark.parametrize("ruleset", ["2.1.0", "4.0.0"])
def test_checkers_with_and_without_their_own_parts_agree(unpack_set, ruleset, monkeypatch):
    """The verdict on a published set, message and factor, is that of the checkers untouched."""
    folder = unpack_set("v3.0/Dell/4xXE8545x4A100-SXM-80GB/resnet")
    code = (
        "import sys, shutil\n"
        "from mlperf_logging.rcp_checker import rcp_checker\n"
        "answer = rcp_checker.check_directory(sys.argv[1], 'training', sys.argv[2], False, False,"
        " rcp_pass='pruned_rcps', set_scaling=True)\n"
        "print(repr([bool(answer[0]), answer[1], float(answer[2])]))\n"
    )
    command = [sys.executable, "-c", code, str(folder / "resnet"), ruleset]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (folder / "resnet" / "scaling.json").unlink(missing_ok=True)
    logs = [str(path) for path in sorted(Path(folder / "resnet").glob("*.txt"))]
    groups = {"resnet": str(folder / "resnet")}
    answer = run_process({"ruleset": ruleset, "logs": logs, "groups": groups})
    ours = answer["convergence"]["resnet"]
    assert done.stdout.strip().split("\n")[-1] == repr(
        [ours["passed"], ours["message"], ours["factor"]]
    )
