"""System files: what a machine may say of itself, and the sentence for what it may not.

tests/harness/test_launch.py tests what is contradictory about starting ranks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.commands import InputError
from harness.systems import (
    Launch,
    Nodes,
    Submission,
    Variable,
    find_system_file,
    load_system,
)

SYSTEMS = Path(__file__).resolve().parents[2] / "systems"
DEMO = SYSTEMS / "demo.toml"


def test_the_world_size_is_nodes_times_ranks() -> None:
    assert Nodes(4, 8, "cuda", False, 2).world_size == 32
    assert load_system(DEMO).nodes.world_size == 4


def test_the_demonstration_as_it_is_read() -> None:
    system = load_system(str(DEMO))
    assert (system.name, system.submission.status) == ("demo", "research")
    assert system.launch.hosts == () and system.container.runtime == "none"
    assert system.environment["OMP_NUM_THREADS"].value == "1"
    assert (system.benchmarks.resnet.runs, system.benchmarks.bert.runs) == (5, 10)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("ranks_per_node = 1", "ranks_per_node = 0", "[nodes] 'ranks_per_node' must be at least 1"),
        ("threads_per_rank = 1", "threads_per_rank = 0", "'threads_per_rank' must be at least 1"),
        ("count = 4", "count = 4.0", "'nodes.count' must be a whole number, is 4.0"),
        ("count = 4", "count = true", "'nodes.count' must be a whole number, is True"),
        ('device = "cpu"', 'device = "tpu"', "one of 'cpu', 'cuda', is 'tpu'"),
        ("_timeout_seconds = 120", "_timeout_seconds = 0", "must be positive"),
        ("run_limit_minutes = 15", "run_limit_minutes = -1", "must be positive"),
        ("hosts = []", 'hosts = ["a", 5]', "'launch.hosts[1]' must be a text, is 5"),
        ('reason = "no run may', 'reasons = "no run may', "unknown key 'reasons'"),
        ('value = "lo"', "value = 1", "'environment.GLOO_SOCKET_IFNAME.value' must be a text"),
        ("[benchmarks.bert]", "[benchmarks.gpt]", "[benchmarks] unknown key 'gpt'"),
        ('image = ""', 'image = "kit.sif"', "'image' and 'runtime' must be given together"),
        ('cache_clear = "fadvise"', "", "[campaign] key 'cache_clear' is missing"),
        ('profile = "demo"', 'profile = "mine"', "one of 'lp2bm', 'demo'"),
        ('name = "demo"', 'name = "../demo"', "'name' must be letters"),
        ("[nodes]", "[nodes", "not valid TOML"),
        ('"resnet/configs/demo.toml"', '" "', "[benchmarks.resnet] 'config' must not be empty"),
        ('data = "data/demo/bert"', 'data = ""', "[benchmarks.bert] 'data' must not be empty"),
    ],
)
def test_refusals_name_file_and_key(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = DEMO.read_text()
    assert old in text
    file = tmp_path / "demo.toml"
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as caught:
        load_system(file)
    sentence = str(caught.value)
    assert sentence.startswith(str(file)) and words in sentence and "\n" not in sentence


@pytest.mark.parametrize("text", ["", " ", "\t"])
def test_what_a_log_must_say_may_not_be_empty(text: str) -> None:
    with pytest.raises(ValueError, match="'organization'"):
        Submission(text, "platform", "onprem")
    with pytest.raises(ValueError, match="'platform'"):
        Submission("organization", text, "onprem")
    with pytest.raises(ValueError, match="'reason'"):
        Variable("1", text)


def test_limits_of_a_launch() -> None:
    with pytest.raises(ValueError, match="'collective_timeout_seconds'"):
        Launch("srun", (), (), 0, 1)
    with pytest.raises(ValueError, match="'run_limit_minutes'"):
        Launch("srun", (), (), 1, 0)


def test_one_machine_may_be_named_once_for_all_nodes() -> None:
    system = load_system(DEMO)
    launch = replace(system.launch, hosts=("localhost",))
    assert replace(system, launch=launch).launch.hosts == ("localhost",)
    with pytest.raises(ValueError, match="one host a node"):
        replace(system, launch=launch, nodes=replace(system.nodes, one_machine=False))


def test_one_machine_stands_for_several_in_the_demonstration_alone() -> None:
    system = load_system(DEMO)
    campaign = replace(system.campaign, profile="lp2bm")
    with pytest.raises(ValueError, match="one_machine is for the demonstration alone"):
        replace(system, campaign=campaign)
    nodes = replace(system.nodes, one_machine=False)
    assert replace(system, campaign=campaign, nodes=nodes).campaign.profile == "lp2bm"


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such configuration file"):
        load_system(tmp_path / "none.toml")


def test_systems_are_found_by_name_and_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_system_file("demo", SYSTEMS) == DEMO
    assert find_system_file(str(DEMO), tmp_path) == DEMO
    monkeypatch.chdir(tmp_path)
    assert find_system_file("mine.toml", SYSTEMS) == tmp_path / "mine.toml"


@pytest.mark.parametrize("name", ["", "..", "de mo", "/demo", "demo/", "x" * 65])
def test_no_name_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(InputError, match=r"no system .*\(there are: .*demo"):
        find_system_file(name, SYSTEMS)
