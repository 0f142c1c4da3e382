"""The step's line, and the probes it is read from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.commands import InputError
from harness.prediction_step import StepModel, fit_step, read_probe, shape_step


def make_probe(**changes: Any) -> dict[str, Any]:
    document: dict[str, Any] = {
        "benchmark": "resnet",
        "config": "resnet/configs/h200_4x8.toml",
        "device": "NVIDIA H200",
        "steps": 50,
        "samples_per_step": 102,
        "samples_per_second": 6800.0,
        "step_seconds": {"median": 0.015, "p10": 0.0149, "p90": 0.0152, "min": 0.0148, "max": 0.02},
    }
    return document | changes


def write_probe(folder: Path, **changes: Any) -> Path:
    path = folder / "probe.json"
    path.write_text(json.dumps(make_probe(**changes)), encoding="utf-8")
    return path


def make_rank_probe(**changes: Any) -> dict[str, Any]:
    """What `python -m harness.launch --probe` prints, of 32 ranks on four nodes."""
    alone = {"median": 0.014, "p10": 0.0139, "p90": 0.0142, "min": 0.0138, "max": 0.02}
    exposed = {"step_seconds_without_exchange": alone, "all_reduce_not_hidden_seconds": 0.001}
    return make_probe(world_size=32, nodes=4, **exposed) | changes


def test_two_points_give_the_line_in_any_order():
    first, second = (100.0, 0.016), (400.0, 0.055)
    for step in (fit_step(first, second), fit_step(second, first)):
        assert step.per_sample_seconds == pytest.approx(0.00013)
        assert step.per_step_seconds == pytest.approx(0.003)
        assert step.seconds(200) == pytest.approx(0.029)


@pytest.mark.parametrize(
    ("first", "second", "word"),
    [
        ((100, 0.01), (100, 0.02), "the same batch"),
        ((100, 0.02), (200, 0.02), "no slower"),
        ((100, 0.02), (200, 0.01), "no slower"),
        ((100, 0.01), (200, 0.03), "must not be slower a sample"),
    ],
)
def test_points_that_contradict_each_other_are_refused(first: Any, second: Any, word: str):
    with pytest.raises(ValueError, match=word):
        fit_step(first, second)


def test_a_little_noise_below_the_origin_is_no_contradiction():
    assert fit_step((100, 0.01), (200, 0.0201)).per_step_seconds == 0.0


def test_one_point_keeps_its_rate_whatever_the_overhead():
    for overhead in (0.0, 22.0):
        step = shape_step(102, 0.015, overhead)
        assert step.seconds(102) == pytest.approx(0.015)
        assert step.per_step_seconds == pytest.approx(overhead * step.per_sample_seconds)


def test_scaling_keeps_the_shape():
    step = StepModel(0.1, 2.0).scale(1.5)
    assert (step.per_sample_seconds, step.per_step_seconds) == pytest.approx((0.15, 3.0))


def test_a_probe_is_read(tmp_path: Path):
    probe = read_probe(write_probe(tmp_path), "resnet")
    assert (probe.batch, probe.seconds, probe.device) == (102, 0.015, "NVIDIA H200")
    assert probe.spread == pytest.approx(0.01)


STEP = {"median": 0.015, "p10": 0.014, "p90": 0.016}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"benchmark": "bert"}, "must be 'resnet'"),
        ({"step_seconds": None}, "'step_seconds' is missing"),
        ({"step_seconds": STEP | {"median": 0}}, "'median' must be a positive number"),
        ({"step_seconds": STEP | {"median": "0.1"}}, "'median' must be a positive number"),
        ({"step_seconds": STEP | {"median": True}}, "'median' must be a positive number"),
        ({"step_seconds": STEP | {"median": float("nan")}}, "'median' must be a positive number"),
        ({"step_seconds": STEP | {"median": 0.02}}, "grow from p10"),
        ({"samples_per_step": 1.5}, "whole number"),
        ({"samples_per_step": 10**400}, "positive number, is out of range"),
        ({"samples_per_step": -3}, "positive number, is -3"),
    ],
)
def test_a_bad_probe_is_named(tmp_path: Path, changes: dict[str, Any], word: str):
    with pytest.raises(InputError, match=word):
        read_probe(write_probe(tmp_path, **changes), "resnet")


@pytest.mark.parametrize("text", ["", "[]", "1", "{", '{"benchmark": "resnet"', "[" * 100_000])
def test_what_is_no_document_is_refused(tmp_path: Path, text: str):
    file = tmp_path / "probe.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"probe\.json"):
        read_probe(file, "resnet")
