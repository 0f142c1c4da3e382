"""Whole steps beside their definitions: those that agree and one that does not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import bert.config
import resnet.config
from harness.config import load_config
from harness.ops.label_smoothed_cross_entropy import label_smoothed_cross_entropy
from harness.ops.table import TABLE
from perf import step_agreement
from perf.step_agreement import EXACT, GRAPHS, NARROW, WIDE, Taken, compare, limit_batch, vary

CPU = torch.device("cpu")
ROOT = step_agreement.ROOT


def a_hundredth_more(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    return label_smoothed_cross_entropy(logits, labels, smoothing) * 1.02


def make_small(folder: Path, benchmark: str, **operations: str) -> Path:
    """The demonstration's configuration, smaller; BERT's in bf16, which a CPU convolves slowly."""
    text = (ROOT / benchmark / "configs" / "demo.toml").read_text()
    pairs = {
        "resnet": [
            ("widths = [16, 24, 32, 48]", "widths = [8, 8, 8, 8]"),
            ("local_batch_size = 16", "local_batch_size = 4"),
            ("global_batch_size = 64", "global_batch_size = 16"),
            ("batch_norm_span = 16", "batch_norm_span = 4"),
            ("crop_size = 64", "crop_size = 32"),
        ],
        "bert": [
            ("\nlayers = 2", "\nlayers = 1"),
            ("\nlocal_batch_size = 16", "\nlocal_batch_size = 2"),
            ("global_batch_size = 64", "global_batch_size = 8"),
            ('format = "fp32"', 'format = "bf16"'),
        ],
    }[benchmark]
    pairs += [(f'{name} = "torch"', f'{name} = "{to}"') for name, to in operations.items()]
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    path = folder / f"{benchmark}.toml"
    path.write_text(text)
    return path


def call(capsys: pytest.CaptureFixture[str], benchmark: str, config: Path) -> tuple[int, Any]:
    arguments = ["--benchmark", benchmark, "--config", str(config), "--device", "cpu", "--json"]
    status = step_agreement.main(arguments)
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("benchmark", ["resnet", "bert"])
def test_a_step_by_the_definitions_agrees_with_them(
    benchmark: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = call(capsys, benchmark, make_small(tmp_path, benchmark))
    assert status == 0
    rows = {(row["quantity"], row["form"]): row for row in found["forms"]}
    for quantity in ("gradient", "change"):
        assert rows[quantity, WIDE]["distance"] == 0.0
        there = rows[quantity, f"definitions in {'fp32' if benchmark == 'resnet' else 'bf16'}"]
        assert there["distance"] == rows[quantity, GRAPHS]["distance"]
        assert (there["distance"] > 1e-3) == (benchmark == "bert")  # rounded to 16 bit


def test_a_kernel_that_is_wrong_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    operation = "label_smoothed_cross_entropy"
    monkeypatch.setitem(TABLE[operation], "triton", f"{__name__}:a_hundredth_more")
    config = make_small(tmp_path, "resnet", label_smoothed_cross_entropy="triton")
    status, found = call(capsys, "resnet", config)
    assert status == 1
    (row,) = [row for row in found["forms"] if (row["quantity"], row["form"]) == ("gradient", WIDE)]
    assert not row["good"] and row["distance"] == pytest.approx(0.02, rel=1e-2)


@pytest.mark.parametrize(
    ("path", "load"),
    [("resnet/configs/h100_4x8.toml", resnet.config.Config)]
    + [(f"bert/configs/{name}.toml", bert.config.Config) for name in ("h100_4x4", "h200_4x8_fp8")],
)
def test_forms_differ_in_what_they_name_alone(path: str, load: Any) -> None:
    config: Any = load_config(ROOT / path, load)
    forms = vary(config)
    exact, wide = forms[EXACT], forms[WIDE]
    assert set(exact.operations.values()) == {"torch"} and exact.precision.format == "fp32"
    kept = {name: to for name, to in config.operations.items() if to not in NARROW}
    assert kept.items() <= wide.operations.items() and not set(wide.operations.values()) & {*NARROW}
    assert forms[GRAPHS].graphs.step and not wide.graphs.step
    same = ("batch", "optimizer", "communication")
    assert all(getattr(form, name) == getattr(config, name) for form in forms.values()
               for name in same)  # fmt: skip
    if load is bert.config.Config:
        assert {form.model.dropout for form in forms.values()} == {0.0}


def test_a_batch_is_cut_and_its_span_with_it() -> None:
    config = load_config(ROOT / "resnet" / "configs" / "h200_1x1.toml", resnet.config.Config)
    batch = limit_batch(config, 100).batch
    assert (batch.local_batch_size, batch.batch_norm_span, batch.global_batch_size) == (
        100,
        100,
        800,
    )
    small = load_config(ROOT / "bert" / "configs" / "demo.toml", bert.config.Config)
    assert limit_batch(small, 32).batch.local_batch_size == small.batch.local_batch_size


def make_taken(gradient: float, change: float) -> Taken:
    return Taken({"w": torch.tensor([gradient, 0.0])}, {"w": torch.tensor([change, 0.0])})


@pytest.fixture
def judge() -> Callable[..., dict[tuple[str, str], dict[str, Any]]]:
    config = load_config(ROOT / "resnet" / "configs" / "h100_4x8.toml", resnet.config.Config)

    def judge(scale: float = 1.0, **found: float) -> dict[tuple[str, str], dict[str, Any]]:
        names = {"wide": WIDE, "graphs": GRAPHS, "eager": step_agreement.EAGER}
        names |= {"definitions": step_agreement.DEFINITIONS, "again": step_agreement.AGAIN}
        taken = {
            form: make_taken((1.0 if name == "wide" else scale) * found.get(name, 1.0), 1.0)
            for name, form in names.items()
        }
        precision = dataclasses.replace(config.precision, format="fp16", loss_scale=scale)
        exact = {EXACT: make_taken(1.0, 1.0)}
        rows = compare(taken | exact, dataclasses.replace(config, precision=precision))
        return {(row["quantity"], row["form"]): row for row in rows}

    return judge


def test_distances_are_held_against_the_definitions(judge: Any) -> None:
    rows = judge(definitions=1.01, eager=1.019, again=1.019, graphs=1.021, wide=1.009)
    assert rows["gradient", step_agreement.EAGER]["good"] and rows["gradient", WIDE]["good"]
    assert not rows["gradient", GRAPHS]["good"]
    assert rows["gradient", GRAPHS]["limit"] == pytest.approx(0.02, rel=1e-4)
    assert all(rows["change", form]["good"] for quantity, form in rows if quantity == "change")


@pytest.mark.parametrize(("again", "good"), [(1.0, False), (1.005, False), (1.01, True)])
def test_a_graph_may_not_leave_its_own_step(judge: Any, again: float, good: bool) -> None:
    rows = judge(definitions=1.5, again=again, graphs=1.02)
    assert rows["gradient", GRAPHS]["good"]
    assert rows["gradient", f"{GRAPHS}, from {step_agreement.EAGER}"]["good"] == good


def test_a_loss_scale_is_no_distance_and_no_number_is_none(judge: Any) -> None:
    assert all(row["good"] for row in judge(scale=1024.0).values())
    rows = judge(definitions=1.01, graphs=float("nan"))
    assert not rows["gradient", GRAPHS]["good"]
