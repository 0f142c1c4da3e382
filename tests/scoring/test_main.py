"""The command line: exit statuses, one document on stdout, one sentence on stderr."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "scoring", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
        **options,
    )


def test_valid_campaign(campaign, tmp_path):
    folder = campaign.write(tmp_path)
    done = run("score", folder, "--rfp", "lp2bm", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert document["schema"] == 1
    assert document["profile"] == "lp2bm"
    assert document["valid"] is True
    assert document["ruleset"] == "4.0.0"
    prose = run("score", folder)
    assert prose.returncode == 0
    assert f"score = {document['score']:.6f}" in prose.stdout
    assert "DEMONSTRATION" not in prose.stdout


def test_invalid_campaign_is_status_1(campaign, tmp_path):
    campaign.runs["resnet"][0].find("submission_division")["value"] = "open"
    done = run("score", campaign.write(tmp_path), "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["score"] is None
    assert document["findings"][0]["rule"] == "division"
    assert document["findings"][0]["line"] == 3


def test_demonstration_says_so_in_large_letters(demonstration, tmp_path):
    demonstration.runs.pop("bert")
    done = run("score", demonstration.write(tmp_path), "--rfp", "demo")
    assert done.returncode == 0
    assert "# DEMONSTRATION - NOT AN MLPERF RESULT #" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["score"], "required: DIR"),
        (["score", "{folder}/nowhere"], "no such folder"),
        (["score", ""], "argument DIR: is empty"),
        (["verify", ""], "argument PKG: is empty"),
        (["report", "{folder}", "--output", ""], "argument --output: is empty"),
        (["score", "{folder}"], "neither resnet/ nor bert/"),
        (["score", "{folder}", "--rfp", "other"], "no profile 'other'"),
        (["packages", "{folder}"], "invalid choice"),
        (["score", "{folder}", "--wrong"], "unrecognized"),
        (["report", "{folder}"], "--output"),
    ],
)
def test_wrong_calls_are_one_sentence(tmp_path, arguments, words):
    done = run(*(argument.format(folder=tmp_path) for argument in arguments))
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert len(done.stderr.strip().split("\n")) == 1


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        ("<&- >&- 2>&-", 1, ""),
        ("| head -0; exit ${PIPESTATUS[0]}", 1, ""),
        ("> /dev/full", 2, "error: cannot write the output: No space left on device\n"),
    ],
)
def test_the_status_holds_whatever_becomes_of_the_output(
    campaign, tmp_path, redirection, status, said
):
    campaign.runs.pop("bert")
    campaign.runs["resnet"].pop()
    command = f'"$0" -m scoring score "$1" {redirection}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, str(campaign.write(tmp_path))],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said)


def test_what_is_meant_for_a_closed_stderr_does_not_go_to_stdout(tmp_path):
    command = '"$0" -m scoring score "$1" --json 2>&-'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, str(tmp_path / "nowhere")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1, "a": 2}'])
def test_unreadable_system_description_is_an_error_of_the_result(campaign, tmp_path, content):
    folder = campaign.write(tmp_path)
    (folder / "system.json").write_text(content)
    done = run("score", folder)
    assert (done.returncode, done.stderr) == (1, "")
    assert "system-json: resnet, system.json: the system description" in done.stdout
    assert "R = 16." in done.stdout


def test_a_page_is_not_written_over_a_folder(campaign, tmp_path):
    folder = campaign.write(tmp_path)
    done = run("report", folder, "--output", folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: --output {folder}: is a folder: name a file\n"


def test_links_out_of_the_folder_are_not_followed(campaign, tmp_path):
    folder = campaign.write(tmp_path)
    (folder / "resnet").rename(tmp_path / "elsewhere")
    (folder / "resnet").symlink_to(tmp_path / "elsewhere")
    done = run("score", folder)
    assert done.returncode == 2
    assert "link out of" in done.stderr


def test_hostile_names_do_not_reach_the_terminal(campaign, tmp_path):
    campaign.runs.pop("bert")
    campaign.runs["resnet"][0].find("submission_platform")["value"] = "\x1b[2Jfast\x07"
    folder = campaign.write(tmp_path)
    (folder / "resnet" / "result_\x1b[31m\udcff.txt").write_text("")
    done = run("score", folder)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout and "\x07" not in done.stdout
    assert json.loads(run("score", folder, "--json").stdout)


def test_torch_is_never_imported(campaign, tmp_path):
    # A torch that cannot be imported: whoever tries, in either process, fails.
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    folder = campaign.write(tmp_path)
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['scoring', 'score', {str(folder)!r}]\n"
        "try:\n    runpy.run_module('scoring', run_name='__main__')\n"
        "except SystemExit as end:\n    status = end.code\n"
        "heavy = {'torch', 'matplotlib', 'numpy', 'scipy', 'mlperf_logging'} & set(sys.modules)\n"
        "print('imported', sorted(heavy), status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.stdout.strip().split("\n")[-1] == "imported [] 0", done.stderr


def test_a_closed_pipe_is_no_error(campaign, tmp_path):
    folder = campaign.write(tmp_path)
    command = f"{sys.executable} -m scoring score {folder} --json | true"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.stderr == ""


def test_a_killed_command_leaves_no_copies_of_logs(campaign, tmp_path):
    folder = campaign.write(tmp_path)
    private = tmp_path / "private"
    private.mkdir()
    command = [sys.executable, "-m", "scoring", "score", str(folder), "--json"]
    environment = {**os.environ, "TMPDIR": str(private)}
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not list(private.glob("*/*")) and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted\n")
    assert list(private.iterdir()) == []


def test_nohup_stays_deaf_to_the_end_of_the_terminal(campaign, tmp_path):
    folder = campaign.write(tmp_path)
    score = f"{sys.executable} -m scoring score {folder} --json"
    command = f"trap '' HUP; {score} & sleep 0.3; kill -HUP $!; wait $!"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0
    assert json.loads(done.stdout)["valid"]
