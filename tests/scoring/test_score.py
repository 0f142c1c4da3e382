"""The whole score, on published results with known answers and on made-up campaigns."""

import json
import logging
import math
import random
import re

import pytest

from scoring.exits import InputError
from scoring.profile import load_profile
from scoring.prose import write_prose
from scoring.report.page import write_page
from scoring.score import score_folder
from scoring.stock_process import answer_job


def score(folder, profile="mlperf", ruleset="4.0.0", use_window=False):
    return score_folder(folder, ruleset, load_profile(profile), use_window)


def is_same(one, other, absolute=0.0):
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=absolute)


def get_rules(document, severity):
    return {f["rule"] for f in document["findings"] if f["severity"] == severity}


class InProcess:
    """Answers jobs in this process, in the place of the real one."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, job):
        return answer_job(job)


@pytest.fixture(scope="module")
def in_process():
    """Spare each score the process of its own, which would take a second to start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scoring.score.StockProcess", InProcess)
        yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def documents(published, unpack_set, in_process):
    """Score every published set under every ruleset with an answer."""
    jobs = [
        (name, ruleset)
        for name, entry in published["sets"].items()
        for ruleset in entry["contract"]
    ]
    folders = {name: unpack_set(name) for name in published["sets"]}
    scores = [score(folders[name], ruleset=ruleset).describe() for name, ruleset in jobs]
    return dict(zip(jobs, scores, strict=True))


@pytest.mark.parametrize("kind", ["rules", "latency", "convergence", "runs"])
def test_published_sets(published, documents, kind):
    check = {
        "rules": check_rules,
        "latency": check_latency,
        "convergence": check_convergence,
        "runs": check_runs,
    }[kind]
    for (name, ruleset), document in documents.items():
        entry = published["sets"][name]
        check(document, entry, ruleset, f"{name} under {ruleset}")


def check_rules(document, entry, ruleset, where):
    contract = entry["contract"][ruleset]
    assert document["valid"] is contract["valid"], where
    for severity in ("error", "warning", "note"):
        expected = set(contract[f"{severity}_rules"])
        assert get_rules(document, severity) == expected, f"{where}: {severity}"
    for rule, details in entry["flags"].items():
        named = {file for detail in details for file in re.findall(r"result_\d+\.txt", detail)}
        found = {f["file"] for f in document["findings"] if f["rule"] == rule}
        assert not named or found == {f"{entry['benchmark']}/{file}" for file in named}, where


def check_latency(document, entry, ruleset, where):
    contract = entry["contract"][ruleset]
    benchmark = document["benchmarks"][entry["benchmark"]]
    for key in ("latency_minutes", "latency_minutes_rcp_normalized"):
        assert is_same(benchmark[key], contract[key]), f"{where}: {key}"
    if contract["latency_minutes"] is None:
        return
    dropped = {run["dropped"]: run["file"] for run in benchmark["runs"] if run["dropped"]}
    for word in ("fastest", "slowest"):
        assert dropped[word] == f"{entry['benchmark']}/{entry[f'dropped_{word}']}", where


def check_convergence(document, entry, ruleset, where):
    rcp = document["benchmarks"][entry["benchmark"]]["rcp"]
    expected = entry["rcp"][ruleset]
    assert rcp["result"] == entry["contract"][ruleset]["rcp_result"], where
    assert rcp["message"] == rcp["stock_message"] == expected["msg"], where
    slack = 1e-4 if entry["benchmark"] == "resnet" else 1e-3
    for ours, theirs, absolute in (
        ("mean", "mean", 0.0),
        ("rcp_mean", "rcp_mean", 0.0),
        ("minimum_mean", "min_mean", slack),
        ("scaling_factor", "factor", 0.0),
    ):
        assert is_same(rcp[ours], expected[theirs], absolute), f"{where}: {ours}"


def check_runs(document, entry, ruleset, where):
    benchmark = document["benchmarks"][entry["benchmark"]]
    assert benchmark["global_batch_size"] == entry["global_batch_size"]
    unit = "epochs" if entry["benchmark"] == "resnet" else "samples"
    for run in benchmark["runs"]:
        expected = entry["files"][run["file"].split("/")[1]]
        where_run = f"{where}: {run['file']}"
        assert is_same(run["minutes"], expected["minutes"]), where_run
        assert run["status"] == expected["status"], where_run
        assert run["converged"] is expected["converged"], where_run
        assert run["compliant"] is (expected["compliance"][ruleset] == "pass"), where_run
        assert run[f"{unit}_to_converge"] == expected["converged_at"], where_run


def test_published_pairs(published, unpack_set, in_process):
    pairs = published["scores"]
    folders = [unpack_set(pair["resnet"], pair["bert"]) for pair in pairs]
    for pair, folder in zip(pairs, folders, strict=True):
        document = score(folder).describe()
        assert document["valid"] is pair["valid"], pair["note"]
        assert is_same(document["score"], pair["score"]), pair["note"]
        assert is_same(document["score_rcp_normalized"], pair["score_rcp_normalized"])


@pytest.mark.parametrize("name", ["ten-runs-all-converged", "nine-runs-odd-windows"])
def test_more_runs_than_needed(published, unpack_group, name):
    expected = published["m_greater_than_n"][name]
    folder = unpack_group(name)
    document = score(folder, use_window=True).describe()["benchmarks"]["resnet"]
    window = document["window"]
    assert is_same(document["latency_minutes"], expected["expected_minutes_if_slower_is_taken"])
    assert is_same(window["median_minutes"], expected["median_minutes"])
    assert window["first"] == expected["expected_first_if_slower_is_taken"]
    assert window["files"] == [f"resnet/{f}" for f in expected["windows"][window["first"]]["runs"]]
    for ours, theirs in zip(window["windows"], expected["windows"], strict=True):
        assert is_same(ours["latency_minutes"], theirs["minutes"])
    without = score(folder).describe()
    assert "run-count" in get_rules(without, "error")
    assert without["benchmarks"]["resnet"]["latency_minutes"] is None


def test_four_nodes_are_asked_for_by_the_procurement(published, unpack_set):
    four = unpack_set("v3.0/Dell/4xXE8545x4A100-SXM-80GB/resnet")
    eight = unpack_set("v4.0/NVIDIA/eos_n8_ngc24.04_mxnet/resnet")
    assert score(four, "lp2bm").valid
    document = score(eight, "lp2bm").describe()
    assert get_rules(document, "error") == {"node-count"}
    assert score(eight).valid


def test_made_up_campaign_is_valid(campaign, tmp_path):
    result = score(campaign.write(tmp_path), "lp2bm")
    document = result.describe()
    assert document["findings"] == []
    resnet, bert = (document["benchmarks"][name] for name in ("resnet", "bert"))
    plain = 7.19 / resnet["latency_minutes"] + 9.05 / bert["latency_minutes"]
    assert is_same(document["score"], plain)
    assert resnet["rcp"]["scaling_factor"] == pytest.approx(35.153846 / 35, abs=1e-6)
    assert document["score_rcp_normalized"] < document["score"]


def test_one_aborted_run_is_the_slowest_and_two_are_too_many(campaign, tmp_path):
    campaign.runs.pop("bert")
    for run in campaign.runs["resnet"][:2]:
        run.find("eval_accuracy", -1)["value"] = 0.7586
        run.find("run_stop")["metadata"]["status"] = "aborted"
        (tmp_path / str(id(run))).mkdir()
        document = score(campaign.write(tmp_path / str(id(run)))).describe()
        if run is campaign.runs["resnet"][0]:
            assert document["valid"]
            assert get_rules(document, "warning") == {"one-unusable-run"}
            assert document["benchmarks"]["resnet"]["runs"][0]["dropped"] == "slowest"
    assert get_rules(document, "error") == {"too-many-unusable", "rcp"}
    assert document["benchmarks"]["resnet"]["latency_minutes"] is None
    assert document["score"] is None


def test_converging_too_fast_fails_the_convergence_test(campaign, tmp_path):
    campaign.runs.pop("bert")
    for index, run in enumerate(campaign.runs["resnet"]):
        place = next(i for i, x in enumerate(run) if x["metadata"].get("first_epoch_num") == 32)
        stop = run[-1]
        del run[place:]
        run.find("eval_accuracy", -1)["value"] = (38_000 + index) / 50_000
        run.append({**stop, "time_ms": run[-1]["time_ms"] + 10})
    document = score(campaign.write(tmp_path)).describe()
    assert get_rules(document, "error") == {"rcp"}
    rcp = document["benchmarks"]["resnet"]["rcp"]
    assert (rcp["result"], rcp["mean"]) == ("fail", 31.0)
    assert document["benchmarks"]["resnet"]["latency_minutes_rcp_normalized"] is None


def test_a_batch_beyond_all_reference_points_is_missing(campaign, tmp_path):
    campaign.runs.pop("bert")
    for run in campaign.runs["resnet"]:
        run.find("global_batch_size")["value"] = 80_000
    document = score(campaign.write(tmp_path)).describe()
    assert document["benchmarks"]["resnet"]["rcp"]["result"] == "missing"
    assert get_rules(document, "error") == {"rcp"}


def test_missing_runs_are_counted(campaign, tmp_path):
    campaign.runs["resnet"].pop()
    document = score(campaign.write(tmp_path)).describe()
    assert get_rules(document, "error") == {"run-count"}
    assert document["benchmarks"]["bert"]["valid"]
    assert document["score"] is None


def test_unreadable_files_do_not_hide_the_others(campaign, tmp_path):
    campaign.runs.pop("bert")
    campaign.runs["resnet"][3][:] = [b"\0" * 5000, b'\n:::MLLOG {"key": "run_st']
    document = score(campaign.write(tmp_path)).describe()
    expected = {"parse-error", "nul-bytes", "one-unusable-run"}
    assert get_rules(document, "warning") == expected
    assert document["valid"]
    assert document["benchmarks"]["resnet"]["runs"][4]["compliant"]


def test_demonstration(demonstration, tmp_path):
    folder = demonstration.write(tmp_path)
    document = score(folder, "demo").describe()
    assert document["findings"] == []
    assert document["valid"] and document["demonstration"]
    assert document["score"] is not None
    assert document["score_rcp_normalized"] is None
    for benchmark in document["benchmarks"].values():
        assert benchmark["rcp"]["result"] == "missing"
        assert benchmark["latency_minutes_rcp_normalized"] is None
    as_real = score(folder).describe()
    assert "demonstration" in get_rules(as_real, "error")
    assert as_real["score"] is None


def test_real_logs_are_no_demonstration(campaign, tmp_path):
    document = score(campaign.write(tmp_path), "demo").describe()
    assert "not-a-demonstration" in get_rules(document, "error")


HOSTILE = (None, True, -1, 0, 1e308, 10**39, "x", "7", [], {"a": [None]})


@pytest.mark.parametrize("start", range(3))
def test_no_damage_to_a_log_stops_the_scoring(campaign, tmp_path, start):
    generator = random.Random(start)
    for runs in campaign.runs.values():
        for run in runs:
            for line in generator.sample(run, 4):
                member = generator.choice(("value", "time_ms", "metadata", "key", "epoch_num"))
                place = line["metadata"] if member == "epoch_num" else line
                place[member] = generator.choice(HOSTILE)
    campaign.system.update({key: generator.choice(HOSTILE) for key in campaign.system})
    result = score(campaign.write(tmp_path))
    assert '"valid": false' in json.dumps(result.describe(), allow_nan=False)
    assert "NOT VALID" in write_prose(result)
    assert "NOT VALID" in write_page(result)


@pytest.mark.parametrize("value", HOSTILE, ids=repr)
def test_no_value_of_a_key_stops_the_scoring(campaign, tmp_path, value):
    campaign.runs["bert"] = campaign.runs["bert"][:3]
    keys = {line["key"] for runs in campaign.runs.values() for line in runs[0]}
    for place, key in enumerate(sorted(keys)):
        for runs in campaign.runs.values():
            for line in runs[place % len(runs)]:
                if line["key"] == key:
                    line["value"] = value
    assert json.dumps(score(campaign.write(tmp_path)).describe(), allow_nan=False)


def test_rulesets_without_the_benchmark_are_refused(campaign, tmp_path):
    folder = campaign.write(tmp_path)
    for ruleset in ("6.1.0", "0.6.0", "../4.0.0", "4.1.0", ""):
        with pytest.raises(InputError, match="no such ruleset with resnet and bert"):
            score(folder, ruleset=ruleset)


@pytest.mark.parametrize("ruleset", ["1.0.0", "5.0.0"])
def test_other_rulesets_are_offered(campaign, tmp_path, ruleset):
    campaign.runs.pop("resnet")
    assert score(campaign.write(tmp_path), ruleset=ruleset).describe()["ruleset"] == ruleset
