"""The measurement of steps: what is timed and what is not, and figures that agree."""

from __future__ import annotations

import pytest
import torch

from harness import throughput
from harness.commands import InputError
from harness.throughput import WARMUP_STEPS, choose_device, describe_device, measure_steps
from tests.harness.host_waits import let_device_hang

CPU = torch.device("cpu")


def measure(durations: list[float], monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Measure steps of given durations on a clock that only they move."""
    now = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])
    left = list(durations)

    def step() -> None:
        now[0] += left.pop(0)

    measured = measure_steps(step, len(durations) - WARMUP_STEPS, 16, CPU)
    assert left == []
    return measured


def test_the_first_steps_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measure([100.0] * WARMUP_STEPS + [0.5, 0.25, 0.75], monkeypatch)
    assert measured["steps"] == 3 and measured["samples_per_step"] == 16
    assert measured["samples_per_second"] == 32.0
    assert measured["step_seconds"] == {
        "median": 0.5, "p10": 0.25, "p90": 0.75, "min": 0.25, "max": 0.75
    }  # fmt: skip


def test_percentiles_of_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = [float(number) for number in range(101, 0, -1)]
    measured = measure([1.0] * WARMUP_STEPS + durations, monkeypatch)
    seconds = measured["step_seconds"]
    assert isinstance(seconds, dict)
    rounded = {name: round(value) for name, value in seconds.items()}
    assert rounded == {"median": 51, "p10": 11, "p90": 91, "min": 1, "max": 101}


def test_a_single_step_is_all_of_its_percentiles(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = measure([1.0] * WARMUP_STEPS + [2.0], monkeypatch)["step_seconds"]
    assert isinstance(seconds, dict) and set(seconds.values()) == {2.0}


def test_nothing_is_written_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    measured = measure_steps(lambda: None, 2, 8, CPU)
    written = capsys.readouterr()
    assert written.out == "" and written.err.startswith("probe: 2 steps in ")
    assert measured["device"] == describe_device(CPU)


def test_a_step_that_never_ends_on_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank may hang in a graph that both replay."""
    let_device_hang(monkeypatch)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: pytest.fail("waits for ever"))
    taken: list[None] = []
    with pytest.raises(RuntimeError, match="Timed out waiting 20ms for the device"):
        measure_steps(lambda: taken.append(None), 2, 8, torch.device("cuda", 0))
    assert len(taken) == 1


def test_devices() -> None:
    assert choose_device("cpu") == CPU
    assert describe_device(CPU) == f"cpu, {torch.get_num_threads()} thread(s)"


def test_the_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(None).type == "cuda" == choose_device("cuda").type
    assert choose_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(None).type == "cpu"
    with pytest.raises(InputError, match="--device cuda: torch finds no GPU"):
        choose_device("cuda")
