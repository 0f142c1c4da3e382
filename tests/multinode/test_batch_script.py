"""scripts/campaign.sbatch without Slurm: what it passes on, when it queues itself again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT

SCRIPT = ROOT / "scripts" / "campaign.sbatch"

# Stands for the campaign: makes a result if told, then ends or waits to be stopped.
CAMPAIGN = """\
#!/usr/bin/env bash
echo "$@" >arguments
trap 'sleep 0.3; exit 130' TERM
{result}
touch started
{then}
"""
WAIT = "while :; do sleep 0.1; done"
RESULT = "mkdir -p out/x/resnet && touch out/x/resnet/result_0.txt"


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A folder to submit from, with a scontrol that writes down what it is asked."""
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/scontrol.txt\n')
    scontrol.chmod(0o755)
    return tmp_path


def start(job: Path, result: str, then: str, *options: str) -> subprocess.Popen[str]:
    kit = job / "run_and_time.sh"
    kit.write_text(CAMPAIGN.format(result=result, then=then))
    kit.chmod(0o755)
    environment = {**os.environ, "SLURM_SUBMIT_DIR": str(job), "SLURM_JOB_ID": "7"}
    environment["PATH"] = f"{job / 'bin'}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", str(SCRIPT), "--system", "x", *options],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def stop(job: Path, process: subprocess.Popen[str], number: signal.Signals) -> str:
    deadline = time.monotonic() + 600
    while not (job / "started").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    return process.communicate(timeout=600)[0]


@pytest.mark.parametrize("status", [0, 1, 2])
def test_the_campaigns_status_is_the_jobs(job: Path, status: int) -> None:
    process = start(job, "", f"exit {status}", "--runs", "3")
    process.communicate(timeout=600)
    assert process.returncode == status
    assert (job / "arguments").read_text() == "--system x --runs 3 --resume\n"
    assert not (job / "scontrol.txt").exists()


@pytest.mark.parametrize("options", [("--results", "out"), ("--results=out",)])
def test_the_time_limit_queues_the_job_again(job: Path, options: tuple[str, ...]) -> None:
    process = start(job, RESULT, WAIT, *options)
    text = stop(job, process, signal.SIGUSR1)
    assert process.returncode == 0, text
    assert (job / "scontrol.txt").read_text() == "requeue 7\n"


def test_a_job_that_came_no_further_is_not_queued_again(job: Path) -> None:
    process = start(job, "", WAIT, "--results", "out")
    text = stop(job, process, signal.SIGUSR1)
    assert process.returncode == 1
    assert "no run finished within this job's time limit" in text
    assert not (job / "scontrol.txt").exists()


def test_a_cancelled_job_ends_with_the_campaigns_status(job: Path) -> None:
    process = start(job, RESULT, WAIT, "--results", "out")
    stop(job, process, signal.SIGTERM)
    assert process.returncode == 130
    assert not (job / "scontrol.txt").exists()


def test_another_folder_is_refused(job: Path) -> None:
    environment = {**os.environ, "SLURM_SUBMIT_DIR": str(job), "SLURM_JOB_ID": "7"}
    done = subprocess.run(
        ["bash", str(SCRIPT)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "is not the kit's folder" in done.stderr
