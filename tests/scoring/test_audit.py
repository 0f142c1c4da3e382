"""Every check finds the alteration it is for, and a sound campaign trips none of them."""

import json
import re
from pathlib import Path

import pytest

from scoring.audit import FINDINGS_LIMIT, audit_result
from scoring.audit.speed import find_published
from scoring.findings import SEVERITIES
from scoring.profile import load_profile
from scoring.submission import read_submission
from tests.scoring import altered_times, altered_values
from tests.scoring.altered_times import stop_twice
from tests.scoring.altered_values import list_hosts, set_all

SCORING = Path(__file__).parents[2] / "scoring"
ALTERATIONS = [*altered_times.ALTERATIONS, *altered_values.ALTERATIONS]


def audit(campaign, folder, profile="mlperf"):
    submission = read_submission(campaign.write(folder), load_profile(profile))
    return [f for result in submission.results.values() for f in audit_result(result)]


@pytest.mark.parametrize(("rule", "alter"), ALTERATIONS, ids=lambda x: getattr(x, "__name__", x))
def test_alteration_is_found(campaign, tmp_path, rule, alter):
    alter(campaign)
    found = [finding for finding in audit(campaign, tmp_path) if finding.rule == rule]
    assert found, f"{rule} does not see {alter.__name__}"
    for finding in found:
        assert finding.message
        assert finding.benchmark in ("resnet", "bert")
        if finding.line is not None:
            lines = (tmp_path / "fast4" / finding.file).read_bytes().split(b"\n")
            assert 1 <= finding.line <= len(lines)


def test_sound_campaign_trips_nothing(campaign, tmp_path):
    assert audit(campaign, tmp_path, "lp2bm") == []


def test_throughputs_of_bert_that_the_times_bear_out_trip_nothing(campaign, tmp_path):
    altered_times.bert_clock(campaign)
    assert "epoch-clock" not in {f.rule for f in audit(campaign, tmp_path)}


def test_one_system_makes_one_benchmark_after_the_other(campaign, tmp_path):
    for run in campaign.runs["bert"]:
        run.shift(campaign.runs["resnet"][4][-1]["time_ms"] - 1 - run.find("run_start")["time_ms"])
        break
    found = audit(campaign, tmp_path / "overlap", "lp2bm")
    overlaps = [f for f in found if f.rule == "runs-overlap"]
    assert [(f.file, "resnet/result_4.txt" in f.message) for f in overlaps] == [
        ("bert/result_0.txt", True)
    ]
    # A published pair may be of two systems.
    assert "runs-overlap" not in {f.rule for f in audit(campaign, tmp_path / "published")}


def find_audit_rules():
    """Give the slugs that the checks, and the reader whose problems they report, can name."""
    sources = [*(SCORING / "audit").glob("*.py"), SCORING / "log.py", SCORING / "run.py"]
    words = set(re.findall(r'"([a-z0-9-]+)"', "".join(path.read_text() for path in sources)))
    return words & set(SEVERITIES)


def test_every_audit_rule_has_an_alteration():
    elsewhere = {"not-a-demonstration", "planted-scaling", "file-names"}
    assert len(find_audit_rules()) > 50
    assert find_audit_rules() - elsewhere == {rule for rule, _ in ALTERATIONS}


def test_findings_point_at_the_line(campaign, tmp_path):
    stop_twice(campaign)
    finding = next(f for f in audit(campaign, tmp_path) if f.rule == "marker-twice")
    path = tmp_path / "fast4" / finding.file
    assert finding.file == "bert/result_4.txt"
    assert b'"run_stop"' in path.read_bytes().split(b"\n")[finding.line - 1]


def test_scaling_file_and_strange_names(campaign, tmp_path):
    folder = campaign.write(tmp_path)
    (folder / "resnet" / "scaling.json").write_text('{"scaling_factor": 0.5}')
    (folder / "bert" / "result_0.txt").rename(folder / "bert" / "result_job7_0.txt")
    submission = read_submission(folder, load_profile("mlperf"))
    rules = {f.rule for result in submission.results.values() for f in audit_result(result)}
    assert rules == {"planted-scaling", "file-names"}


def test_large_batches_may_use_another_momentum(campaign, tmp_path):
    set_all(campaign, "resnet", "global_batch_size", 32_256)
    set_all(campaign, "resnet", "lars_opt_momentum", 0.95)
    assert audit(campaign, tmp_path) == []


def test_the_optimizer_of_bert_may_be_written_large(campaign, tmp_path):
    set_all(campaign, "bert", "opt_name", "LAMB")
    assert audit(campaign, tmp_path) == []


def test_procurement_wants_the_nodes_stated(campaign, tmp_path):
    campaign.system = None
    for benchmark in campaign.runs:
        set_all(campaign, benchmark, "submission_platform", "fast")
    rules = {finding.rule for finding in audit(campaign, tmp_path, "lp2bm")}
    assert rules == {"node-count"}


def get_named_runs(findings, rule):
    return {(finding.file, finding.line) for finding in findings if finding.rule == rule}


def test_hosts_are_counted_where_nodes_are_asked_for(campaign, tmp_path):
    list_hosts(campaign)
    assert audit(campaign, tmp_path / "four", "lp2bm") == []
    alter = campaign.runs["resnet"][3].find("number_of_nodes")["metadata"]
    alter["hosts"] = ["n1", "n2", "n3"]
    found = audit(campaign, tmp_path / "three", "lp2bm")
    assert get_named_runs(found, "node-count") == {("resnet/result_3.txt", 1)}
    assert get_named_runs(found, "hosts-differ") == {("resnet/result_3.txt", 1)}
    assert len(found) == 2


def test_one_machine_may_stand_for_four_nodes_in_the_demonstration_alone(demonstration, tmp_path):
    list_hosts(demonstration, hosts=("laptop",))
    for runs in demonstration.runs.values():
        for run in runs:
            run.find("number_of_nodes")["value"] = 4
    assert audit(demonstration, tmp_path / "demo", "demo") == []
    real = audit(demonstration, tmp_path / "real", "lp2bm")
    assert len(get_named_runs(real, "node-count")) == 15


@pytest.mark.parametrize("stated", ["8 nodes", "0", True, ["4"], 4.5])
def test_procurement_wants_the_described_nodes_as_a_number(campaign, tmp_path, stated):
    campaign.system["number_of_nodes"] = stated
    found = audit(campaign, tmp_path, "lp2bm")
    assert [(f.rule, f.file) for f in found] == [("node-count", "system.json")] * 2
    assert "state the number alone" in found[0].message


@pytest.mark.parametrize("value", ["8", 8.0, "eight", None, True, [4]])
def test_a_node_count_of_another_kind_counts(campaign, tmp_path, value):
    list_hosts(campaign)
    for run in campaign.runs["bert"]:
        run.find("number_of_nodes")["value"] = value
    found = audit(campaign, tmp_path, "lp2bm")
    assert len(get_named_runs(found, "node-count")) == len(found) == 10


def test_node_counts_may_be_text(campaign, tmp_path):
    campaign.system["number_of_nodes"] = 4.0
    list_hosts(campaign)
    for run in campaign.runs["bert"]:
        run.find("number_of_nodes")["value"] = "4"
    assert audit(campaign, tmp_path, "lp2bm") == []


@pytest.mark.parametrize(
    ("name", "highest"),
    [
        ("NVIDIA H100-SXM5-80GB", 1066),
        ("NVIDIA H100 PCIe", 653),
        ("Intel Gaudi 2", 383),
        ("Habana Gaudi2 HL-225H", 383),
        ("Intel Gaudi 3 HL-325L", None),
    ],
)
def test_published_speeds_are_those_of_the_accelerator(name, highest):
    assert find_published(name, "bert") == highest


def test_accelerators_in_the_platform_are_no_nodes(campaign, tmp_path):
    set_all(campaign, "bert", "submission_platform", "64 x NVIDIA A100")
    assert audit(campaign, tmp_path, "mlperf") == []


def test_a_name_of_two_lines_makes_no_message_of_two(campaign, tmp_path):
    campaign.runs["resnet"][1] = campaign.runs["resnet"][0]
    folder = campaign.write(tmp_path)
    for number in range(2):
        path = folder / "resnet" / f"result_{number}.txt"
        path.rename(folder / "resnet" / f"result_{number}\n\x1b[2J.txt")
    submission = read_submission(folder, load_profile("mlperf"))
    found = [f for result in submission.results.values() for f in audit_result(result)]
    assert {"same-run-twice", "file-names"} <= {finding.rule for finding in found}
    assert any("result_" in f.message and "u{a}" in f.message for f in found)
    assert all(finding.message.isprintable() for finding in found)


def test_an_accelerator_without_published_figures_may_be_fast(campaign, tmp_path):
    campaign.system["accelerator_model_name"] = "Unheard-of 9"
    campaign.system["accelerators_per_node"] = "1"
    assert {finding.rule for finding in audit(campaign, tmp_path)} == set()


def test_an_accuracy_just_below_the_target_is_shown_whole(campaign, tmp_path):
    campaign.runs["resnet"][1].find("eval_accuracy", 8)["value"] = 0.7589999999
    found = [f for f in audit(campaign, tmp_path) if f.rule == "success-below-target"]
    assert "0.7589999999, target 0.759" in found[0].message


def test_another_rank_may_log_the_same_accuracy(campaign, tmp_path):
    for place in (3, 8):
        run = campaign.runs["resnet"][place // 4]
        line = run.find("eval_accuracy", place)
        run.insert_after("eval_accuracy", dict(line, time_ms=line["time_ms"] + 1), place=place)
    assert audit(campaign, tmp_path) == []


def test_prefixed_and_interleaved_lines_are_read(campaign, tmp_path):
    for run in campaign.runs["resnet"]:
        run.insert(3, b"step 17 \x1b[32m loss 2.3\n")
        line = b' 12: junk :::MLLOG {"broken" [3] :::MLLOG '
        run[10] = line + b":::MLLOG ".join(encode(run[10]).split(b":::MLLOG ")[1:])
    assert audit(campaign, tmp_path) == []


def test_one_fault_many_times_over_is_told_a_few_times(campaign, tmp_path):
    run = campaign.runs["resnet"][1]
    run.insert_after("run_start", *[run.make("run_start") for _ in range(5000)])
    found = [f for f in audit(campaign, tmp_path) if f.rule == "marker-twice"]
    assert len(found) == FINDINGS_LIMIT
    assert found[-1].message.endswith("(and 4980 more like it)")
    assert "more like it" not in found[-2].message


def encode(line):
    return b":::MLLOG " + json.dumps(line).encode() + b"\r\n"
