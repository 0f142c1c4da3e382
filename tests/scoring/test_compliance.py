"""The stock checkers never see a log that could make them run code, and one stops no other."""

import pytest

from scoring.compliance import StockProcess, check_compliance
from scoring.exits import InputError
from scoring.profile import load_profile
from scoring.submission import read_submission


def check(campaign, folder):
    submission = read_submission(campaign.write(folder), load_profile("mlperf"))
    runs = submission.results["resnet"].runs
    with StockProcess() as process:
        verdict = check_compliance(process, "4.0.0", runs, {"resnet": runs})
    return runs, verdict


@pytest.fixture
def resnet(campaign):
    campaign.runs.pop("bert")
    return campaign


def test_values_that_name_rule_files_are_compared_first(resnet, tmp_path):
    values = [
        ("submission_division", "../../evil/closed"),
        ("submission_benchmark", "../x"),
        ("opt_name", "../../../../tmp/evil"),
        ("opt_name", ["lars"]),
    ]
    for run, (key, value) in zip(resnet.runs["resnet"], values, strict=False):
        run.insert_after(key, {**run.find(key), "value": value})
    runs, verdict = check(resnet, tmp_path)
    assert [run.compliant for run in runs] == [False, False, False, False, True]
    assert all("not one of" in run.compliance_messages[0][1] for run in runs[:4])
    # A group with a log that may not be handed over is not handed over either.
    assert verdict.convergence == {}


def test_a_planted_rule_file_is_not_executed(resnet, tmp_path):
    marker = tmp_path / "executed"
    rules = tmp_path / "closed_evil.yaml"
    rules.write_text(f"- BEGIN:\n    CODE: \"open('{marker}', 'w')\"\n")
    for run in resnet.runs["resnet"]:
        run.find("submission_benchmark")["value"] = f"../../../../../..{tmp_path}/closed_evil"
        run.find("opt_name")["value"] = f"x/../../../../../..{tmp_path}/closed_evil"
    runs, _ = check(resnet, tmp_path / "logs")
    assert not any(run.compliant for run in runs)
    assert not marker.exists()


def test_failures_name_the_line(resnet, tmp_path):
    run = resnet.runs["resnet"][0]
    run.insert(0, b"a line of other output\n")
    run.find("lars_opt_end_learning_rate")["value"] = 0.5
    resnet.runs["resnet"][1].find("eval_accuracy")["value"] = None
    resnet.runs["resnet"][2].drop("lars_opt_momentum")
    resnet.runs["resnet"][3].clear()
    runs, verdict = check(resnet, tmp_path)
    assert [r.compliant for r in runs] == [False, False, False, False, True]
    line, text = runs[0].compliance_messages[0]
    assert "lars_opt_end_learning_rate" in text and "0.0001" in text
    written = (tmp_path / "fast4" / "resnet" / "result_0.txt").read_bytes().split(b"\n")
    assert b"lars_opt_end_learning_rate" in written[line - 1]
    assert "stopped with TypeError" in runs[1].compliance_messages[0][1]
    assert "lars_opt_momentum" in runs[2].compliance_messages[0][1]
    assert runs[3].compliance_messages == []
    assert verdict.version


def test_nothing_is_written_beside_the_logs(resnet, tmp_path):
    folder = tmp_path / "fast4"
    check(resnet, tmp_path)
    names = {path.name for path in folder.rglob("*")}
    assert names == {"resnet", "system.json", *(f"result_{place}.txt" for place in range(5))}


def test_a_process_that_fails_is_one_sentence():
    with StockProcess() as process, pytest.raises(InputError, match="failed with status 1"):
        process.ask({"logs": []})
