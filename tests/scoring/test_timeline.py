"""Where the time went adds up to the run."""

import json

import pytest

from scoring.log import parse_log
from scoring.report.timeline import measure_timeline
from scoring.run import Run


def make_run(campaign, benchmark, alter=lambda lines: None):
    lines = campaign.runs[benchmark][0]
    alter(lines)
    folder_text = b"".join(encode(line) for line in lines)
    return Run(benchmark, parse_log("x", folder_text))


def encode(line):
    return f":::MLLOG {json.dumps(line)}\n".encode()


def test_parts_add_up(campaign):
    run = make_run(campaign, "resnet")
    timeline = measure_timeline(run)
    assert timeline.initialisation == pytest.approx(50)
    assert timeline.first_interval == pytest.approx(27 + 0.2)
    assert timeline.evaluation == pytest.approx(9 * 2)
    total = timeline.first_interval + timeline.training + timeline.evaluation
    assert total == pytest.approx(run.minutes * 60)


def test_without_epochs_the_first_part_ends_with_the_first_evaluation(campaign):
    run = make_run(campaign, "resnet", lambda lines: lines.drop("epoch_stop"))
    assert measure_timeline(run).first_interval == pytest.approx(3 * 27 + 0.2)


def test_logs_without_evaluation_times(campaign):
    run = make_run(
        campaign, "bert", lambda lines: (lines.drop("eval_start"), lines.drop("eval_stop"))
    )
    timeline = measure_timeline(run)
    assert timeline.evaluation is None
    assert timeline.first_interval + timeline.training == pytest.approx(run.minutes * 60)


@pytest.mark.parametrize("key", ["run_start", "run_stop", "eval_accuracy"])
def test_incomplete_runs_have_none(campaign, key):
    assert measure_timeline(make_run(campaign, "bert", lambda lines: lines.drop(key))) is None


def test_evaluations_before_the_start_have_none(campaign):
    def alter(lines):
        lines.drop("eval_start")
        lines.find("eval_accuracy")["time_ms"] = 0

    assert measure_timeline(make_run(campaign, "bert", alter)) is None
