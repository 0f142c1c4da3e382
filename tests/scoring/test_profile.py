"""Profiles are strict data files."""

import shutil
from pathlib import Path

import pytest

from scoring.profile import FOLDER, ProfileError, list_profiles, load_profile

ROOT = Path(__file__).parents[2]


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


def test_the_demonstration_is_judged_by_the_interval_it_trains_with():
    config = ROOT / "bert" / "configs" / "demo.toml"
    interval = load_profile("demo").bert.evaluation_interval_samples
    assert f"interval_samples = {interval}\n" in config.read_text()


@pytest.mark.parametrize("name", ["nothing", "../profiles/demo", "", "demo.toml"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ProfileError, match="there are demo, lp2bm, mlperf"):
        load_profile(name)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("nodes = 4", "nodes = true", "nodes must be a int"),
        ("nodes = 4", "nodes = -1", "nodes must be a int"),
        ("rcp_test = false", 'rcp_test = "no"', "rcp_test must be a bool"),
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
