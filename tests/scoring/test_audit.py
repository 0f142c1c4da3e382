"""Every check finds the alteration it is for, and a sound campaign trips none of them."""

import copy
import json

import pytest

from scoring.audit import audit_result
from scoring.findings import SEVERITIES
from scoring.profile import load_profile
from scoring.submission import read_submission

MINUTE_MS = 60_000


def audit(campaign, folder, profile="mlperf"):
    submission = read_submission(campaign.write(folder), load_profile(profile))
    return [f for result in submission.results.values() for f in audit_result(result)]


def set_all(campaign, benchmark, key, value):
    for run in campaign.runs[benchmark]:
        for line in run:
            if line["key"] == key:
                line["value"] = value


def replay_run_start(c):
    c.runs["resnet"][1].insert_after("run_start", c.runs["resnet"][1].make("run_start", time_ms=0))
    run = c.runs["resnet"][1]
    run.find("run_start", 1)["time_ms"] = run.find("block_start", 2)["time_ms"]


def stop_twice(c):
    run = c.runs["bert"][4]
    early = copy.deepcopy(run[-1])
    early["time_ms"] -= 5 * MINUTE_MS
    run.insert(-1, early)


def init_stop_twice(c):
    run = c.runs["resnet"][1]
    run.insert_after("init_stop", copy.deepcopy(run.find("init_stop")))


def two_runs_in_a_file(c):
    c.runs["resnet"][0].extend(copy.deepcopy(c.runs["resnet"][1]))


def same_run(c):
    run = copy.deepcopy(c.runs["resnet"][1])
    run.find("seed")["value"] = 77
    c.runs["resnet"][3] = run


def same_curve(c):
    run = copy.deepcopy(c.runs["bert"][1])
    run.find("seed")["value"] = 77
    run.shift(86_400_000)
    for place in range(17):
        run.find("eval_accuracy", place)["time_ms"] += place
    c.runs["bert"][3] = run


def shifted_copy_with_other_accuracies(c):
    run = copy.deepcopy(c.runs["bert"][1])
    run.find("seed")["value"] = 77
    run.shift(86_400_000)
    for place in range(17):
        run.find("eval_accuracy", place)["value"] += 1e-6
    c.runs["bert"][3] = run


def evaluation_after_stop(c):
    run = c.runs["bert"][6]
    run.find("eval_accuracy", 16)["time_ms"] += 69 * MINUTE_MS


def evaluation_before_start(c):
    run = c.runs["resnet"][2]
    run.find("eval_accuracy", 0)["time_ms"] = run.find("run_start")["time_ms"] - 10


def epochs_before_start(c):
    run = c.runs["resnet"][2]
    run.find("run_start")["time_ms"] = run.find("epoch_start", 1)["time_ms"]


def other_batch(c):
    c.runs["resnet"][4].find("global_batch_size")["value"] = 1632


def setting(benchmark, key, value, index=2):
    def alter(c):
        c.runs[benchmark][index].find(key)["value"] = value

    return alter


def every(benchmark, key, value):
    return lambda c: set_all(c, benchmark, key, value)


def setting_missing_in_one(c):
    c.runs["resnet"][0].drop("model_bn_span")


def seed_of_another_line(c):
    seed = c.runs["resnet"][1].find("seed")
    seed["value"] = c.runs["resnet"][2].find("seed")["value"]
    seed["metadata"]["lineno"] += 1


def no_seed(c):
    c.runs["bert"][9].drop("seed")


def sgd(key, value):
    def alter(c):
        for run in c.runs["resnet"]:
            run.find("opt_name")["value"] = "sgd"
            good = {
                "sgd_opt_base_learning_rate": 1.5,
                "sgd_opt_end_learning_rate": 0.0001,
                "sgd_opt_weight_decay": 0.0002,
                "sgd_opt_learning_rate_decay_poly_power": 2,
                "sgd_opt_learning_rate_decay_steps": 1000,
                "sgd_opt_momentum": 0.9,
                "opt_learning_rate_warmup_epochs": 2,
            }
            good[key] = value
            run.insert_after("opt_name", *(run.make(k, v, 0) for k, v in good.items()))
            for line in run:
                if line["key"] in good:
                    line["time_ms"] = run.find("opt_name")["time_ms"]

    return alter


def renumber_evaluations(c, first_points):
    for run in c.runs["resnet"]:
        for place, point in enumerate(first_points):
            for key in ("eval_start", "eval_stop", "eval_accuracy"):
                run.find(key, place)["metadata"]["epoch_num"] = point


def evaluate_late(c):
    renumber_evaluations(c, range(5, 38, 4))


def evaluate_every_epoch_at_the_end(c):
    renumber_evaluations(c, (3, 7, 11, 15, 19, 23, 27, 31, 33))


def skip_an_evaluation(c):
    run = c.runs["resnet"][0]
    run.remove(run.find("eval_accuracy", 4))


def bert_points(step):
    def alter(c):
        for place in range(17):
            line = c.runs["bert"][5].find("eval_accuracy", place)
            line["metadata"]["epoch_num"] = step * (place + 1)
        c.runs["bert"][5].find("train_samples")["value"] = step * 17

    return alter


def bert_skips_one(c):
    run = c.runs["bert"][5]
    run.remove(run.find("eval_accuracy", 8))


def bert_one_point_moved(c):
    run = c.runs["bert"][5]
    run.find("eval_accuracy", 8)["metadata"]["epoch_num"] += 60_000


def evaluates_initial_weights(c):
    run = c.runs["bert"][5]
    line = copy.deepcopy(run.find("eval_accuracy"))
    line.update(value=0.01, time_ms=run.find("run_start")["time_ms"] + 100)
    line["metadata"]["epoch_num"] = 0
    run.insert_after("block_start", line)


def open_division(c):
    c.runs["bert"][0].find("submission_division")["value"] = "open"


def open_description(c):
    c.system["division"] = "open"


def long_initialisation(c):
    run = c.runs["resnet"][0]
    run.find("init_start")["time_ms"] = run.find("run_start")["time_ms"] - 30 * MINUTE_MS


def late_start(c):
    c.runs["resnet"][0].find("init_stop")["time_ms"] -= 61_000
    c.runs["resnet"][0].find("init_start")["time_ms"] -= 61_000


def evaluations_swap_times(c):
    run = c.runs["bert"][3]
    one, other = run.find("eval_accuracy", 5), run.find("eval_accuracy", 6)
    one["time_ms"], other["time_ms"] = other["time_ms"], one["time_ms"]


def wrong_folder(c):
    c.runs["resnet"][2].find("submission_benchmark")["value"] = "bert"


def other_nodes_in_platform(c):
    set_all(c, "resnet", "submission_platform", "8xfast")


def other_nodes_in_description(c):
    c.system["number_of_nodes"] = 2


def other_nodes_in_sysjson(c):
    c.runs["bert"][2].insert(0, b':::SYSJSON {"number_of_nodes": "16"}\n')


def other_hosts_in_log(c):
    run = c.runs["bert"][2]
    run.insert(0, run.make("number_of_nodes", 3, run[0]["time_ms"]))


def success_below_target(c):
    c.runs["resnet"][2].find("eval_accuracy", 8)["value"] = 37_900 / 50_000


def target_without_success(c):
    c.runs["resnet"][2].find("run_stop")["metadata"]["status"] = "aborted"


def epoch_clock(c):
    c.runs["resnet"][1].find("tracked_stats", 20)["value"]["throughput"] *= 0.97


def fast_stretch(c):
    run = c.runs["bert"][1]
    gain = 14_000
    for line in run[run.index(run.find("eval_start", 9)) :]:
        line["time_ms"] -= gain


def fast_run(c):
    run = c.runs["resnet"][1]
    start = run.find("run_start")["time_ms"]
    for line in run:
        if line["time_ms"] > start:
            line["time_ms"] = round(start + (line["time_ms"] - start) * 0.93)
    run.drop("tracked_stats")


def clock_back(c):
    run = c.runs["resnet"][1]
    run.find("epoch_stop", 4)["time_ms"] -= 29_000


def other_train_samples(c):
    c.runs["bert"][1].find("train_samples")["value"] = 3_001_600


def odd_accuracy(c):
    c.runs["resnet"][1].find("eval_accuracy", 3)["value"] = 0.5812345


def overlap(c):
    run = c.runs["resnet"][1]
    run.shift(c.runs["resnet"][0][-1]["time_ms"] - 1000 - run.find("run_start")["time_ms"])


def no_stop(c):
    c.runs["resnet"][3].drop("run_stop")


def broken_line(c):
    c.runs["resnet"][3].append(b':::MLLOG {"key": "run_st\n')


def empty_file(c):
    c.runs["bert"][3].clear()


def nul_bytes(c):
    c.runs["bert"][3].insert(0, b"\0\0\0\n")


def accuracy_nan(c):
    c.runs["bert"][3].find("eval_accuracy", 2)["value"] = float("nan")


def accuracy_text(c):
    c.runs["bert"][3].find("eval_accuracy", 2)["value"] = "0.5"


def time_null(c):
    c.runs["bert"][3].find("eval_accuracy", 2)["time_ms"] = None


def foreign_bytes(c):
    c.runs["bert"][3].insert(0, "Zürich\n".encode("latin-1"))


def no_cache_clear(c):
    c.runs["bert"][3].drop("cache_clear")


def early_cache_clear(c):
    c.runs["bert"][3].find("cache_clear")["time_ms"] -= 30 * MINUTE_MS


def work_after_stop(c):
    run = c.runs["resnet"][3]
    run.append(run.make("epoch_start", None, run[-1]["time_ms"] + 2000, epoch_num=36))


def evaluates_on(c):
    c.runs["resnet"][3].find("eval_accuracy", 7)["value"] = 38_100 / 50_000


def block_gap(c):
    c.runs["resnet"][3].find("block_start", 4)["metadata"]["first_epoch_num"] = 17


def last_block_longer(c):
    c.runs["resnet"][3].find("block_start", 8)["metadata"]["epoch_count"] = 5


def epoch_skipped(c):
    run = c.runs["resnet"][3]
    run.remove(run.find("epoch_start", 10))


def days_apart(c):
    c.runs["resnet"][4].shift(8 * 86_400_000)


def odd_accelerators(c):
    c.system["accelerators_per_node"] = "7"


def other_platform(c):
    c.runs["resnet"][4].find("submission_platform")["value"] = "4xfaster"


def pause(c):
    c.runs["resnet"][4].shift(3_600_000)


def swapped_files(c):
    runs = c.runs["resnet"]
    runs[0], runs[1] = runs[1], runs[0]


def described_otherwise(key, value):
    def alter(c):
        c.system[key] = value

    return alter


def too_fast_for_the_accelerator(c):
    c.system["accelerators_per_node"] = "1"


def a_demonstration(c):
    run = c.runs["resnet"][0]
    run.insert(0, run.make("demonstration", True, run[0]["time_ms"]))


ALTERATIONS = [
    ("marker-twice", replay_run_start),
    ("marker-twice", stop_twice),
    ("marker-twice", init_stop_twice),
    ("marker-twice", two_runs_in_a_file),
    ("same-run-twice", same_run),
    ("same-curve-twice", same_curve),
    ("same-run-twice", shifted_copy_with_other_accuracies),
    ("eval-outside-run", evaluation_after_stop),
    ("eval-outside-run", evaluation_before_start),
    ("work-before-run-start", epochs_before_start),
    ("gbs-differs", other_batch),
    ("hp-differs", setting("resnet", "lars_opt_base_learning_rate", 10.6)),
    ("hp-differs", setting("bert", "opt_lamb_beta_2", 0.99)),
    ("hp-differs", setting_missing_in_one),
    ("same-seed", seed_of_another_line),
    ("code-line-differs", seed_of_another_line),
    ("no-seed", no_seed),
    ("hp-table", every("resnet", "lars_opt_momentum", 0.95)),
    ("hp-table", every("resnet", "lars_opt_weight_decay", 0.00006)),
    ("hp-table", every("resnet", "lars_opt_end_learning_rate", 0.001)),
    ("hp-table", every("resnet", "lars_epsilon", 1e-5)),
    ("hp-table", every("resnet", "opt_name", "adam")),
    ("hp-table", sgd("sgd_opt_momentum", 0.8)),
    ("hp-table", sgd("sgd_opt_base_learning_rate", 1.5005)),
    ("hp-table", sgd("opt_learning_rate_warmup_epochs", 2.5)),
    ("cadence-resnet", evaluate_late),
    ("cadence-resnet", evaluate_every_epoch_at_the_end),
    ("cadence-resnet", skip_an_evaluation),
    ("cadence-bert", bert_points(175_000)),
    ("cadence-bert", bert_points(140_000)),
    ("cadence-bert", bert_skips_one),
    ("cadence-bert", bert_one_point_moved),
    ("cadence-bert", evaluates_initial_weights),
    ("division", open_division),
    ("division", open_description),
    ("init-over-30min", long_initialisation),
    ("late-run-start", late_start),
    ("eval-time-order", evaluations_swap_times),
    ("identity", wrong_folder),
    ("node-count", other_nodes_in_platform),
    ("node-count", other_nodes_in_description),
    ("node-count", other_nodes_in_sysjson),
    ("node-count", other_hosts_in_log),
    ("success-below-target", success_below_target),
    ("target-reached-not-success", target_without_success),
    ("epoch-clock", epoch_clock),
    ("fast-stretch", fast_stretch),
    ("fast-run", fast_run),
    ("clock-back", clock_back),
    ("train-samples-vs-eval", other_train_samples),
    ("accuracy-granularity", odd_accuracy),
    ("dataset-size", every("resnet", "train_samples", 1_281_000)),
    ("dataset-size", every("bert", "eval_samples", 10_002)),
    ("runs-overlap", overlap),
    ("marker-missing", no_stop),
    ("parse-error", broken_line),
    ("parse-error", accuracy_nan),
    ("parse-error", accuracy_text),
    ("parse-error", time_null),
    ("no-log-lines", empty_file),
    ("nul-bytes", nul_bytes),
    ("not-utf8", foreign_bytes),
    ("cache-clear-missing", no_cache_clear),
    ("cache-clear-value", setting("bert", "cache_clear", None)),
    ("cache-clear-early", early_cache_clear),
    ("work-after-run-stop", work_after_stop),
    ("evals-after-pass", evaluates_on),
    ("block-chain", block_gap),
    ("block-chain", last_block_longer),
    ("epoch-numbering", epoch_skipped),
    ("spread-over-7d", days_apart),
    ("gbs-not-divisible", odd_accelerators),
    ("platform-differs", other_platform),
    ("idle-gap", pause),
    ("file-order", swapped_files),
    ("submitter-json", described_otherwise("submitter", "other")),
    ("system-name-json", described_otherwise("system_name", "other")),
    ("status-json", described_otherwise("status", "onsite")),
    ("implausible-throughput", too_fast_for_the_accelerator),
    ("demonstration", a_demonstration),
]


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


def test_every_audit_rule_has_an_alteration():
    elsewhere = {"run-count", "too-many-unusable", "one-unusable-run", "rcp"}
    elsewhere |= {"not-a-demonstration", "planted-scaling", "file-names"}
    assert set(SEVERITIES) - elsewhere == {rule for rule, _ in ALTERATIONS}


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


def test_procurement_wants_the_nodes_stated(campaign, tmp_path):
    campaign.system = None
    for benchmark in campaign.runs:
        set_all(campaign, benchmark, "submission_platform", "fast")
    rules = {finding.rule for finding in audit(campaign, tmp_path, "lp2bm")}
    assert rules == {"node-count"}


def test_prefixed_and_interleaved_lines_are_read(campaign, tmp_path):
    for run in campaign.runs["resnet"]:
        run.insert(3, b"step 17 \x1b[32m loss 2.3\n")
        line = b' 12: junk :::MLLOG {"broken" [3] :::MLLOG '
        run[10] = line + b":::MLLOG ".join(encode(run[10]).split(b":::MLLOG ")[1:])
    assert audit(campaign, tmp_path) == []


def encode(line):
    return b":::MLLOG " + json.dumps(line).encode() + b"\r\n"
