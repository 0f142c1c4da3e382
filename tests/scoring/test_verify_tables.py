"""The auditor's own tables of keys and calls against the trainers' code: they must not drift."""

import json

import pytest

from harness.config import load_config, logged_values
from harness.ranks import Ranks
from harness.runclock import RunClock
from harness.systems import Submission
from scoring.package.call_sites import CLOCK_KEYS
from scoring.package.configuration import OPTIMIZERS, SETTINGS, parse_configuration
from tests.scoring.honest_package import ROOT

ALONE = Ranks(0, 1, 0, 1, 0, ("host",), "single")


@pytest.mark.parametrize("name", ["h100_4x4", "h200_4x8", "demo"])
@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_settings_are_those_that_the_trainers_declare(benchmark, name):
    if benchmark == "resnet":
        from resnet.config import Config
    else:
        from bert.config import Config
    path = ROOT / benchmark / "configs" / f"{name}.toml"
    table = parse_configuration(path.read_bytes())
    wanted = logged_values(load_config(path, Config))
    found = {}
    for key, place in SETTINGS[benchmark].items():
        section, field = place.split(".")
        found[key] = table[section][field]
    # Two keys of BERT have a twin, which its trainer logs by hand.
    twins = {"opt_epsilon", "num_warmup_steps"} if benchmark == "bert" else set()
    assert set(found) - set(wanted) == twins
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_the_optimizers_are_those_that_the_trainers_log(benchmark):
    source = (ROOT / benchmark / "train.py").read_text()
    assert f'clock.log("opt_name", "{OPTIMIZERS[benchmark]}")' in source


def test_the_clock_writes_these_keys(tmp_path):
    calls = [
        ("log_submission", ("resnet", Submission("maker", "4xfast", "onprem"))),
        ("log_cache_clear", ({},)),
        ("start_init", ()),
        ("start_run", ()),
        ("start_block", (1, 1)),
        ("start_epoch", (1,)),
        ("stop_epoch", (1,)),
        ("start_evaluation", (1,)),
        ("stop_evaluation", (1, 0.8)),
        ("stop_block", (1,)),
        ("stop_run", ()),
    ]
    path = tmp_path / "log.txt"
    clock = RunClock(ALONE, path, 0.759, lambda: None)
    written = 0
    for method, arguments in calls:
        getattr(clock, method)(*arguments)
        lines = path.read_text().splitlines()
        keys = [json.loads(line.removeprefix(":::MLLOG "))["key"] for line in lines[written:]]
        written = len(lines)
        assert sorted(keys) == sorted(CLOCK_KEYS[method])
    assert {method for method, _ in calls} == set(CLOCK_KEYS)
