"""The command: what it predicts, what it says of what it was not given, and what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import predict
from harness.batch import LAST_PART
from harness.commands import InputError, run_command
from harness.prediction_campaign import simulate
from harness.prediction_configuration import read_settings
from harness.systems import load_system
from tests.harness.test_prediction_step import make_probe, make_rank_probe

ROOT = Path(__file__).resolve().parents[2]
H200 = "example-4x8-h200"
SYSTEM = ROOT / "systems" / f"{H200}.toml"
RATES = ["--images-per-second", "7500", "--sequences-per-second", "950"]


def predict_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert predict.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def make_system(folder: Path, *pairs: tuple[str, str]) -> Path:
    """A copy of the example system with its own BERT configuration; pairs are texts to replace."""
    config = folder / "bert.toml"
    text = (ROOT / "bert/configs/h200_4x8.toml").read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    config.write_text(text, encoding="utf-8")
    system = SYSTEM.read_text(encoding="utf-8").replace("bert/configs/h200_4x8.toml", str(config))
    path = folder / f"{H200}.toml"
    path.write_text(system, encoding="utf-8")
    return path


def test_both_rates_give_latencies_and_a_score_within_their_bands(capsys):
    found = predict_json(capsys, "--system", H200, *RATES, "--network-gigabits-per-node", "3200")
    for name in ("R", "B", "score"):
        low, high = found[f"{name}_band"]
        assert 0 < low < found[name] < high
    # Published on 4 x 8: 4.5 and 1.8 min on H100, 1.76 min (BERT) on H200, at lower rates.
    assert 3.0 < found["R"] < 4.0 and 1.5 < found["B"] < 2.0
    assert found["score"] == pytest.approx(7.19 / found["R"] + 9.05 / found["B"], rel=0.02)
    resnet = found["benchmarks"]["resnet"]
    assert resnet["rcp"]["mean"] == pytest.approx(35.1538, abs=1e-3)
    assert resnet["converges_at"] == pytest.approx(35, abs=0.2)
    assert resnet["samples_per_second_per_rank"] == pytest.approx(7500)
    assert found["benchmarks"]["bert"]["changes"][0]["gain_minutes"] > 0


def test_the_text_says_why_its_terms_do_not_add_up_to_the_latency(capsys):
    seconds = predict_json(capsys, "--system", H200, *RATES)["benchmarks"]["resnet"]["seconds"]
    total = sum(seconds.values())
    assert predict.main(["--system", H200, *RATES]) == 0
    text = capsys.readouterr().out
    assert f"{total:9.2f} s  in all: {total / 60:.3f} min with each part at its most" in text
    assert "B is the median of campaigns with each drawn by chance" in text


def test_the_exchange_that_all_ranks_measured_is_taken(capsys, tmp_path: Path):
    probe = tmp_path / "ranks.json"

    def predict_exchange(**changes: Any) -> tuple[float, float, str]:
        probe.write_text(json.dumps(make_rank_probe(**changes)), encoding="utf-8")
        found = predict_json(capsys, "--system", H200, "--resnet-probe", str(probe))
        resnet = found["benchmarks"]["resnet"]
        updates = resnet["converges_at"] * 1281167 / 3264
        notes = "\n".join(resnet["notes"])
        return resnet["seconds"]["all_reduce"] / updates, found["R"], notes

    each, minutes, notes = predict_exchange()
    assert each == pytest.approx(0.001)
    assert predict.main(["--system", H200, "--resnet-probe", str(probe)]) == 0
    assert "one rank, and of ResNet-50 the exchange of all ranks" in capsys.readouterr().out
    assert "1.00 ms a step" in notes and "network not stated" not in notes
    assert predict_exchange(all_reduce_not_hidden_seconds=0.003)[1] > minutes
    assert predict_exchange(all_reduce_not_hidden_seconds=0)[0] == 0
    each, _, notes = predict_exchange(world_size=8, nodes=1)
    assert each != pytest.approx(0.001) and "network not stated" in notes
    assert "8 ranks of 1 node(s), while the system has 32 of 4" in notes
    probe.write_text(json.dumps(make_rank_probe(all_reduce_not_hidden_seconds=-1)), "utf-8")
    with pytest.raises(InputError, match="'all_reduce_not_hidden_seconds' must be a positive"):
        predict.main(["--system", H200, "--resnet-probe", str(probe)])


def test_one_rate_gives_that_part_and_no_score(capsys):
    found = predict_json(capsys, "--system", H200, *RATES[:2])
    assert found["R"] > 0 and found["B"] is None and found["score"] is None
    assert list(found["benchmarks"]) == ["resnet"]


def test_the_same_seed_gives_the_same_bytes(capsys):
    first = predict_json(capsys, "--system", H200, *RATES[2:])
    assert predict_json(capsys, "--system", H200, *RATES[2:]) == first
    assert predict_json(capsys, "--system", H200, *RATES[2:], "--seed", "2") != first


def test_more_nodes_cost_less_and_a_slow_network_more(capsys):
    fast = predict_json(capsys, "--system", H200, *RATES, "--network-gigabits-per-node", "3200")
    slow = predict_json(capsys, "--system", H200, *RATES, "--network-gigabits-per-node", "200")
    assert slow["B"] > fast["B"] and slow["R"] > fast["R"]
    four = predict_json(capsys, "--system", "example-4x4-h100", *RATES)
    assert 1.6 < four["R"] / fast["R"] < 2.2


def test_what_is_measured_replaces_what_is_assumed(capsys):
    common = ["--system", H200, "--sequences-per-second", "950"]
    assumed = predict_json(capsys, *common)
    measured = predict_json(
        capsys, *common, "--sequences-evaluated-per-second", "3000",
        "--all-reduce-gigabytes-per-second", "300", "--bert-samples", "2625000",
    )  # fmt: skip

    def width(found: dict[str, Any]) -> float:
        low, high = found["B_band"]
        return high - low

    assert width(measured) < 0.8 * width(assumed)
    seconds = measured["benchmarks"]["bert"]["seconds"]
    assert seconds["evaluation"] == pytest.approx(15 * 10_000 / 32 / 3000)
    assert not any("evaluation not" in n for n in measured["benchmarks"]["bert"]["notes"])


def test_slow_input_is_named_as_the_limit(capsys):
    found = predict_json(
        capsys, "--system", H200, "--images-per-second", "7500", "--images-read-per-second", "3000"
    )
    assert found["benchmarks"]["resnet"]["seconds"]["input"] > 100
    assert "input" in found["benchmarks"]["resnet"]["changes"][0]["what"]


def write_probes(
    folder: Path, *points: tuple[int, float], device: str = "NVIDIA H200"
) -> list[str]:
    files = []
    for batch, seconds in points:
        step = {"median": seconds, "p10": seconds, "p90": seconds}
        document = make_probe(samples_per_step=batch, step_seconds=step, device=device)
        file = folder / f"probe_{batch}_{len(files)}.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        files.append(str(file))
    return files


def test_two_probes_predict_any_batch_and_one_says_what_it_lacks(capsys, tmp_path: Path):
    files = write_probes(tmp_path, (51, 0.0095), (408, 0.0545))
    two = predict_json(capsys, "--system", H200, "--resnet-probe", *files)
    line = 0.0095 + (0.0545 - 0.0095) * (102 - 51) / (408 - 51)
    rate = two["benchmarks"]["resnet"]["samples_per_second_per_rank"]
    assert rate == pytest.approx(102 / line)
    one = predict_json(capsys, "--system", H200, "--resnet-probe", files[1])
    notes = " ".join(one["benchmarks"]["resnet"]["notes"])
    assert "one probe only, at 408 images" in notes
    wider = re.search(r"the band of R is (\d+) % wider than with a second probe", notes)
    assert wider is not None and int(wider[1]) >= 10
    low, high = two["R_band"]
    assert high - low < one["R_band"][1] - one["R_band"][0]
    # At its own batch one probe is as good as two.
    there = write_probes(tmp_path, (102, 0.0162))
    notes = " ".join(
        predict_json(capsys, "--system", H200, "--resnet-probe", *there)["benchmarks"]["resnet"][
            "notes"
        ]
    )
    assert "the band of R is hardly wider than with a second probe" in notes
    assert "input not measured, taken as never waited for" in notes


def test_an_unsteady_probe_widens_the_band(capsys, tmp_path: Path):
    steady = write_probes(tmp_path, (102, 0.015))
    unsteady = tmp_path / "unsteady.json"
    step = {"median": 0.015, "p10": 0.012, "p90": 0.018}
    unsteady.write_text(json.dumps(make_probe(step_seconds=step)), encoding="utf-8")
    first = predict_json(capsys, "--system", H200, "--resnet-probe", *steady)
    second = predict_json(capsys, "--system", H200, "--resnet-probe", str(unsteady))
    assert second["R_band"][1] > 1.1 * first["R_band"][1]
    assert "differ by 20 %" in " ".join(second["benchmarks"]["resnet"]["notes"])


def test_a_rate_above_all_published_ones_and_an_unknown_gpu_are_noted(capsys, tmp_path: Path):
    fast = predict_json(capsys, "--system", H200, "--images-per-second", "75000")
    assert re.search(r"9\.6\d times the highest", " ".join(fast["benchmarks"]["resnet"]["notes"]))
    files = write_probes(tmp_path, (102, 0.015), device="Frobnicator 9")
    other = predict_json(capsys, "--system", H200, "--resnet-probe", *files)
    notes = " ".join(other["benchmarks"]["resnet"]["notes"])
    assert "no published result of this benchmark on 'Frobnicator 9'" in notes
    assert f"measured on 'Frobnicator 9', while {H200} expects 'NVIDIA H200'" in notes


def test_a_longer_schedule_than_published_is_noted(capsys, tmp_path: Path):
    text = (ROOT / "resnet/configs/h200_4x8.toml").read_text(encoding="utf-8")
    config = tmp_path / "resnet.toml"
    config.write_text(text.replace("decay_epochs = 37", "decay_epochs = 45"), encoding="utf-8")
    system = SYSTEM.read_text(encoding="utf-8").replace("resnet/configs/h200_4x8.toml", str(config))
    (tmp_path / f"{H200}.toml").write_text(system, encoding="utf-8")
    found = predict_json(
        capsys, "--system", str(tmp_path / f"{H200}.toml"), "--images-per-second", "7500"
    )
    assert "goes on to epoch 47" in " ".join(found["benchmarks"]["resnet"]["notes"])


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    """The demonstration's system file, its data not made."""
    text = (ROOT / "systems/demo.toml").read_text(encoding="utf-8")
    for name in ("resnet", "bert"):
        text = text.replace(f'data = "data/demo/{name}"', f'data = "{tmp_path / name}"')
    (tmp_path / "demo.toml").write_text(text, encoding="utf-8")
    return tmp_path / "demo.toml"


def test_a_demonstration_has_no_reference_and_a_band_over_its_schedule(demo: Path, capsys):
    common = ["--system", str(demo), "--images-per-second", "500", "--cores", "2"]
    found = predict_json(capsys, *common)
    resnet = found["benchmarks"]["resnet"]
    assert found["demonstration"] is True
    assert resnet["rcp"]["mean"] is None and resnet["rcp"]["pass_probability"] is None
    assert "nobody knows" in " ".join(resnet["notes"])
    assert "a demonstration" in " ".join(resnet["notes"])
    stated = predict_json(capsys, *common, "--resnet-epochs", "7")
    assert stated["R_band"][1] - stated["R_band"][0] < found["R_band"][1] - found["R_band"][0]
    idle = predict_json(capsys, *common[:-1], "64", "--resnet-epochs", "7")
    assert idle["R"] < stated["R"]


def write_log(path: Path, minutes: float, point: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    events: list[tuple[str, Any, int, dict[str, Any]]] = [
        ("run_start", None, 0, {}),
        ("eval_accuracy", 0.8, 1000, {"epoch_num": point}),
        ("run_stop", None, int(minutes * 60_000), {"status": "success"}),
    ]
    lines = [
        ":::MLLOG " + json.dumps({"key": k, "value": v, "time_ms": t, "metadata": m})
        for k, v, t, m in events
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def test_a_probe_with_other_threads_than_a_rank_is_noted(demo: Path, capsys, tmp_path: Path):
    for threads, noted in ((1, False), (2, True)):
        (tmp_path / str(threads)).mkdir()
        device = f"cpu, {threads} thread(s)"
        files = write_probes(tmp_path / str(threads), (16, 0.03), device=device)
        found = predict_json(capsys, "--system", str(demo), "--resnet-probe", *files)
        notes = " ".join(found["benchmarks"]["resnet"]["notes"])
        assert ("probe with OMP_NUM_THREADS=1" in notes) is noted


def test_one_probe_on_a_cpu_must_be_of_the_configured_batch(demo: Path, tmp_path: Path):
    files = write_probes(tmp_path, (32, 0.03), device="cpu, 1 thread(s)")
    with pytest.raises(InputError, match="measured 32 images a step"):
        predict.main(["--system", str(demo), "--resnet-probe", *files])


def test_the_sizes_of_a_demonstration_need_no_data(demo: Path):
    system = load_system(demo)
    for benchmark, sizes in (("resnet", (1440, 480)), ("bert", (0, 512))):
        job = read_settings(system, benchmark).job
        assert (job.evaluation_samples, job.samples_per_point) == (sizes[1], sizes[0] or 1)


def test_earlier_runs_say_where_a_demonstration_converges(demo: Path, capsys, tmp_path: Path):
    for number in range(3):
        write_log(tmp_path / "runs/resnet" / f"result_{number}.txt", 0.2, 3)
    common = ["--system", str(demo), "--images-per-second", "500"]
    found = predict_json(capsys, *common, "--runs-from", str(tmp_path / "runs"))
    assert found["benchmarks"]["resnet"]["converges_at"] == 3
    assert found["benchmarks"]["resnet"]["convergence_source"] == f"3 runs in {tmp_path / 'runs'}"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "--system"),
        (["--system", H200], "give a rate"),
        (["--system", H200, "--images-per-second", "0"], "must be a positive number, is '0'"),
        (["--system", H200, "--images-per-second", "-1"], "must be a positive number"),
        (["--system", H200, "--images-per-second", "nan"], "must be a positive number, is 'nan'"),
        (["--system", H200, "--images-per-second", "inf"], "must be a positive number"),
        (["--system", H200, "--images-per-second", "fast"], "must be a positive number"),
        (["--system", H200, *RATES, "--seed", "0"], "whole number"),
        (["--system", H200, *RATES, "--seed", "9" * 5000], "whole number"),
        (["--system", H200, *RATES, "--resnet-probe", "x"], "not both"),
        (["--system", H200, "--resnet-probe", "a", "b", "c"], "one or two files"),
        (["--system", "nowhere", *RATES], "no system 'nowhere'"),
        (["--system", H200, "--resnet-probe", "no.json"], "no.json: no such file"),
        (["--system", H200, *RATES, "--runs-from", "nowhere"], "nowhere: no such folder"),
        (["--system", H200, *RATES, "--runs-from", "docs"], "no finished run"),
        (["--system", H200, *RATES, "--resnet-epochs", "50"], "last evaluation is at 39 epochs"),
        (["--system", H200, *RATES, "--report", "/nowhere/x.html"], "/nowhere/x.html: no such"),
        (["validate", "--picture", "x.png"], "must end in .svg"),
        (["validate", "--document", "README.md"], "must hold the lines"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    arguments: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    monkeypatch.setattr(sys, "argv", ["predict", *arguments])
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        run_command(predict.main)
    written = capsys.readouterr()
    assert ended.value.code == 2
    assert written.out == ""
    assert sentence in written.err and len(written.err.strip().splitlines()) == 1


def test_the_command_needs_neither_torch_nor_a_trainer():
    code = (
        "import sys; from harness import predict; predict.parse(['--system', 'demo', "
        "'--images-per-second', '1']); "
        "print(sorted({'torch', 'nvidia', 'matplotlib', 'resnet', 'bert'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=600,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        ([("global_batch_size = 3072", "global_batch_size = 3073")], "32 ranks"),
        ([("global_batch_size = 3072", "global_batch_size = 32768"),
          ("local_batch_size = 96", "local_batch_size = 1024"),
          ("interval_samples = 175000", "interval_samples = 525000")], "largest reference"),
        ([("training_steps = 1059", "training_steps = 2")], "before its first evaluation"),
        ([("training_steps = 1059", "training_steps = 200")], "no campaign would be valid"),
        ([("bucket_megabytes = 50", "bucket_megabytes = 0")], "'bucket_megabytes' must be"),
        ([("hidden_size = 1024", "hidden_size = 'x'")], "'model.hidden_size' must be"),
        ([("interval_samples = 175000", "")], "[evaluation] key 'interval_samples' is missing"),
        ([("[optimizer]", "[optimiser]")], "unknown key 'optimiser'"),
        ([("[optimizer]", "[optimizer")], "not valid TOML"),
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_be_used_is_named(
    tmp_path: Path, pairs: list[tuple[str, str]], sentence: str
):
    system = make_system(tmp_path, *pairs)
    with pytest.raises(InputError, match=re.escape(sentence)):
        predict.main(["--system", str(system), "--sequences-per-second", "950"])


def test_a_learning_rate_that_nobody_published_is_noted(capsys, tmp_path: Path):
    system = make_system(tmp_path, ("base_learning_rate = 2.0992e-3", "base_learning_rate = 1e-4"))
    found = predict_json(capsys, "--system", str(system), "--sequences-per-second", "950")
    notes = " ".join(found["benchmarks"]["bert"]["notes"])
    assert "nobody has published runs with these hyperparameters" in notes
    assert "learning rate 0.0001" in notes
    known = predict_json(capsys, "--system", str(make_system(tmp_path)),
                         "--sequences-per-second", "950")  # fmt: skip
    assert "nobody has published" not in " ".join(known["benchmarks"]["bert"]["notes"])
    assert known["B_band"][1] / known["B_band"][0] < found["B_band"][1] / found["B_band"][0]


@pytest.mark.parametrize(
    ("points", "device", "sentence"),
    [
        ([(102, 0.015), (102, 0.015)], "NVIDIA H200", "the same batch"),
        ([(102, 0.015), (204, 0.015)], "NVIDIA H200", "no slower"),
        ([(102, 0.015)], "cpu, 2 thread(s)", "has GPUs"),
    ],
)
def test_probes_that_cannot_be_used_are_named(
    tmp_path: Path, points: list[tuple[int, float]], device: str, sentence: str
):
    files = write_probes(tmp_path, *points, device=device)
    with pytest.raises(InputError, match=sentence):
        predict.main(["--system", H200, "--resnet-probe", *files])


def test_probes_of_two_devices_are_refused(tmp_path: Path):
    (tmp_path / "other").mkdir()
    files = write_probes(tmp_path, (102, 0.015))
    files += write_probes(tmp_path / "other", (204, 0.03), device="NVIDIA A100")
    with pytest.raises(InputError, match="two probes of one device"):
        predict.main(["--system", H200, "--resnet-probe", *files])


def test_the_models_have_their_true_sizes():
    system = load_system(SYSTEM)
    resnet, bert = read_settings(system, "resnet"), read_settings(system, "bert")
    # 64 filters of 7 x 7 on the fourth, empty input channel beside ResNet-50's 25,557,032.
    assert resnet.job.gradient_bytes == 2 * (25_557_032 + 64 * 49)
    assert bert.job.gradient_bytes == 2 * 336_226_108
    last = 10 * (1 << 20) / LAST_PART / resnet.job.gradient_bytes
    assert resnet.job.last_bucket_share == pytest.approx(last)
    # The embedding tables; sharded: half of the exchange brings them and all others back.
    tables = 2 * (30_522 + 512 + 2) * 1024 / bert.job.gradient_bytes
    assert bert.job.last_bucket_share == pytest.approx(tables)
    assert (bert.job.gathered_share, resnet.job.gathered_share) == (0.5, 0.0)
    assert bert.job.first_bucket_share == pytest.approx(tables)
    assert resnet.job.grid.points == tuple(float(e) for e in range(3, 40, 4))
    assert bert.job.grid.points[-1] == 3_150_000
    assert (resnet.local_samples, bert.local_samples) == (102, 96)


def test_two_failed_runs_make_a_campaign_invalid():
    from harness.prediction_assumptions import assume
    from harness.prediction_convergence import Convergence
    from harness.prediction_inputs import Inputs

    system = load_system(SYSTEM)
    settings = read_settings(system, "bert")
    assumed = assume(system, settings, Inputs(rate=950.0), 2, [])
    # Half of the runs converge after the schedule's last evaluation.
    halves = Convergence("test", values=(2.5e6, 9e6))
    campaigns = simulate(settings.job, assumed, halves, None, 1)
    assert campaigns.run_failure == pytest.approx(0.5, abs=0.01)
    assert campaigns.campaign_failure == pytest.approx(1 - 11 / 1024, abs=0.01)
    valid = campaigns.minutes[~np.isnan(campaigns.minutes)]
    assert len(valid) > 0 and np.isfinite(valid).all()
    assert campaigns.point == pytest.approx(2_625_000)


def test_a_slower_machine_gives_longer_campaigns_in_proportion():
    from harness.prediction_assumptions import assume
    from harness.prediction_campaign import take_band
    from harness.prediction_inputs import Inputs, choose_convergence

    system = load_system(SYSTEM)
    settings = read_settings(system, "bert")
    given = Inputs(rate=950.0, evaluation_per_second=1000.0)
    convergence, reference = choose_convergence(system, settings, given, [])
    assumed = assume(system, settings, given, 2, [])
    minutes = [
        take_band(simulate(settings.job, one, convergence, reference, 1).minutes)[0]
        for one in (assumed, replace(assumed, machine_factor=2.0))
    ]
    assert 1.8 < minutes[1] / minutes[0] < 2.0


def test_the_page_is_whole_and_loads_nothing(tmp_path: Path, capsys):
    page = tmp_path / "page.html"
    assert predict.main(["--system", H200, *RATES, "--report", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 6 and text.rstrip().endswith("</html>")
    assert "script" not in text and "style=" not in text
    assert not re.search(r'(?:src|href)="', text)
    assert "Training step of one rank" in text and "RCP mean" in text
    # An accelerator has one colour in the pictures of both benchmarks.
    entry = r'fill="(#\w+)"/>\n<text [^>]*>H200-SXM-141GB<'
    assert len(set(re.findall(entry, text))) == 1 and len(re.findall(entry, text)) == 2
    assert capsys.readouterr().out.count("R = ") >= 1


def test_a_demonstration_says_so_on_its_page(demo: Path, tmp_path: Path):
    page = tmp_path / "page.html"
    predict.main(["--system", str(demo), "--images-per-second", "500", "--report", str(page)])
    assert "DEMONSTRATION" in page.read_text(encoding="utf-8")
