"""Profiles are strict data files."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scoring.profile import FOLDER, ProfileError, list_profiles, load_profile
from scoring.prose import write_prose
from scoring.report.page import write_page
from scoring.score import score_folder
from tests.scoring.conftest import make_lines

ROOT = Path(__file__).parents[2]
BERT = load_profile("mlperf").bert


def test_shipped_profiles():
    assert list_profiles() == ["demo", "lp2bm", "mlperf"]
    assert load_profile("lp2bm").nodes == 4
    assert load_profile("mlperf").nodes == 0
    for name in ("mlperf", "lp2bm"):
        profile = load_profile(name)
        assert (profile.resnet.train_samples, profile.resnet.eval_samples) == (1_281_167, 50_000)
        assert profile.bert.eval_samples == 10_000
        assert profile.rcp_test and not profile.demonstration
    demo = load_profile("demo")
    assert demo.demonstration and not demo.rcp_test
    for profile in map(load_profile, list_profiles()):
        assert (profile.get_weight("resnet"), profile.get_weight("bert")) == (7.19, 9.05)
        assert (profile.get_runs("resnet"), profile.get_runs("bert")) == (5, 10)


def test_the_demonstration_is_judged_by_the_interval_it_trains_with():
    config = ROOT / "bert" / "configs" / "demo.toml"
    interval = load_profile("demo").bert.evaluation_interval_samples
    assert f"interval_samples = {interval}\n" in config.read_text()


@pytest.mark.parametrize(
    "name", ["nothing", "../profiles/demo", "", "demo.toml", "a/\nb", "\0/", "x" * 9000 + ".toml"]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(ProfileError, match="there are demo, lp2bm, mlperf") as caught:
        load_profile(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("nodes = 4", "nodes = true", "nodes must be a whole number"),
        ("nodes = 4", "nodes = -1", "nodes must be a whole number"),
        ("nodes = 4", "nodes = 1" + 4000 * "0", "nodes must be a whole number"),
        ("nodes = 4", "nodes = 1" + 5000 * "0", "not valid TOML"),
        ("nodes = 4", "nodes = 4.0", "nodes must be a whole number"),
        ("nodes = 4", "nodes = " + 20_000 * "[", "not valid TOML"),
        ("rcp_test = false", 'rcp_test = "no"', "rcp_test must be true or false"),
        ("[score]", "[scores]", r"no section \[score\]"),
        ("resnet = 7.19", "resnet = 0", "score.resnet must be a number above 0"),
        ("resnet = 7.19", "resnet = nan", "score.resnet must be a number above 0"),
        ("resnet = 7.19", "resnet = inf", "score.resnet must be a number above 0"),
        ("resnet = 7.19", "resnet = true", "score.resnet must be a number above 0"),
        ("bert = 9.05", "", "key score.bert is missing"),
        ("runs = 5", "runs = 2", "resnet.runs must be from 3 to 100"),
        ("eval_samples = 480", "eval_samples = 0", "resnet.eval_samples must be above 0"),
        ("interval_epochs = 4", "interval_epochs = 0", "interval_epochs must be above 0"),
        ("interval_epochs = 0", "interval_epochs = 1", "interval_epochs must be 0"),
        ('title = "', 'title = "two\\n', "title must be one line"),
        ("rcp_test = false", "#" * 70_000, "larger than 64 KiB"),
        ("nodes = 4", "", "key nodes is missing"),
        ("nodes = 4", "nodes = 4\nhosts = 4", "key hosts is unknown"),
        ("[bert]", "[brt]", r"no section \[bert\]"),
        ("eval_samples = 480", "", "key resnet.eval_samples is missing"),
        ("nodes = 4", "nodes = ", "not valid TOML"),
    ],
)
def test_broken_profiles_name_file_and_key(tmp_path, old, new, words):
    shutil.copy(FOLDER / "demo.toml", tmp_path)
    path = tmp_path / "demo.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ProfileError, match=words):
        load_profile("demo", tmp_path)


def write_sister(folder, name="sister.toml"):
    """Write the profile of another request: one node, its own weights, five runs of each."""
    text = (FOLDER / "lp2bm.toml").read_text()
    for old, new in (
        ("LP2BM: MLPerf Training on four GPU nodes", "Sister request: one GPU node"),
        ("nodes = 4\n", "nodes = 1\n"),
        ("resnet = 7.19", "resnet = 2"),
        ("bert = 9.05", "bert = 3.5"),
        ("runs = 10", "runs = 5"),
    ):
        assert old in text
        text = text.replace(old, new)
    (folder / name).write_text(text)
    return folder / name


def test_a_sister_request_is_a_second_file(campaign, tmp_path):
    campaign.runs["bert"] = campaign.runs["bert"][:5]
    campaign.system.update(number_of_nodes="1", accelerators_per_node="16")
    for runs in campaign.runs.values():
        for run in runs:
            run.find("submission_platform")["value"] = "1xfast"
    folder = campaign.write(tmp_path)
    score = score_folder(folder, "4.0.0", load_profile(str(write_sister(tmp_path))), False)
    assert score.findings == []
    document = score.describe()
    assert (document["profile"], document["valid"]) == ("sister", True)
    latencies = [document["benchmarks"][name]["latency_minutes"] for name in ("resnet", "bert")]
    assert document["score"] == pytest.approx(2 / latencies[0] + 3.5 / latencies[1], rel=1e-12)
    assert "score = 2/R + 3.5/B" in write_page(score)
    for text in (write_page(score), write_prose(score), document["profile_title"]):
        assert "Sister request: one GPU node" in text
    four_nodes = score_folder(folder, "4.0.0", load_profile("lp2bm"), False)
    rules = {finding.rule for finding in four_nodes.findings if finding.severity == "error"}
    assert rules == {"node-count", "run-count"}


def test_fewer_runs_make_a_wider_convergence_test(campaign, tmp_path):
    minimum = {}
    for needed in (5, 10):
        place = tmp_path / str(needed)
        place.mkdir()
        campaign.runs = {"bert": campaign.runs["bert"][:needed]}
        profile = replace(load_profile("mlperf"), bert=replace(BERT, runs=needed))
        score = score_folder(campaign.write(place), "4.0.0", profile, False)
        minimum[needed] = score.describe()["benchmarks"]["bert"]["rcp"]["minimum_mean"]
        campaign.runs = {"bert": [make_lines("bert", index) for index in range(10)]}
    assert minimum[5] < minimum[10]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("demo.toml", "demo is the name of another profile: rename the file"),
        ("Two Words.toml", "use small letters, digits, - and _"),
        ("two\nlines.toml", "use small letters, digits, - and _"),
    ],
)
def test_a_file_needs_a_name_of_its_own(tmp_path, name, words):
    path = write_sister(tmp_path, name)
    with pytest.raises(ProfileError, match=words) as caught:
        load_profile(str(path))
    assert str(caught.value).isprintable()


def test_the_shipped_files_may_be_named_by_their_paths():
    assert load_profile(str(FOLDER / "lp2bm.toml")) == load_profile("lp2bm")


def test_the_command_takes_a_path(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "scoring", "score", tmp_path, "--rfp", tmp_path / "no\nne.toml"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: --rfp: no profile file")
    assert done.stderr.count("\n") == 1
