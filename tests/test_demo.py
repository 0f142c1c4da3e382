"""The demonstration itself: it reaches both targets late, and misses them without learning."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.test_runs import check_compliance, read_events

TARGETS = {"resnet": 0.759, "bert": 0.720}


@pytest.fixture(scope="module")
def demo_system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demonstration's system with data of its own, made as a user's is."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "demo", "--output", str(folder / "data")]
    subprocess.run(command, cwd=ROOT, check=True)
    system = folder / "demo.toml"
    text = (ROOT / "systems" / "demo.toml").read_text()
    system.write_text(text.replace('"data/demo/', f'"{folder}/data/'))
    return system


def launch(system: Path, benchmark: str, log: Path) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "harness.launch", "--system", str(system)]
    command += ["--benchmark", benchmark, "--log", str(log)]
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=900, check=False)
    return read_events(log)


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_targets_are_reached_after_the_first_evaluation(
    demo_system: Path, tmp_path: Path, benchmark: str
) -> None:
    log = tmp_path / "result_0.txt"
    events = launch(demo_system, benchmark, log)
    values = [event["value"] for event in events if event["key"] == "eval_accuracy"]
    assert len(values) > 1
    assert all(value < TARGETS[benchmark] for value in values[:-1])
    assert TARGETS[benchmark] <= values[-1] < 1
    assert events[-1]["key"] == "run_stop"
    assert events[-1]["metadata"]["status"] == "success"
    assert check_compliance(log, tmp_path)


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_nothing_is_reached_without_a_learning_rate(
    demo_system: Path, tmp_path: Path, benchmark: str
) -> None:
    """The data does not give the target away: three evaluations with learning rate 0 miss it."""
    config = tmp_path / "config.toml"
    text = (ROOT / benchmark / "configs" / "demo.toml").read_text()
    changes = {
        "resnet": {
            "base_learning_rate = 5.0": "base_learning_rate = 0.0",
            "_epochs = 12": "_epochs = 7",
        },
        "bert": {
            "base_learning_rate = 0.01": "base_learning_rate = 0.0",
            "_steps = 256": "_steps = 48",
        },
    }
    for old, new in changes[benchmark].items():
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)
    system = tmp_path / "demo.toml"
    shutil.copy(demo_system, system)
    system.write_text(system.read_text().replace(f'"{benchmark}/configs/demo.toml"', f'"{config}"'))
    log = tmp_path / "result_0.txt"
    events = launch(system, benchmark, log)
    values = [event["value"] for event in events if event["key"] == "eval_accuracy"]
    assert len(values) >= 2
    assert max(values) < TARGETS[benchmark]
    assert events[-1]["metadata"]["status"] == "aborted"
    assert not check_compliance(log, tmp_path)


def test_a_demonstration_is_never_taken_for_a_submission(demo_system: Path, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "bert"
    folder.mkdir(parents=True)
    launch(demo_system, "bert", folder / "result_0.txt")
    command = [sys.executable, "-m", "scoring", "score", str(folder.parent), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    score = json.loads(done.stdout)
    rules = {finding["rule"] for finding in score["findings"] if finding["severity"] == "error"}
    assert "demonstration" in rules
    assert score["valid"] is False and score["score"] is None
