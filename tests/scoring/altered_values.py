"""Alterations of a sound campaign: settings, names, values, bytes. Each with its rule."""


def set_all(campaign, benchmark, key, value):
    for run in campaign.runs[benchmark]:
        for line in run:
            if line["key"] == key:
                line["value"] = value


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


def setting_of_another_optimizer_in_one(c):
    run = c.runs["bert"][3]
    run.insert_after("seed", run.make("opt_lookahead_steps", 5, run.find("seed")["time_ms"]))


def seed_of_another_line(c):
    seed = c.runs["resnet"][1].find("seed")
    seed["value"] = c.runs["resnet"][2].find("seed")["value"]
    seed["metadata"]["lineno"] += 1


def another_seed_that_is_none(c):
    run = c.runs["bert"][2]
    run.insert_after("seed", run.make("seed", None, run.find("seed")["time_ms"]))


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


def open_division(c):
    c.runs["bert"][0].find("submission_division")["value"] = "open"


def open_description(c):
    c.system["division"] = "open"


def description_with_another_writing(c):
    c.system["division"] = "Closed"


def empty_description(c):
    c.system = {}


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


def list_hosts(c, hosts=("n1", "n2", "n3", "n4")):
    """Write into every log the hosts of its run, as the kit's trainers do."""
    for runs in c.runs.values():
        for run in runs:
            time_ms = run[0]["time_ms"]
            run.insert(0, run.make("number_of_nodes", len(hosts), time_ms, hosts=list(hosts)))


def other_software_in_one_run(key, value):
    def alter(c):
        for runs in c.runs.values():
            for run in runs:
                facts = {"torch": "2.13.0", "python": "3.11.2"}
                run.insert(0, run.make("source_sha256", "ab" * 32, run[0]["time_ms"], **facts))
        line = c.runs["bert"][4].find("source_sha256")
        if key == "value":
            line["value"] = value
        else:
            line["metadata"][key] = value

    return alter


def three_of_four_hosts(c):
    list_hosts(c)
    c.runs["bert"][2].find("number_of_nodes")["metadata"]["hosts"] = ["n1", "N1 ", "n3", "n4"]


def hosts_that_are_none(c):
    list_hosts(c)
    c.runs["bert"][2].find("number_of_nodes")["metadata"]["hosts"] = {"n1": [None], "n2": 7}


def other_hosts_in_one_run(c):
    list_hosts(c)
    c.runs["resnet"][2].find("number_of_nodes")["metadata"]["hosts"][3] = "n5"


def no_hosts_in_one_run(c):
    list_hosts(c)
    del c.runs["resnet"][2].find("number_of_nodes")["metadata"]["hosts"]


def other_count_in_one_run(c):
    c.system = None
    for runs in c.runs.values():
        set_all(c, runs[0].find("submission_benchmark")["value"], "submission_platform", "fast")
    list_hosts(c)
    line = c.runs["resnet"][2].find("number_of_nodes")
    line["value"] = 3
    line["metadata"]["hosts"].pop()


def description_of_another_kind(c):
    c.system = ["no", "object"]


def other_train_samples(c):
    c.runs["bert"][1].find("train_samples")["value"] = 3_001_600


def odd_accuracy(c):
    c.runs["resnet"][1].find("eval_accuracy", 3)["value"] = 0.5812345


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


def odd_accelerators(c):
    c.system["accelerators_per_node"] = "7"


def other_platform(c):
    c.runs["resnet"][4].find("submission_platform")["value"] = "4xfaster"


def described_otherwise(key, value):
    def alter(c):
        c.system[key] = value

    return alter


def too_fast_for_the_accelerator(c):
    c.system["accelerators_per_node"] = "1"


def too_fast_for_any_accelerator(c):
    c.system["accelerator_model_name"] = "Unheard-of 9"
    for run in c.runs["bert"]:
        first = run[0]["time_ms"]
        for line in run:
            line["time_ms"] = first + (line["time_ms"] - first) // 1000


def a_demonstration(c):
    run = c.runs["resnet"][0]
    run.insert(0, run.make("demonstration", True, run[0]["time_ms"]))


ALTERATIONS = [
    ("gbs-differs", other_batch),
    ("hp-differs", setting("resnet", "lars_opt_base_learning_rate", 10.6)),
    ("hp-differs", setting("bert", "opt_lamb_beta_2", 0.99)),
    ("hp-differs", setting_missing_in_one),
    ("hp-differs", setting_of_another_optimizer_in_one),
    ("software-differs", other_software_in_one_run("value", "cd" * 32)),
    ("software-differs", other_software_in_one_run("torch", "2.12.1")),
    ("software-differs", other_software_in_one_run("image_manifest_sha256", "ef" * 32)),
    ("software-differs", other_software_in_one_run("settings", {"mine.toml": "ef" * 32})),
    ("same-seed", seed_of_another_line),
    ("code-line-differs", seed_of_another_line),
    ("no-seed", no_seed),
    ("no-seed", setting("resnet", "seed", 1.5)),
    ("no-seed", another_seed_that_is_none),
    ("hp-table", every("resnet", "lars_opt_momentum", 0.95)),
    ("hp-table", every("resnet", "lars_opt_weight_decay", 0.00006)),
    ("hp-table", every("resnet", "lars_opt_end_learning_rate", 0.001)),
    ("hp-table", every("resnet", "lars_epsilon", 1e-5)),
    ("hp-table", every("resnet", "opt_name", "adam")),
    ("hp-table", every("bert", "opt_name", "adamw")),
    ("hp-table", every("bert", "opt_name", None)),
    ("hp-table", sgd("sgd_opt_momentum", 0.8)),
    ("hp-table", sgd("sgd_opt_base_learning_rate", 1.5005)),
    ("hp-table", sgd("opt_learning_rate_warmup_epochs", 2.5)),
    ("division", open_division),
    ("division", open_description),
    ("division", description_with_another_writing),
    ("division", empty_description),
    ("identity", wrong_folder),
    ("node-count", other_nodes_in_platform),
    ("node-count", other_nodes_in_description),
    ("node-count", other_nodes_in_sysjson),
    ("node-count", other_hosts_in_log),
    ("node-count", three_of_four_hosts),
    ("node-count", hosts_that_are_none),
    ("node-count", other_count_in_one_run),
    ("hosts-differ", other_hosts_in_one_run),
    ("hosts-differ", no_hosts_in_one_run),
    ("system-json", description_of_another_kind),
    ("train-samples-vs-eval", other_train_samples),
    ("accuracy-granularity", odd_accuracy),
    ("dataset-size", every("resnet", "train_samples", 1_281_000)),
    ("dataset-size", every("resnet", "train_samples", 1_281_166)),
    ("dataset-size", every("bert", "eval_samples", 10_002)),
    ("parse-error", broken_line),
    ("parse-error", accuracy_nan),
    ("parse-error", accuracy_text),
    ("parse-error", time_null),
    ("no-log-lines", empty_file),
    ("nul-bytes", nul_bytes),
    ("not-utf8", foreign_bytes),
    ("cache-clear-value", setting("bert", "cache_clear", None)),
    ("gbs-not-divisible", odd_accelerators),
    ("platform-differs", other_platform),
    ("submitter-json", described_otherwise("submitter", "other")),
    ("system-name-json", described_otherwise("system_name", "other")),
    ("status-json", described_otherwise("status", "onsite")),
    ("implausible-throughput", too_fast_for_the_accelerator),
    ("implausible-throughput", too_fast_for_any_accelerator),
    ("demonstration", a_demonstration),
]
