"""The whole score, on published results with known answers and on made-up campaigns."""

import json
import math
import random
import re

import pytest

from scoring.exits import InputError
from scoring.profile import load_profile
from scoring.prose import write_prose
from scoring.report.page import write_page
from scoring.score import score_folder


def score(folder, profile="mlperf", ruleset="4.0.0", use_window=False):
    return score_folder(folder, ruleset, load_profile(profile), use_window)


def is_same(one, other):
    if one is None or other is None:
        return one is other
    return math.isclose(one, other, rel_tol=1e-9)


def get_rules(document, severity):
    return {f["rule"] for f in document["findings"] if f["severity"] == severity}


@pytest.fixture(scope="module")
def scores(published, unpack_set, in_process):
    """Score every published set under every ruleset with an answer."""
    jobs = [
        (name, ruleset)
        for name, entry in published["sets"].items()
        for ruleset in entry["contract"]
    ]
    folders = {name: unpack_set(name) for name in published["sets"]}
    return {(name, ruleset): score(folders[name], ruleset=ruleset) for name, ruleset in jobs}


@pytest.mark.parametrize("kind", ["rules", "latency", "convergence", "runs"])
def test_published_sets(published, scores, kind):
    check = {
        "rules": check_rules,
        "latency": check_latency,
        "convergence": check_convergence,
        "runs": check_runs,
    }[kind]
    for (name, ruleset), result in scores.items():
        entry = published["sets"][name]
        check(result.describe(), entry, ruleset, f"{name} under {ruleset}")


def test_every_published_log_is_read_as_it_is(published, scores):
    for (name, ruleset), result in scores.items():
        entry = published["sets"][name]
        runs = result.verdicts[entry["benchmark"]].result.runs
        assert [run.name.split("/")[1] for run in runs] == list(entry["files"])
        for run in runs:
            check_facts(run, entry["files"][run.name.split("/")[1]], ruleset, f"{name}: {run.name}")


def check_facts(run, expected, ruleset, where):
    assert len(run.log.events) == expected["log_lines"], where
    assert len(run.log.problems_of("parse-error")) == expected["parse_errors"], where
    for event, key in ((run.start, "run_start_ms"), (run.stop, "run_stop_ms")):
        assert (event.time_ms if event else None) == expected[key], where
    init_minutes = (run.start.time_ms - run.initialisation.time_ms) / 60_000
    assert is_same(init_minutes, expected["init_minutes"]), where
    assert len(run.get_events("eval_accuracy")) == expected["evaluations"], where
    assert run.evaluations[-1].accuracy == expected["final_accuracy"], where
    assert run.global_batch_size == expected["global_batch_size"], where
    assert [str(seed) for seed in run.seeds] == expected["seeds"], where
    texts = " ".join(text for _, text in run.compliance_messages)
    reasons = expected.get("compliance_reasons", {}).get(ruleset, [])
    assert bool(texts) is bool(reasons), where
    assert all(reason.split(":")[0] in texts for reason in reasons), where


def test_the_stock_tools_judged_alike(published, scores):
    for (name, ruleset), result in scores.items():
        entry = published["sets"][name]
        stock = entry["mlperf_logging_4_1_68"][ruleset]
        benchmark = result.describe()["benchmarks"][entry["benchmark"]]
        where = f"{name} under {ruleset}"
        words = {True: "pass", False: "fail"}
        compliant = {r["file"].split("/")[1]: words[r["compliant"]] for r in benchmark["runs"]}
        assert compliant == stock["compliance_checker"], where
        assert benchmark["rcp"]["message"] == stock["rcp_checker"]["message"], where
        passed = stock["rcp_checker"]["result"] == "passed"
        assert (benchmark["rcp"]["result"] == "pass") is passed, where
        plain = stock["result_summarizer_first_run_minutes"]
        scaled = stock["result_summarizer_second_run_minutes"]
        if plain is not None:
            assert is_same(benchmark["latency_minutes"], plain), where
            assert is_same(benchmark["latency_minutes_rcp_normalized"], scaled), where


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
    for ours, theirs in (
        ("mean", "mean"),
        ("rcp_mean", "rcp_mean"),
        ("minimum_mean", "min_mean"),
        ("scaling_factor", "factor"),
    ):
        assert is_same(rcp[ours], expected[theirs]), f"{where}: {ours}"
    assert (rcp["record"] or "").startswith("between") or rcp["record"] == expected["rcp"], where


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
        for name in ("resnet", "bert"):
            latency = document["benchmarks"][name]["latency_minutes"]
            assert is_same(latency, pair[f"{name}_minutes"]), pair["note"]


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
        assert ours["first"] == theirs["first"]
        assert ours["files"] == [f"resnet/{file}" for file in theirs["runs"]]
    minutes = {run["file"]: run["minutes"] for run in document["runs"]}
    for file, length in zip(expected["order_by_launch"], expected["run_minutes"], strict=True):
        assert is_same(minutes[f"resnet/{file}"], length)
    assert document["valid"] is not expected["invalid_result"]
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


def converge_in_31_epochs(campaign):
    campaign.runs.pop("bert")
    for index, run in enumerate(campaign.runs["resnet"]):
        place = next(i for i, x in enumerate(run) if x["metadata"].get("first_epoch_num") == 32)
        stop = run[-1]
        del run[place:]
        run.find("eval_accuracy", -1)["value"] = (38_000 + index) / 50_000
        run.append({**stop, "time_ms": run[-1]["time_ms"] + 10})


def test_converging_too_fast_fails_the_convergence_test(campaign, tmp_path):
    converge_in_31_epochs(campaign)
    document = score(campaign.write(tmp_path)).describe()
    assert get_rules(document, "error") == {"rcp"}
    rcp = document["benchmarks"]["resnet"]["rcp"]
    assert (rcp["result"], rcp["mean"]) == ("fail", 31.0)
    assert document["benchmarks"]["resnet"]["latency_minutes_rcp_normalized"] is None


def test_an_eval_error_moves_no_point_of_convergence(campaign, tmp_path):
    converge_in_31_epochs(campaign)
    for run in campaign.runs["resnet"]:
        run.insert(-1, run.make("eval_error", 0.24, epoch_num=39))
    document = score(campaign.write(tmp_path)).describe()
    assert get_rules(document, "error") == {"rcp"}
    rcp = document["benchmarks"]["resnet"]["rcp"]
    assert (rcp["result"], rcp["mean"], rcp["stock_message"]) == ("fail", 31.0, "RCP found")


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


def test_a_byte_order_mark_is_named(campaign, tmp_path):
    folder = campaign.write(tmp_path)
    path = folder / "system.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    findings = score(folder).describe()["findings"]
    messages = {f["message"] for f in findings if f["rule"] == "system-json"}
    assert len(messages) == 1 and "without one" in messages.pop()


def test_sizes_with_a_point_count_the_samples(campaign, tmp_path):
    campaign.runs["resnet"][1].find("train_samples")["value"] = 1_281_167.0
    run = score(campaign.write(tmp_path)).describe()["benchmarks"]["resnet"]["runs"][1]
    assert run["samples_to_converge"] == 35 * 1_281_167


def test_packed_logs_are_named(campaign, tmp_path):
    folder = campaign.write(tmp_path)
    for number in (0, 3):
        path = folder / "resnet" / f"result_{number}.txt"
        path.rename(f"{path}.xz")
    findings = score(folder).describe()["findings"]
    assert [f["message"] for f in findings if f["rule"] == "run-count"] == [
        '3 runs, 5 are asked for; packed logs are not read: unpack "result_0.txt.xz" and 1 more'
    ]


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
