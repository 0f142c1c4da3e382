"""Whether a change is real: on probes, on runs, and for inputs that cannot be compared."""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ttest_ind

from harness import compare
from harness.commands import InputError, run_command
from harness.comparison_runs import read_run
from harness.comparison_statistics import compare_medians, compare_values
from tests.harness.test_prediction_step import make_probe


def write_probe(path: Path, median: float, spread: float = 0.01, **changes: Any) -> Path:
    step = {"median": median, "p10": median * (1 - spread), "p90": median * (1 + spread)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make_probe(step_seconds=step, **changes)), encoding="utf-8")
    return path


def make_events(
    benchmark: str, pace: float, evaluations: int, first: float = 0.0, status: str = "success"
) -> list[tuple[str, Any, float, dict[str, Any]]]:
    """Events of a run that trains 1000 samples between evaluations of 2 s, at `pace` seconds each.

    first: seconds that the first interval takes longer.
    """
    now, unit = 0.0, 4 if benchmark == "resnet" else 1000
    events: list[tuple[str, Any, float, dict[str, Any]]] = [
        ("global_batch_size", 64, 0.0, {}),
        ("run_start", None, 0.0, {}),
    ]
    if benchmark == "resnet":
        events.append(("train_samples", 250, 0.0, {}))
    for number in range(1, evaluations + 1):
        now += pace * 1000 + (first if number == 1 else 0.0)
        where = {"epoch_num": number * unit}
        events.append(("eval_start", None, now, where))
        events.append(("eval_stop", None, now + 2, where))
        events.append(("eval_accuracy", 0.1 * number, now + 2, where))
        now += 2
    return [*events, ("run_stop", None, now, {"status": status})]


def write_log(path: Path, events: list[tuple[str, Any, float, dict[str, Any]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        ":::MLLOG " + json.dumps({"key": k, "value": v, "time_ms": round(1000 * t), "metadata": m})
        for k, v, t, m in events
    ]
    path.write_text("\n".join(["noise", "0: " + lines[0], *lines[1:]]), encoding="utf-8")
    return path


def write_results(folder: Path, pace: float, runs: int = 5, seed: int = 0) -> Path:
    """Runs whose pace scatters by 1 % and whose convergence by several evaluations."""
    chance = random.Random(seed)
    for number in range(runs):
        events = make_events("bert", pace * chance.gauss(1, 0.01), chance.choice([4, 5, 6, 7]))
        write_log(folder / "bert" / f"result_{number}.txt", events)
    return folder


def compare_json(capsys: Any, status: int, *arguments: Any) -> dict[str, Any]:
    assert compare.main([*map(str, arguments), "--json"]) == status
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("sizes", [(5, 5), (10, 4), (2, 3)])
def test_runs_are_judged_by_welchs_test(sizes: tuple[int, int]):
    generator = np.random.default_rng(1)
    first, second = generator.normal(10, 1, sizes[0]), generator.normal(11, 3, sizes[1])
    found = compare_values("x", "s", first.tolist(), second.tolist(), 0.05)
    theirs = ttest_ind(second, first, equal_var=False)
    assert found is not None and found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    interval = theirs.confidence_interval(0.95)
    assert found.low == pytest.approx(interval.low / first.mean(), rel=1e-9)
    assert found.high == pytest.approx(interval.high / first.mean(), rel=1e-9)


def test_noise_is_called_a_change_as_rarely_as_stated():
    generator = np.random.default_rng(2)
    values = generator.normal(10, 1, (2000, 2, 5))
    found = [compare_values("x", "s", a.tolist(), b.tolist(), 0.05) for a, b in values]
    called = sum(one is not None and one.is_real(0.05) for one in found) / len(found)
    assert 0.03 < called < 0.06


def test_medians_of_steps_are_judged_as_often_as_stated():
    generator = np.random.default_rng(3)
    called = 0
    for _ in range(1000):
        a, b = generator.normal(10, 1, (2, 200))
        ranges = tuple(float(np.subtract(*np.percentile(x, (90, 10)))) for x in (a, b))
        medians = (float(np.median(a)), float(np.median(b)))
        found = compare_medians("x", "s", medians, (ranges[0], ranges[1]), (200, 200), 0.05)
        called += found.is_real(0.05)
    assert 20 < called < 80


def test_a_change_of_the_detectable_size_is_seen_in_four_of_five_tries():
    generator = np.random.default_rng(4)
    seen = 0
    first = compare_values(
        "x", "s", generator.normal(100, 1, 2000).tolist(), generator.normal(100, 1, 2000).tolist(),
        0.05,
    )  # fmt: skip
    assert first is not None and first.detectable is not None
    # For 10 runs instead of 2000 the same formula grows by sqrt(200), and Student's t by 5 %.
    size = 100 * first.detectable * np.sqrt(200) * 1.05
    for _ in range(1000):
        a, b = generator.normal(100, 1, 10), generator.normal(100 + size, 1, 10)
        found = compare_values("x", "s", a.tolist(), b.tolist(), 0.05)
        seen += found is not None and found.is_real(0.05)
    assert 740 < seen < 860


def test_equal_and_single_values_have_no_verdict():
    same = compare_values("x", "s", [3.0, 3.0], [3.0, 3.0], 0.05)
    assert same is not None and same.p is None and same.change == 0
    single = compare_values("x", "s", [3.0], [4.0, 4.1], 0.05)
    assert single is not None and single.p is None and single.change > 0.3
    assert compare_values("x", "s", [], [1.0], 0.05) is None


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_a_log_is_split_into_its_parts(tmp_path: Path, benchmark: str):
    events = make_events(benchmark, pace=0.01, evaluations=5, first=3.0)
    run = read_run(write_log(tmp_path / "result_0.txt", events), benchmark)
    assert run.samples_per_second == pytest.approx(5000 / 53)
    assert run.evaluation_seconds == pytest.approx(2.0)
    assert run.first_interval_extra_seconds == pytest.approx(3.0)
    assert run.minutes == pytest.approx(63 / 60)
    assert run.converged_at == (20 if benchmark == "resnet" else 5000)


def test_a_missed_target_has_a_rate_but_no_time(tmp_path: Path):
    events = make_events("bert", 0.01, 3, status="aborted")
    run = read_run(write_log(tmp_path / "result_0.txt", events), "bert")
    assert run.minutes is None and run.converged_at is None and run.samples_per_second > 0


def test_a_faster_step_is_seen_in_the_rate_where_chance_hides_it_in_the_time(capsys, tmp_path):
    slow = write_results(tmp_path / "a", 0.0100, seed=1)
    fast = write_results(tmp_path / "b", 0.0095, seed=2)
    found = compare_json(capsys, 0, slow, fast)["benchmarks"]["bert"]
    measures = {measure["name"]: measure for measure in found["measures"]}
    rate = measures["training rate, evaluation excluded"]
    assert rate["real"] and rate["change"] == pytest.approx(0.05, abs=0.02)
    assert not measures["time to target"]["real"]
    back = compare_json(capsys, 1, fast, slow)["benchmarks"]["bert"]
    assert back["second_is_slower"] is True


def test_two_probes_are_compared_with_a_warning(capsys, tmp_path: Path):
    first = write_probe(tmp_path / "a.json", 0.0150)
    second = write_probe(tmp_path / "b.json", 0.0153)
    found = compare_json(capsys, 1, first, second)["benchmarks"]["resnet"]
    assert found["measures"][0]["change"] == pytest.approx(0.02)
    assert found["measures"][0]["real"] is True
    assert "one probe a side" in found["notes"][0]
    compare.main([str(first), str(first)])
    assert "not shown" in capsys.readouterr().out


def test_folders_of_probes_are_compared_by_their_medians(capsys, tmp_path: Path):
    for number, noise in enumerate((0.99, 1.0, 1.01)):
        write_probe(tmp_path / "a" / f"{number}.json", 0.015 * noise)
        write_probe(tmp_path / "b" / f"{number}.json", 0.01505 * noise)
    found = compare_json(capsys, 0, tmp_path / "a", tmp_path / "b")["benchmarks"]["resnet"]
    assert found["measures"][0]["counts"] == [3, 3]
    assert found["measures"][0]["real"] is False
    assert found["measures"][0]["detectable"] > 0.01


def test_what_differs_beside_speed_is_noted(capsys, tmp_path: Path):
    first = write_probe(tmp_path / "a.json", 0.015)
    second = write_probe(tmp_path / "b.json", 0.030, device="NVIDIA A100", samples_per_step=204)
    notes = " ".join(compare_json(capsys, 0, first, second)["benchmarks"]["resnet"]["notes"])
    assert "devices differ: NVIDIA H200 and NVIDIA A100" in notes
    assert "samples a step differ: 102 and 204" in notes


def test_settings_that_changed_between_campaigns_are_named(capsys, tmp_path: Path):
    for name, value in (("a", "1"), ("b", "2")):
        write_results(tmp_path / name, 0.01)
        record = {"systems/x.toml": "same", "bert/configs/x.toml": value}
        (tmp_path / name / "campaign.json").write_text(json.dumps(record), encoding="utf-8")
    found = compare_json(capsys, 0, tmp_path / "a", tmp_path / "b")
    assert "settings that differ (campaign.json): bert/configs/x.toml" in " ".join(
        found["benchmarks"]["bert"]["notes"]
    )


def refuse(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    monkeypatch.setattr(sys, "argv", ["compare", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_command(compare.main)
    written = capsys.readouterr()
    assert ended.value.code == 2 and written.out == ""
    assert len(written.err.strip().splitlines()) == 1
    return written.err


def test_sides_that_do_not_match_are_refused(tmp_path: Path, monkeypatch, capsys):
    probe = str(write_probe(tmp_path / "a.json", 0.015))
    other = str(write_probe(tmp_path / "b.json", 0.015, benchmark="bert"))
    results = str(write_results(tmp_path / "runs", 0.01))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "different benchmarks" in refuse([probe, other], monkeypatch, capsys)
    assert "give two of a kind" in refuse([probe, results], monkeypatch, capsys)
    assert "nothing to compare" in refuse([str(empty), results], monkeypatch, capsys)
    assert "no such file" in refuse([probe, str(tmp_path / "x")], monkeypatch, capsys)
    level = [probe, probe, "--level", "2"]
    assert "between 0 and 0.5" in refuse(level, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"run_stop": None}, "has no run_stop line"),
        ({"global_batch_size": None}, "has no global_batch_size line"),
        ({"global_batch_size": ("x", 0.0, {})}, "value of global_batch_size must be a number"),
        ({"eval_stop": (None, 12.0, {}), "eval_accuracy": None}, "epoch_num of eval_stop"),
        ({"eval_stop": None, "eval_accuracy": None}, "has no evaluation"),
        ({"run_stop": (None, 1.0, {"status": "success"})}, "clocks are wrong"),
        ({"run_stop": (None, float("nan"), {})}, "time_ms of run_stop must be a number"),
    ],
)
def test_a_log_that_is_not_whole_is_named(tmp_path: Path, change: dict[str, Any], word: str):
    events = []
    for key, value, at, metadata in make_events("bert", 0.01, 3):
        if key not in change:
            events.append((key, value, at, metadata))
        elif change[key] is not None:
            events.append((key, *change[key]))
    path = tmp_path / "result_0.txt"
    lines = [
        ":::MLLOG " + json.dumps({"key": k, "value": v, "time_ms": 1000 * t, "metadata": m})
        for k, v, t, m in events
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputError, match=word):
        read_run(path, "bert")


def test_hostile_lines_are_passed_over(tmp_path: Path):
    path = write_log(tmp_path / "result_0.txt", make_events("bert", 0.01, 3))
    with open(path, "ab") as file:
        file.write(b"\n:::MLLOG {\n:::MLLOG []\n:::MLLOG " + b"[" * 50_000 + b"\n\xff\xfe\n")
    assert read_run(path, "bert").converged_at == 3000


def read_page(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text and "<img" not in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    return text


def test_the_page_of_two_folders_of_probes(tmp_path: Path, capsys: Any):
    for side, median in (("a", 0.1), ("b", 0.08)):
        for number in range(4):
            probe = tmp_path / side / f"{number}.json"
            write_probe(probe, median * (1 + 0.001 * number), device="<b>GPU</b>")
    page = tmp_path / "page.html"
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--report", str(page)])
    text = read_page(page)
    assert "A to B, real" in text and "step time" in text
    assert text.count("<circle") == 2 * (4 * 3 + 1) + 2 * (4 + 1), "points and legends"
    assert f"wrote {page}" in capsys.readouterr().err


def test_the_page_of_two_results_folders(tmp_path: Path):
    first = write_results(tmp_path / "a", 10.0)
    second = write_results(tmp_path / "b", 11.0, seed=1)
    page = tmp_path / "page.html"
    assert compare.main([str(first), str(second), "--report", str(page)]) == 1
    text = read_page(page)
    assert "DEMONSTRATION" not in text
    assert "Where the time of a mean run went" in text
    assert "Training rate between evaluations" in text


def test_a_measure_about_zero_changes_in_its_unit(tmp_path: Path, capsys: Any):
    for side, firsts in (("a", (-1.0, -1.1, -1.2)), ("b", (2.0, 2.1, 2.2))):
        for number, first in enumerate(firsts):
            events = make_events("resnet", 0.02, 4, first=first)
            write_log(tmp_path / side / "resnet" / f"result_{number}.txt", events)
    sides = (tmp_path / "a", tmp_path / "b")
    compare.main([*map(str, sides)])
    text = capsys.readouterr().out
    assert re.search(r"later ones by \(s\) +-1\.1 +2\.1 +\+3\.2 s  real: \+2\.\d+ s to", text)
    assert "converged at (epochs)" in text and "one evaluation (s)" in text
    found = compare_json(capsys, 1, *sides)["benchmarks"]["resnet"]["measures"]
    changes = {one["name"]: one["change"] for one in found if one["absolute"]}
    assert list(changes.values()) == [pytest.approx(3.2)]


def test_runs_whose_logs_time_no_evaluation_are_not_said_to_evaluate_in_no_time(tmp_path: Path):
    for side, pace in (("a", 10.0), ("b", 11.0)):
        untimed = ("eval_start", "eval_stop")
        events = [event for event in make_events("bert", pace, 4) if event[0] not in untimed]
        for number in range(2):
            write_log(tmp_path / side / "bert" / f"result_{number}.txt", events)
    page = tmp_path / "page.html"
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--report", str(page)])
    text = read_page(page)
    assert "A, training and evaluation" in text and ">A, evaluation<" not in text
    assert "Time to target of each run" in text and "Training rate between" not in text


def test_rates_over_time_leave_evaluation_and_the_first_interval_apart(tmp_path: Path):
    log = write_log(tmp_path / "x.txt", make_events("bert", 0.01, 3, first=5.0))
    run = read_run(log, "bert")
    minutes, rates = zip(*run.rates, strict=True)
    assert minutes == pytest.approx((15 / 60, 27 / 60, 39 / 60))
    assert rates == pytest.approx((1000 / 15, 100.0, 100.0))
    assert run.seconds == pytest.approx(41.0)
    assert run.evaluations_seconds == pytest.approx(6.0)


def test_one_probe_is_pictured_alone(tmp_path: Path, capsys: Any):
    probe = write_probe(tmp_path / "one.json", 0.1, device="<b>GPU</b>")
    page = tmp_path / "page.html"
    assert compare.main([str(probe), "--report", str(page)]) == 0
    text = read_page(page)
    assert "&lt;b&gt;GPU" in text and "100 ms" in text
    assert capsys.readouterr().out == ""


def test_one_side_alone_needs_probes_and_a_page(tmp_path: Path, capsys: Any):
    probe = write_probe(tmp_path / "one.json", 0.1)
    with pytest.raises(SystemExit) as ended:
        compare.main([str(probe)])
    assert ended.value.code == 2 and "give B" in capsys.readouterr().err
    results = write_results(tmp_path / "results", 10.0)
    page = tmp_path / "page.html"
    with pytest.raises(InputError, match="holds no probes"):
        compare.main([str(results), "--report", str(page)])
    assert not page.exists()


def test_pages_of_a_demonstration_and_of_a_cpu_say_so(tmp_path: Path):
    events = [("submission_org", "demonstration", 0.0, {}), *make_events("bert", 1.0, 3)]
    for side in ("a", "b"):
        write_log(tmp_path / side / "bert" / "result_0.txt", events)
    page = tmp_path / "page.html"
    compare.main([str(tmp_path / "a"), str(tmp_path / "b"), "--report", str(page)])
    assert "DEMONSTRATION" in read_page(page)
    probe = write_probe(tmp_path / "one.json", 0.1, device="cpu, 1 thread(s)")
    compare.main([str(probe), "--report", str(page)])
    assert "Probes of a CPU" in read_page(page)
