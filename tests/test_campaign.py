"""Campaigns: finished runs kept, faults told and survived, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.processes import list_descendants
from tests.conftest import ROOT, Kit


def campaign_command(kit: Kit, results: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "harness.campaign", "--system", str(kit.system)]
    return [*command, "--results", str(results), *options]


def run_campaign(kit: Kit, results: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = campaign_command(kit, results, *options)
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )


def lengthen(kit: Kit) -> None:
    """Make a ResNet run last for minutes and learn nothing, so that it can be disturbed."""
    pairs = ("decay_epochs = 2", "decay_epochs = 4000"), ("rate = 5.0", "rate = 0.0002")
    kit.change(kit.resnet_config, *pairs)


def wait_for(condition: object, seconds: float = 600) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.2)


def find_trainers(pid: int) -> list[int]:
    """The living ranks below a process: interpreters that run a trainer."""
    found = []
    for child in list_descendants(pid):
        try:
            words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"resnet.train" in words and b"--bind-to" not in words:
            found.append(child)
    return found


def is_alive(pid: int) -> bool:
    """Whether a process still runs; one that has ended and waits to be collected does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"


def start_long_run(kit: Kit, results: Path) -> subprocess.Popen[str]:
    """Start a campaign of one long ResNet run and wait until its clock runs."""
    log = results / "small" / "resnet" / ".unfinished_0.txt"
    process = subprocess.Popen(
        campaign_command(kit, results, "--benchmark", "resnet", "--runs", "1"),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    wait_for(lambda: log.exists() and '"run_start"' in log.read_text())
    return process


def test_missed_targets_are_scored_as_such_and_kept(kit: Kit) -> None:
    results = kit.folder / "results"
    done = run_campaign(kit, results, "--runs", "1", "--benchmark", "bert")
    assert done.returncode == 1, done.stderr
    assert "failed" not in done.stderr
    score = json.loads((results / "small" / "score.json").read_text())
    assert score["valid"] is False and score["score"] is None and score["profile"] == "demo"
    assert (results / "small" / "report.html").stat().st_size > 1000
    assert "bert run 1 of 1: aborted, accuracy 0." in done.stderr
    assert done.stdout.splitlines()[-1] == "score = 7.19/R + 9.05/B = none"
    first = (results / "small" / "bert" / "result_0.txt").read_bytes()

    refused = run_campaign(kit, results, "--runs", "2", "--benchmark", "bert")
    assert refused.returncode == 2 and "--resume" in refused.stderr
    assert "Traceback" not in refused.stderr

    resumed = run_campaign(kit, results, "--runs", "2", "--benchmark", "bert", "--resume")
    assert "bert run 1 of 2: kept" in resumed.stderr
    logs = sorted(path.name for path in (results / "small" / "bert").iterdir())
    assert logs == ["result_0.txt", "result_1.txt"]
    assert (results / "small" / "bert" / "result_0.txt").read_bytes() == first
    seeds = [
        json.loads(line[9:])["value"]
        for name in logs
        for line in (results / "small" / "bert" / name).read_text().splitlines()
        if '"key": "seed"' in line
    ]
    assert len(seeds) == 2 and seeds[0] != seeds[1]

    kit.change(kit.bert_config, ("training_steps = 8", "training_steps = 9"))
    changed = run_campaign(kit, results, "--runs", "3", "--benchmark", "bert", "--resume")
    assert changed.returncode == 2 and "has changed since" in changed.stderr


def test_a_killed_rank_ends_all_and_resume_goes_on(kit: Kit) -> None:
    lengthen(kit)
    results = kit.folder / "results"
    process = start_long_run(kit, results)
    ranks = find_trainers(process.pid)
    assert len(ranks) == 4
    os.kill(ranks[2], signal.SIGKILL)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "resnet run 1 of 1 failed" in errors and "--resume" in errors
    assert not any(is_alive(rank) for rank in ranks)
    folder, failed = results / "small" / "resnet", results / "small" / "failed"
    assert not (folder / "result_0.txt").exists()
    log = (failed / "resnet_0_0.txt").read_text()
    assert '"run_start"' in log and "run_stop" not in log
    reason = json.loads((failed / "resnet_0_0.json").read_text())["reason"]
    assert "exited on signal 9" in reason and reason in errors

    # The settings of a campaign without finished runs may change; this one now ends by itself.
    kit.change(kit.resnet_config, ("decay_epochs = 4000", "decay_epochs = 2"))
    options = ("--benchmark", "resnet", "--runs", "1", "--resume")
    resumed = run_campaign(kit, results, *options)
    assert "resnet run 1 of 1: aborted" in resumed.stderr
    assert [path.name for path in folder.iterdir()] == ["result_0.txt"]
    assert "failed attempts on record" in resumed.stdout and reason in resumed.stdout
    assert (failed / "resnet_0_0.txt").read_text() == log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_orphan_and_no_half_written_log(
    kit: Kit, number: signal.Signals
) -> None:
    lengthen(kit)
    results = kit.folder / "results"
    earlier = results / "small" / "bert" / "result_0.txt"
    process = start_long_run(kit, results)
    ranks = find_trainers(process.pid)
    earlier.parent.mkdir()
    earlier.write_text("a finished log\n")
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert not any(is_alive(rank) for rank in ranks)
    assert list((results / "small" / "resnet").iterdir()) == []
    record = json.loads((results / "small" / "failed" / "resnet_0_0.json").read_text())
    assert "was interrupted" in record["reason"] and record["clock_started"] is True
    assert earlier.read_text() == "a finished log\n"


@pytest.mark.parametrize(
    ("results", "words"),
    [("/proc/results", "cannot use"), ("file/below", "a folder is wanted")],
)
def test_unwritable_results(kit: Kit, results: str, words: str) -> None:
    (kit.folder / "file").touch()
    done = run_campaign(kit, kit.folder / results, "--benchmark", "bert")
    assert done.returncode == 2
    note, error = done.stderr.splitlines()
    assert "is none of the kit's sources" in note and words in error


def test_a_missing_configuration_is_told_before_anything_runs(kit: Kit) -> None:
    kit.bert_config.unlink()
    done = run_campaign(kit, kit.folder / "results", "--dry-run")
    assert done.returncode == 2 and "bert.toml: no such configuration file" in done.stderr
    assert done.stdout == ""


def test_wrong_usage() -> None:
    for options in (["--runs", "0"], ["--benchmark", "gpt"], ["--system", "nowhere"]):
        command = [sys.executable, "-m", "harness.campaign", *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1
