"""The probe of all ranks: by the launcher as a run is, with and without what they exchange."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from bert.train import main as bert_main
from harness.commands import InputError
from harness.prediction_step import read_probe
from harness.rank_probe import EXCHANGES, describe_ranks, leave_out_exchange, summarize_ranks
from harness.ranks import Ranks, SharedFault
from resnet.train import main as resnet_main

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "systems" / "demo.toml"


@pytest.mark.parametrize(("benchmark", "samples"), [("resnet", 16), ("bert", 16)])
def test_all_ranks_are_measured_by_the_launcher(benchmark: str, samples: int, tmp_path: Path):
    command = [sys.executable, "-m", "harness.launch", "--system", "demo"]
    command += ["--benchmark", benchmark, "--probe", "3"]
    ended = subprocess.run(
        command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=900
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert (found["benchmark"], found["system"], found["world_size"]) == (benchmark, "demo", 4)
    assert (found["nodes"], found["steps"], found["samples_per_step"]) == (1, 3, samples)
    medians, step = found["rank_medians"], found["step_seconds"]
    assert 0 < medians["min"] <= medians["median"] <= medians["max"] == step["median"]
    assert medians["spread"] == pytest.approx(medians["max"] / medians["min"] - 1)
    assert found["samples_per_second"] == pytest.approx(samples / step["median"])
    without = found["step_seconds_without_exchange"]["median"]
    exposed = found["all_reduce_not_hidden_seconds"]
    assert exposed == pytest.approx(max(0.0, step["median"] - without))
    assert ("tokens_per_micro_batch" in found) == (benchmark == "bert")
    assert ended.stderr.count("probe: 3 steps") == 2, "rank 0 alone shows progress"
    # What the other commands make of it.
    file = tmp_path / "probe.json"
    file.write_text(ended.stdout, encoding="utf-8")
    probe = read_probe(file, benchmark)
    assert (probe.ranks, probe.seconds) == (4, step["median"])
    assert read_probe(file, benchmark, alone=True).seconds == without


def test_every_collective_of_the_step_is_left_out():
    """By their names in the sources: one that is not listed would still be waited for."""
    files = [ROOT / "harness" / "gradients.py", *(ROOT / "harness" / "optimizers").glob("*.py")]
    used = {
        name
        for file in files
        for name in re.findall(r"\bdist\.([a-z_]+)\(", file.read_text(encoding="utf-8"))
    }
    assert {"all_reduce", "broadcast"} <= used
    assert used - {"broadcast", "get_rank", "get_world_size", "is_initialized"} <= set(EXCHANGES)


def test_collectives_come_back_whatever_happens():
    before = dist.all_reduce
    with pytest.raises(ValueError, match="stop"), leave_out_exchange():
        tensor = torch.ones(2)
        # Without a process group the real one would raise.
        assert dist.all_reduce(tensor, async_op=True) is None
        raise ValueError("stop")
    assert dist.all_reduce is before


def make_measured(median: float) -> dict[str, Any]:
    step = {"median": median, "p10": median, "p90": median, "min": median, "max": median}
    return {
        "device": "fake", "steps": 5, "samples_per_step": 10,
        "samples_per_second": 10 / median, "step_seconds": step,
    }  # fmt: skip


def test_the_slowest_rank_counts():
    ranks = Ranks(0, 3, 0, 1, 0, ("a", "b", "b"), "fake")
    together = [make_measured(seconds) for seconds in (0.2, 0.25, 0.22)]
    alone = [make_measured(seconds) for seconds in (0.15, 0.18, 0.21)]
    found = summarize_ranks(ranks, together, alone)
    assert found["samples_per_second"] == pytest.approx(40.0)
    assert (found["world_size"], found["nodes"]) == (3, 2)
    assert found["rank_medians"] == {
        "min": 0.2, "median": 0.22, "max": 0.25, "spread": pytest.approx(0.25)
    }  # fmt: skip
    assert found["step_seconds_without_exchange"]["median"] == 0.21
    assert found["all_reduce_not_hidden_seconds"] == pytest.approx(0.04)
    said = describe_ranks(found, "images")
    assert said.startswith("40.0 images/s on each of 3 ranks, 120.0 together (250.00 ms a step")
    assert "differ by 25.0%" in said and "40.00 ms of it is exchange" in said


def test_exchange_that_costs_nothing_is_not_negative():
    ranks = Ranks(0, 1, 0, 1, 0, ("a",), "fake")
    found = summarize_ranks(ranks, [make_measured(0.2)], [make_measured(0.21)])
    assert found["all_reduce_not_hidden_seconds"] == 0.0


@pytest.mark.parametrize("main", [resnet_main, bert_main])
def test_without_a_launcher_it_says_how_to_start_it(main: Any):
    with pytest.raises(SharedFault, match=r"1 rank\(s\) were started.*harness.launch"):
        main(["probe", "--system", str(DEMO), "--steps", "2"])


@pytest.mark.parametrize("main", [resnet_main, bert_main])
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "give --config (one rank) or --system (all ranks of it)"),
        (["--system", str(DEMO), "--device", "cpu"], "with --system the system file says which"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    main: Any, words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as end:
        main(["probe", *words])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_no_steps_and_no_system_file_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="--steps must be at least 1, is 0"):
        resnet_main(["probe", "--system", str(DEMO), "--steps", "0"])
    with pytest.raises(InputError, match="no such configuration file"):
        resnet_main(["probe", "--system", str(tmp_path / "no.toml"), "--steps", "1"])
