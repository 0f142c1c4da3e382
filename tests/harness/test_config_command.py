"""A configuration that no rank could use is refused before a rank is started."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.campaign import main as run_campaign
from harness.commands import InputError
from harness.config_command import ROOT, find_configuration_fault, list_undeliverable
from harness.launch import BENCHMARKS, SYSTEMS
from harness.launch import main as launch
from harness.predict import main as predict
from harness.preflight import check_configuration
from harness.systems import load_system
from harness.tune import main as tune

FAULTS = [
    ("resnet", "momentum =", "momentun =", "[optimizer] unknown key 'momentun'"),
    ("resnet", "momentum = 0.9", "", "[optimizer] key 'momentum' is missing"),
    ("resnet", "classes = 12", "classes = true", "'model.classes' must be a whole number"),
    ("resnet", "decay_power = 2", "decay_power = 1", "[optimizer] 'decay_power' is 2 by the rules"),
    ("resnet", 'lars_update = "torch"', 'lars_update = "tritn"', "'tritn' is no provider"),
    ("resnet", "lars_update", "lamb", "not used by this model: lamb"),
    ("resnet", "global_batch_size = 64", "global_batch_size = 96", "make them agree"),
    ("resnet", "[graphs]\nstep = false", "[graphs]\nstep = true", "the device is a CPU"),
    ("bert", "beta_1 = ", "beta1 = ", "[optimizer] unknown key 'beta1'"),
    ("bert", 'lamb = "torch"', 'lamb = "te"', "operation lamb: 'te' does not implement it"),
    ("bert", "local_batch_size = 16", "local_batch_size = 15", "make them agree"),
    ("bert", "training_steps = 256", "training_steps = 9", "before its first evaluation"),
    ("bert", "format = ", "format == ", "not valid TOML"),
]


def name_changed(folder: Path, benchmark: str, old: str, new: str) -> Path:
    """The demonstration's system, which names a changed configuration of one benchmark."""
    config = ROOT / benchmark / "configs" / "demo.toml"
    text = config.read_text(encoding="utf-8")
    assert old in text
    changed = folder / f"{benchmark}.toml"
    changed.write_text(text.replace(old, new, 1), encoding="utf-8")
    system = (SYSTEMS / "demo.toml").read_text(encoding="utf-8")
    file = folder / "demo.toml"
    file.write_text(
        system.replace(f"{benchmark}/configs/demo.toml", str(changed)), encoding="utf-8"
    )
    return file


@pytest.mark.parametrize(("benchmark", "old", "new", "words"), FAULTS)
def test_a_configuration_that_no_rank_can_use(
    benchmark: str, old: str, new: str, words: str, tmp_path: Path
) -> None:
    file = name_changed(tmp_path, benchmark, old, new)
    fault = find_configuration_fault(file, benchmark)
    assert fault is not None and words in fault and "\n" not in fault
    assert fault.startswith(f"{tmp_path / benchmark}.toml: ")
    (other,) = {*BENCHMARKS} - {benchmark}
    assert find_configuration_fault(file, other) is None


def test_another_interval_than_the_rules(tmp_path: Path) -> None:
    file = SYSTEMS / "example-4x8-h200.toml"
    text = file.read_text(encoding="utf-8")
    config = ROOT / load_system(file).benchmarks.bert.config
    changed = tmp_path / "bert.toml"
    changed.write_text(
        re.sub("interval_samples = .*", "interval_samples = 99", config.read_text("utf-8")), "utf-8"
    )
    copy = tmp_path / file.name
    copy.write_text(text.replace(load_system(file).benchmarks.bert.config, str(changed)), "utf-8")
    assert find_configuration_fault(file, "bert") is None
    assert "the rule asks for" in (find_configuration_fault(copy, "bert") or "")


def test_nothing_is_started_or_made(tmp_path: Path) -> None:
    file = name_changed(tmp_path, "bert", "beta_1 = ", "beta1 = ")
    results, log = tmp_path / "results", tmp_path / "log.txt"
    for more in ([], ["--dry-run"]):
        with pytest.raises(InputError, match="unknown key 'beta1'"):
            run_campaign(["--system", str(file), "--results", str(results), *more])
        with pytest.raises(InputError, match="unknown key 'beta1'"):
            launch(["--system", str(file), "--benchmark", "bert", "--log", str(log), *more])
    assert not results.exists() and not log.exists()


def test_nothing_is_predicted_or_tuned(tmp_path: Path) -> None:
    file = name_changed(tmp_path, "bert", 'lamb = "torch"', 'lamb = "tritn"')
    output, report = tmp_path / "tune", tmp_path / "report.html"
    with pytest.raises(InputError, match="'tritn' is no provider"):
        tune(["--system", str(file), "--budget", "1", "--output", str(output)])
    rates = ["--images-per-second", "500", "--sequences-per-second", "100"]
    with pytest.raises(InputError, match="'tritn' is no provider"):
        predict(["--system", str(file), *rates, "--report", str(report)])
    assert not output.exists() and not report.exists()
    assert predict(["--system", str(file), *rates[:2]]) == 0  # which asks nothing of BERT


def test_a_campaign_looks_at_what_it_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = name_changed(tmp_path, "bert", "beta_1 = ", "beta1 = ")
    assert run_campaign(["--system", str(file), "--benchmark", "resnet", "--dry-run"]) == 0
    assert "resnet.train run" in capsys.readouterr().out


def test_a_configuration_that_no_package_could_deliver_is_told_before_the_campaign(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = name_changed(tmp_path, "bert", "dropout = 0.1", "dropout = 0.1")
    assert run_campaign(["--system", str(file), "--dry-run", "--results", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert f"{tmp_path}/bert.toml is none of the kit's sources: no package can" in said
    assert "resnet/configs/demo.toml is none" not in said
    assert list_undeliverable(load_system(file), ["bert"]) == [f"{tmp_path}/bert.toml"]
    assert list_undeliverable(load_system(SYSTEMS / "demo.toml"), BENCHMARKS) == []


def test_preflight_says_it(tmp_path: Path) -> None:
    file = name_changed(tmp_path, "resnet", "momentum =", "momentun =")
    system = load_system(file)
    failed = check_configuration(system, file, "resnet")
    assert failed.verdict == "failed" and "unknown key 'momentun'" in failed.found and failed.mend
    assert check_configuration(system, file, "bert").verdict == "ok"


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_the_command_needs_no_torch(benchmark: str) -> None:
    """It is started before every dry run, and where the machine that launches has no torch."""
    program = (
        f"import sys, {benchmark}.config; "
        "sys.exit(' '.join({'torch', 'numpy'} & {*sys.modules}) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
