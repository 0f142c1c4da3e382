"""The whole search through its command, with stand-ins for the probes and once with a real one."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import harness.provenance  # noqa: F401  loads torch before any budget runs
from bert.config import Config as BertConfig
from harness import tune
from harness.commands import InputError
from harness.config import load_config
from harness.processes import list_descendants
from harness.systems import load_system
from harness.tuning_files import read_text
from harness.tuning_knobs import Place, list_knobs
from harness.tuning_probes import (
    choose_ranks,
    compose_input,
    compose_step,
    measure,
    measure_exchange,
)
from resnet.config import Config as ResnetConfig
from resnet.data_command import build_parser, choose_settings

ROOT = Path(__file__).resolve().parents[2]

# Stands where the interpreter does: answers as the probes do, at a rate that `rates` states by
# the settings, scattered by the number of the call. BERT's settings are its batch split, ResNet's
# threads and prefetched batches.
FAKE = """#!{python} -SE
import json, os, pathlib, re, sys, time
folder = pathlib.Path({folder!r})
words = sys.argv[1:]
if words[1].endswith(".config"):  # whether a configuration can be used is nothing to play
    os.execv({python!r}, [{python!r}, *words])
value = lambda name: words[words.index(name) + 1]
if "--system" in words:
    text = pathlib.Path(value("--config")).read_text()
    keys = ("bucket_megabytes", "sharded_optimizer")
    found = [re.search(key + " = (\\w+)", text) for key in keys]
    name, size = "ranks " + " ".join(one.group(1) for one in found if one), 16
elif words[1] == "bert.train":
    text = pathlib.Path(value("--config")).read_text()
    keys = ("local_batch_size", "gradient_accumulation_steps")
    name = " ".join(re.search(key + " = (\\\\d+)", text).group(1) for key in keys)
    size = int(name.split()[0])
else:
    text = pathlib.Path(value("--config")).read_text()
    keys = ("threads", "prefetch_batches")
    name = " ".join(re.search("(?m)^" + key + " = (\\d+)", text).group(1) for key in keys)
name = words[1].split(".")[0] + " " + name
calls = folder / name
number = len(calls.read_text()) if calls.exists() else 0
calls.write_text("x" * (number + 1))
plan = json.loads((folder / "rates").read_text()).get(name, 100.0)
if plan == "hang":
    time.sleep(120)
    (folder / "woken").touch()
if plan == "garbage":
    print("no document")
    raise SystemExit
if isinstance(plan, str):
    print("progress\\n" + plan, file=sys.stderr)
    raise SystemExit(2 if plan.startswith("error") else 1)
rate = plan * (1 + (0, 0.01, -0.01, 0.005, -0.005, 0)[number % 6])
if words[1] == "resnet.data":
    print(json.dumps({{"images_per_second": rate, "device": "cpu"}}))
else:
    one = 16 / rate
    step = dict(median=one, p10=0.9 * one, p90=1.1 * one, min=0.8 * one, max=1.3 * one)
    document = {{"samples_per_step": 16, "step_seconds": step, "device": "fake"}}
    tokens = json.loads((folder / "rates").read_text()).get("tokens", {{}})
    document["tokens_per_micro_batch"] = size * tokens.get(name, 30)
    print(json.dumps(document))
"""

# Stands where mpirun does: starts one process, as if it were rank 0 of all.
LAUNCHER = """#!/bin/sh
while [ "$1" != {interpreter} ]; do shift; done
echo a note of the launcher >&2
exec "$@"
"""

STEP = '"median": 2, "p10": 1, "p90": 3, "min": 1, "max": 4'


class Bench:
    """A system whose probes are stand-ins, and the command to tune it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder, folder / "out"
        self.interpreter = folder / "fake"
        text = FAKE.format(python=sys.executable, folder=str(folder))
        self.interpreter.write_text(text, encoding="utf-8")
        self.interpreter.chmod(0o755)
        self.launcher = folder / "mpirun"
        self.launcher.write_text(LAUNCHER.format(interpreter=self.interpreter), encoding="utf-8")
        self.launcher.chmod(0o755)
        self.rates: dict[str, Any] = {}
        system = (ROOT / "systems" / "demo.toml").read_text(encoding="utf-8")
        for name in ("resnet", "bert"):
            source = ROOT / name / "configs" / "demo.toml"
            (folder / f"{name}.toml").write_text(source.read_text("utf-8"), encoding="utf-8")
            system = system.replace(f"{name}/configs/demo.toml", str(folder / f"{name}.toml"))
        self.system = folder / "demo.toml"
        self.system.write_text(system, encoding="utf-8")

    def tune(self, *more: str, budget: str = "10", ranks: str = "1", knobs: str = "node") -> int:
        (self.folder / "rates").write_text(json.dumps(self.rates), encoding="utf-8")
        words = ["--system", str(self.system), "--budget", budget, "--ranks", ranks]
        words += ["--knobs", knobs]
        return tune.main([*words, "--output", str(self.output), *more])

    def count_calls(self) -> int:
        return sum(len(f.read_text()) for f in self.folder.iterdir() if " " in f.name)

    def read_tried(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.output / "tried.json").read_text("utf-8"))
        return document


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    found = Bench(tmp_path)
    monkeypatch.setattr(sys, "executable", str(found.interpreter))
    # Sources may be edited while the tests run; what a change of them does has its own test.
    monkeypatch.setattr("harness.provenance.hash_sources", lambda root, folders: "sources")
    monkeypatch.setattr("harness.tune.count_cores", lambda: 2)
    return found


def list_verdicts(capsys: Any) -> dict[str, str]:
    document = json.loads(capsys.readouterr().out)
    knobs = document["knobs"]
    return {value["settings"]: value["verdict"] for knob in knobs for value in knob["values"]}


def test_what_is_really_faster_is_kept_and_all_else_stays(bench: Bench, capsys: Any):
    bench.rates = {"bert 8 2": 150.0, "bert 4 4": 130.0, "resnet 1 1": 60.0}
    assert bench.tune("--json") == 0
    verdicts = list_verdicts(capsys)
    assert verdicts["local_batch_size 8, gradient_accumulation_steps 2"] == "kept"
    assert (
        verdicts["local_batch_size 4, gradient_accumulation_steps 4"]
        == "faster, but not the fastest"
    )
    assert verdicts["prefetch_batches 1"] == "slower"
    assert verdicts["threads 2"] == verdicts["prefetch_batches 3"] == "no gain seen"

    after = bench.output / "bert" / "configs" / "demo-tuned.toml"
    before = bench.folder / "bert.toml"
    old, new = before.read_text("utf-8"), after.read_text("utf-8")
    expected = old.replace("local_batch_size = 16", "local_batch_size = 8", 1)
    expected = expected.replace("accumulation_steps = 1", "accumulation_steps = 2")
    assert new == expected
    config = load_config(after, BertConfig)
    assert config.batch.check_world_size(4) is None
    unchanged = bench.output / "resnet" / "configs" / "demo-tuned.toml"
    assert unchanged.read_bytes() == (bench.folder / "resnet.toml").read_bytes()
    load_config(unchanged, ResnetConfig)

    system = load_system(bench.output / "systems" / "demo-tuned.toml")
    assert system.benchmarks.bert.config == "bert/configs/demo-tuned.toml"
    assert sorted(f.name for f in bench.output.iterdir()) == [
        ".lock", "bert", "report.html", "resnet", "systems", "tried.csv", "tried.json"
    ]  # fmt: skip


def test_a_tuned_system_is_copied_into_the_kit_by_the_command_that_is_printed(
    bench: Bench, capsys: Any
):
    bench.rates = {"bert 8 2": 150.0}
    assert bench.tune("--benchmark", "bert") == 0
    (line,) = (one for one in capsys.readouterr().err.splitlines() if "to run with it" in one)
    copy, run = line.partition(": ")[2].split(" && ")
    kit = bench.folder / "kit"
    (kit / "systems").mkdir(parents=True)
    subprocess.run(copy, shell=True, check=True, cwd=kit)
    system = load_system(kit / "systems" / "demo-tuned.toml")
    assert (kit / system.benchmarks.bert.config).is_file()
    assert system.benchmarks.resnet.config == str(bench.folder / "resnet.toml"), "not searched"
    assert run == "./run_and_time.sh --system demo-tuned"


def test_what_shows_across_ranks_is_measured_by_the_systems_launcher(bench: Bench, capsys: Any):
    bench.rates = {
        "bert ranks 2 true": 130.0, "bert ranks 4 true": 150.0, "bert ranks 4 false": 90.0,
    }  # fmt: skip
    assert bench.tune("--json", "--benchmark", "bert", knobs="ranks") == 0
    verdicts = list_verdicts(capsys)
    assert verdicts == {
        "bucket_megabytes 1": "present, replaced",
        "bucket_megabytes 2": "faster, but not the fastest",
        "bucket_megabytes 4": "kept",
        # Measured with the bucket size that was kept before it.
        "sharded_optimizer true": "present, kept",
        "sharded_optimizer false": "slower",
    }
    old = (bench.folder / "bert.toml").read_text("utf-8")
    new = (bench.output / "bert" / "configs" / "demo-tuned.toml").read_text("utf-8")
    assert new == old.replace("bucket_megabytes = 1", "bucket_megabytes = 4")
    assert "each of all 4 ranks at once" in (bench.output / "report.html").read_text("utf-8")


def test_all_knobs_are_searched_where_one_machine_is_all_there_is(bench: Bench, capsys: Any):
    bench.tune("--json", "--benchmark", "bert", knobs="all")
    names = [trial["knob"] for trial in bench.read_tried()["trials"]]
    assert list(dict.fromkeys(names)) == [
        "steps", "batch split", "steps of all ranks", "bucket size", "sharded optimizer"
    ]  # fmt: skip
    demo = load_system(bench.system)
    knob = next(k for k in list_demo_knobs(bench) if k.kind == "exchange")
    assert tune.is_searched(knob, demo, None)
    several = load_system(ROOT / "systems" / "example-4x8-h200.toml")
    assert not tune.is_searched(knob, several, None) and tune.is_searched(knob, several, "ranks")


def list_demo_knobs(bench: Bench) -> list[Any]:
    file = bench.folder / "bert.toml"
    return list_knobs(file, "bert", read_text(file)[1], Place(2, "cpu"))


@pytest.mark.parametrize(
    ("rates", "word"),
    [
        ({"bert ranks 1 true": "error: 1 rank(s) were started"}, "refused: 1 rank(s) were started"),
        ({"bert ranks 1 true": "lost a rank"}, "lost a rank"),
        ({"bert ranks 1 true": "garbage"}, "no document of a probe"),
    ],
)
def test_a_launcher_that_fails_is_told(bench: Bench, capsys: Any, rates: dict[str, Any], word: str):
    bench.rates = {**rates, "bert ranks 2 true": "slow", "bert ranks 4 true": "slow",
                   "bert ranks 1 false": "slow"}  # fmt: skip
    assert bench.tune("--json", "--benchmark", "bert", knobs="ranks") == 1
    assert word in list_verdicts(capsys)["bucket_megabytes 1"]


def test_a_launcher_that_is_not_there_ends_the_search_of_its_knobs(
    bench: Bench, capsys: Any, monkeypatch: pytest.MonkeyPatch
):
    bench.launcher.unlink()
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    if shutil.which("mpirun"):
        pytest.skip("this machine has an mpirun of its own")
    assert bench.tune("--json", "--benchmark", "bert", knobs="ranks") == 1
    assert "mpirun" in list_verdicts(capsys)["bucket_megabytes 1"]
    assert len(bench.read_tried()["trials"]) == 1, "no candidate is tried"


def test_a_launcher_that_hangs_is_cut_off_with_all_that_it_started(tmp_path: Path):
    command = ["sh", "-c", f"(sleep 120; touch {tmp_path}/woken) & sleep 120"]
    before = list_descendants(os.getpid())
    found = measure_exchange(command, limit_seconds=0.7)
    assert found.status == "cut off"
    assert set(list_descendants(os.getpid())) <= set(before)
    assert list(tmp_path.iterdir()) == []


def test_the_record_holds_every_trial(bench: Bench):
    assert bench.tune("--benchmark", "bert") == 0
    trials = bench.read_tried()["trials"]
    assert len(trials) == bench.count_calls()
    with open(bench.output / "tried.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["settings"] for row in rows] == [trial["settings"] for trial in trials]
    assert [int(row["number"]) for row in rows] == list(range(1, len(trials) + 1))
    found = trials[1]["measured"]
    assert float(rows[1]["step_seconds_p90"]) == pytest.approx(1.1 * 16 / 100, rel=0.02)
    assert found["samples_per_second"] == pytest.approx(100, rel=0.02)


def test_sequences_of_other_lengths_are_weighed_by_their_tokens(bench: Bench, capsys: Any):
    """Three quarters of the tokens a sequence make the rate a third higher, and nothing better."""
    bench.rates = {
        "bert 8 2": 100 * 4 / 3, "bert 4 4": 100 * 4 / 3,
        "tokens": {"bert 8 2": 22.5, "bert 4 4": 30},
    }  # fmt: skip
    assert bench.tune("--benchmark", "bert", "--json") == 0
    verdicts = list_verdicts(capsys)
    split = "local_batch_size {}, gradient_accumulation_steps {}".format
    assert verdicts[split(8, 2)] == "no gain seen"
    assert verdicts[split(4, 4)] == "kept"


def test_the_rounds_alternate_in_order(bench: Bench):
    bench.tune("--benchmark", "bert")
    rounds: dict[int, list[str]] = {}
    for trial in bench.read_tried()["trials"][1:]:
        rounds.setdefault(trial["round"], []).append(trial["settings"])
    assert rounds[2] == rounds[1][::-1] and rounds[3] == rounds[1]


def test_the_same_command_goes_on_where_it_was_stopped(bench: Bench, capsys: Any):
    bench.rates = {"bert 8 2": 150.0}
    words = ("--benchmark", "bert", "--json")
    bench.tune(*words)
    whole, calls = capsys.readouterr().out, bench.count_calls()
    assert bench.tune(*words) == 0
    assert bench.count_calls() == calls, "nothing is measured twice"
    assert capsys.readouterr().out == whole

    document = bench.read_tried()
    del document["trials"][5:]
    (bench.output / "tried.json").write_text(json.dumps(document), encoding="utf-8")
    assert bench.tune(*words) == 0
    trials = bench.read_tried()["trials"]
    assert trials[:5] == document["trials"]
    assert bench.count_calls() == calls + len(trials) - 5
    assert list_verdicts(capsys)["local_batch_size 8, gradient_accumulation_steps 2"] == "kept"


def test_trials_beside_other_settings_are_not_taken_again(bench: Bench):
    """Prefetch was measured with one thread; once two are kept, those trials say nothing."""
    words = ("--benchmark", "resnet")
    bench.tune(*words)
    document = bench.read_tried()
    before = {trial["beside"] for trial in document["trials"]}
    kept = [trial for trial in document["trials"] if trial["settings"] != "threads 2"]
    (bench.output / "tried.json").write_text(json.dumps({**document, "trials": kept}), "utf-8")
    bench.rates = {"resnet 2 2": 150.0}
    bench.tune(*words)
    new = bench.read_tried()["trials"][len(kept) :]
    assert before == {""}
    assert {t["beside"] for t in new if t["knob"] == "input prefetch"} == {"threads 2"}


@pytest.mark.parametrize("what", ["bert", "system", "machine", "ranks", "sources"])
def test_trials_of_another_origin_are_refused(
    bench: Bench, what: str, monkeypatch: pytest.MonkeyPatch
):
    bench.tune("--benchmark", "bert")
    ranks = "1"
    if what == "bert":
        file = bench.folder / "bert.toml"
        file.write_text(file.read_text("utf-8") + "# changed\n", encoding="utf-8")
    elif what == "system":
        bench.system.write_text(bench.system.read_text("utf-8") + "# changed\n", encoding="utf-8")
    elif what == "machine":
        monkeypatch.setattr("harness.tuning_record.platform.node", lambda: "elsewhere")
    elif what == "sources":
        monkeypatch.setattr("harness.provenance.hash_sources", lambda root, folders: "others")
    else:
        ranks = "2"
    before = (bench.output / "tried.json").read_bytes()
    with pytest.raises(InputError, match=rf"differ in: .*{what}.*--output"):
        bench.tune("--benchmark", "bert", ranks=ranks)
    assert (bench.output / "tried.json").read_bytes() == before


def test_a_search_across_ranks_in_the_folder_of_a_nodes_is_told_where_to_go_on(bench: Bench):
    bench.tune("--benchmark", "bert")
    with pytest.raises(InputError, match=r"--knobs: .* if it gets the tuned system's name"):
        bench.tune("--benchmark", "bert", knobs="ranks")


def test_a_failed_probe_is_recorded_and_not_fatal(bench: Bench, capsys: Any):
    bench.rates = {
        "bert 8 2": "torch.OutOfMemoryError: CUDA out of memory \x1b[1m",
        "bert 4 4": "garbage",
    }
    assert bench.tune("--benchmark", "bert", "--json") == 0
    verdicts = list_verdicts(capsys)
    split = "local_batch_size {}, gradient_accumulation_steps {}".format
    assert verdicts[split(8, 2)] == "failed: torch.OutOfMemoryError: CUDA out of memory [1m"
    assert verdicts[split(4, 4)] == "failed: the probe printed no document of a probe"
    assert verdicts[split(16, 1)] == "present, kept"


def test_where_the_present_configuration_runs_out_of_memory_one_that_runs_is_kept(
    bench: Bench, capsys: Any
):
    bench.rates = {"bert 16 1": "CUDA out of memory", "bert 4 4": 80.0}
    assert bench.tune("--benchmark", "bert", "--json") == 0
    verdicts = list_verdicts(capsys)
    assert verdicts["local_batch_size 8, gradient_accumulation_steps 2"] == "kept"
    # How much was gained nobody knows.
    assert "<b>replaced</b>" in (bench.output / "report.html").read_text("utf-8")
    assert "local_batch_size = 8" in (
        bench.output / "bert" / "configs" / "demo-tuned.toml"
    ).read_text("utf-8")


def test_a_probe_that_refuses_to_start_ends_the_search_of_its_knob(bench: Bench, capsys: Any):
    bench.rates = {"bert 16 1": "error: --device cuda: torch finds no GPU here"}
    assert bench.tune("--benchmark", "bert") == 1
    said = capsys.readouterr()
    assert "torch finds no GPU here" in said.err.splitlines()[-1]
    assert bench.count_calls() == 1
    assert "Traceback" not in said.err


def test_the_budget_is_kept_and_a_probe_that_hangs_is_ended(bench: Bench, capsys: Any):
    bench.rates = {"bert 16 1": "hang"}
    assert bench.tune("--benchmark", "bert", "--json", budget="0.06") == 1
    assert not (bench.folder / "woken").exists()
    (trial,) = bench.read_tried()["trials"]
    assert trial["measured"]["status"] == "cut off"
    verdicts = list_verdicts(capsys)
    assert verdicts["local_batch_size 4, gradient_accumulation_steps 4"] == "not tried"
    assert "<b>not tried</b>" in (bench.output / "report.html").read_text("utf-8")
    old, new = bench.folder / "bert.toml", bench.output / "bert" / "configs" / "demo-tuned.toml"
    assert new.read_bytes() == old.read_bytes()


def test_the_slowest_of_the_ranks_counts():
    outputs = []
    for median in (0.02, 0.05, 0.03):
        step = dict.fromkeys(("median", "p10", "p90", "min", "max"), median)
        outputs.append(json.dumps({"samples_per_step": 8, "step_seconds": step}))
    found = measure([["echo", output] for output in outputs], "step", 60)
    assert found.status == "measured"
    assert found.samples_per_second == pytest.approx(8 / 0.05)


def test_one_failing_rank_ends_the_others(tmp_path: Path):
    slow = ["sh", "-c", f"sleep 120; touch {tmp_path}/woken"]
    broken = ["sh", "-c", "echo 'lost a GPU' >&2; exit 3"]
    found = measure([slow, broken, slow], "step", 300)
    assert (found.status, found.message, found.misused) == ("failed", "lost a GPU", False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "output",
    ["", "null", "[]", "{}", "[" * 99999, '{"step_seconds": 3, "samples_per_step": 1}',
     '{"samples_per_step": 0, "step_seconds": {' + STEP + "}}",
     '{"samples_per_step": 1, "step_seconds": {' + STEP.replace("2", "NaN") + "}}"],
)  # fmt: skip
def test_what_is_no_document_of_a_probe_counts_as_failed(output: str):
    assert measure([["printf", "%s", output]], "step", 60).status == "failed"


def test_the_input_is_measured_as_a_run_reads_it(bench: Bench):
    """Each rank on its own share of the images, by a configuration that has all of its settings."""
    ranks = choose_ranks(load_system(bench.system), 2)
    command = compose_input(ranks, 1, Path("/data"), bench.folder / "resnet.toml", 3.0)
    start = command.index("resnet.data")
    taken = build_parser().parse_args(command[start + 1 :])
    assert (taken.rank, taken.ranks, taken.gpu) == (1, 4, None)
    assert (taken.data, taken.seconds, taken.json) == (Path("/data"), 3.0, True)
    assert choose_settings(taken).options.crop_size == 64
    on_gpus = replace(ranks, device="cuda")
    command = compose_input(on_gpus, 1, Path("/data"), bench.folder / "resnet.toml", 3.0)
    assert "CUDA_VISIBLE_DEVICES=1" in command and command[-2:] == ["--gpu", "0"]


def test_the_page_is_whole_and_loads_nothing(bench: Bench):
    bench.rates = {"bert 8 2": 150.0, "bert 4 4": "<script>alert(1)</script>"}
    bench.tune("--benchmark", "bert")
    page = (bench.output / "report.html").read_text("utf-8")
    assert "DEMONSTRATION" in page and "<script" not in page
    assert "&lt;script&gt;" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    # One pictured knob, by value and by trial.
    assert page.count("<svg") == page.count("</svg>") == 2
    assert "span of batch normalisation" in page


def test_the_table_says_that_it_is_a_demonstration(bench: Bench, capsys: Any):
    bench.tune("--benchmark", "resnet")
    said = capsys.readouterr()
    assert said.out.startswith("DEMONSTRATION")
    assert re.search(r"resnet +input threads +threads 1 +\d +100\.\d images/s", said.out)
    assert re.search(r"trial 3 of at most 36: .* trials a minute, at most .* left", said.err)
    assert "nothing is changed" in said.err and "to run with it" not in said.err


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("threads = 1", "threads = 0"), r"resnet.toml: \[input\] 'threads' must be at least 1"),
        (("threads = 1", "thread = 1"), r"resnet.toml: \[input\] unknown key 'thread'"),
        (("[operations]", "[operation]"), r"resnet.toml: unknown key 'operation'"),
        (("threads = 1", '"threads" = 1'), r"cannot replace threads of \[input\] where it stands"),
        (("threads = 1", "threads = "), r"resnet.toml: not valid TOML"),
    ],
)
def test_a_configuration_without_a_knob_is_refused(
    bench: Bench, change: tuple[str, str], sentence: str
):
    file = bench.folder / "resnet.toml"
    text = file.read_text("utf-8")
    assert change[0] in text
    file.write_text(text.replace(*change, 1), encoding="utf-8")
    with pytest.raises(InputError, match=sentence):
        bench.tune()
    assert not (bench.output / "configs").exists()


@pytest.mark.parametrize("option", [["--budget", "0"], ["--level", "0.7"], ["--ranks", "0"],
                                    ["--seconds", "nan"], ["--benchmark", "gpt"]])  # fmt: skip
def test_wrong_use_is_one_sentence(bench: Bench, option: list[str], capsys: Any):
    with pytest.raises(SystemExit) as ended:
        bench.tune(*option)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert option[0] in said and len(said.splitlines()) == 1


def test_more_ranks_than_a_node_has_are_refused(bench: Bench):
    with pytest.raises(InputError, match="--ranks must be at most the 4 ranks"):
        bench.tune(ranks="5")


def test_an_unknown_system_is_named(bench: Bench):
    with pytest.raises(InputError, match="no system 'nowhere'"):
        tune.main(["--system", "nowhere", "--budget", "1", "--output", str(bench.output)])


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"made_of": {}, "trials": [{}]}', "9" * 5000, "[" * 99999]
)
def test_a_record_that_is_none_is_refused(bench: Bench, text: str):
    bench.output.mkdir()
    (bench.output / "tried.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"tried\.json: not what a search writes"):
        bench.tune()
    assert (bench.output / "tried.json").read_text("utf-8") == text


@pytest.mark.parametrize("key", ["status", "samples_per_second", "seconds", "step_seconds"])
def test_a_record_with_a_changed_field_is_refused(bench: Bench, key: str):
    bench.tune("--benchmark", "bert")
    document = bench.read_tried()
    document["trials"][1]["measured"][key] = -1
    (bench.output / "tried.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError, match="not what a search writes"):
        bench.tune("--benchmark", "bert")


def test_a_folder_of_something_else_is_left_alone(bench: Bench):
    bench.output.mkdir()
    (bench.output / "score.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match=r"holds files but no tried\.json"):
        bench.tune()
    assert [file.name for file in bench.output.iterdir()] == ["score.json"]
    bench.output = bench.folder / "bert.toml"
    with pytest.raises(InputError, match=r"bert\.toml is no folder"):
        bench.tune()


def test_a_real_probe_is_understood(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    """One rank of the demonstration's BERT, through the contract's own command."""
    monkeypatch.undo()
    ranks = choose_ranks(load_system(bench.system), 1)
    config = bench.folder / "bert.toml"
    found = measure([compose_step(ranks, 0, "bert", config, 5)], "step", 600)
    assert found.status == "measured", found.message
    assert found.device == "cpu, 1 thread(s)"
    step = found.step_seconds
    assert found.samples_per_second == pytest.approx(16 / step["median"])
    assert step["min"] <= step["p10"] <= step["median"] <= step["p90"] <= step["max"]
