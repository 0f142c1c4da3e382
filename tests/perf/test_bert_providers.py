"""Providers beside their definitions: all operations of a step, those that are wrong are told."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import Tensor

from bert.model import Operations
from harness.ops.bias_gelu import bias_gelu
from harness.ops.table import TABLE
from perf import bert_providers, providers

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from tests.harness.ops.conftest import (  # noqa: F401  fixtures
    rounded_float8,
    rounded_interpretation,
)

DEMO = bert_providers.ROOT / "bert" / "configs" / "demo.toml"
ARGUMENTS = ["--config", str(DEMO), "--device", "cpu", "--sequences", "2", "--turns", "1"]


def bias_gelu_a_little_off(x: Tensor, bias: Tensor) -> Tensor:
    return bias_gelu(x, bias) * (1 + 1e-3)


def bias_gelu_that_fails(x: Tensor, bias: Tensor) -> Tensor:
    raise RuntimeError("no kernel\nfor this device")


def bias_gelu_of_another_version(x: Tensor, bias: Tensor) -> Tensor:
    raise TypeError("unexpected argument")


def keep_one_row(patch: pytest.MonkeyPatch, providers: dict[str, str]) -> None:
    for operation in list(TABLE):
        row = {"torch": TABLE[operation]["torch"]}
        patch.setitem(TABLE, operation, row | (providers if operation == "bias_gelu" else {}))


def test_every_operation_of_a_step_is_held_against_its_definition(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bert_providers.main([*ARGUMENTS, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {(row["operation"], row["provider"]): row for row in found["providers"]}
    operations = {field.name for field in dataclasses.fields(Operations)}
    assert {operation for operation, _ in rows} == operations
    assert all((name, provider) in rows for name in operations for provider in TABLE[name])
    for (_, provider), row in rows.items():
        if provider in ("torch", "triton", "fused", "padded"):
            assert row["error"] < 2e-6 and row["seconds"] > 0 and row["bytes"] > 0
    assert "GPU" in rows["varlen_attention", "flash"]["reason"]


def test_a_provider_that_is_wrong_or_fails_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = __name__
    keep_one_row(monkeypatch, {"triton": f"{here}:bias_gelu_a_little_off"})
    assert bert_providers.main(ARGUMENTS) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "TOO FAR" in line]
    assert len(lines) == 1 and lines[0].split()[:2] == ["bias_gelu", "triton"]
    keep_one_row(monkeypatch, {"triton": f"{here}:bias_gelu_that_fails"})
    assert bert_providers.main(ARGUMENTS) == 1
    assert "FAILED: RuntimeError: no kernel\n" in capsys.readouterr().out
    # What Triton's compiler or a library of another version raises is no RuntimeError.
    keep_one_row(monkeypatch, {"triton": f"{here}:bias_gelu_of_another_version"})
    assert bert_providers.main(ARGUMENTS) == 1
    assert "FAILED: TypeError: unexpected argument\n" in capsys.readouterr().out


@pytest.mark.usefixtures("rounded_float8")
@pytest.mark.filterwarnings("ignore:(divide by zero|overflow|invalid value) encountered")
def test_delayed_scaling_is_timed_as_in_all_steps_but_the_first() -> None:
    torch.manual_seed(6)
    x, weight, bias = (torch.randn(s).bfloat16() for s in ((48, 64), (32, 64), (32,)))
    case = providers.Case("linear", (x, weight / 8, bias), lambda f, t, _: f(*t))
    rows = providers.measure([case], torch.bfloat16, 1, torch.device("cpu"))
    found = {row["provider"]: row for row in rows}
    # It reads no cast's tensor before the cast itself: input, weight, gradient, of 2 bytes each.
    read = 2 * (x.numel() + weight.numel() + 48 * 32)
    spared = found["scaled_mm"]["bytes"] - found["delayed"]["bytes"]
    assert read <= spared < 1.1 * read
    for provider in ("scaled_mm", "delayed"):
        assert 0 < found[provider]["error"] < found[provider]["limit"]
    assert found["delayed"]["error"] >= found["scaled_mm"]["error"]  # the larger of both scales


def test_copies_lie_as_their_originals() -> None:
    first, second = torch.arange(12.0).view(4, 3).chunk(2)
    alone = torch.ones(2, 3)
    copies = providers.copy_leaves([first, second, alone])
    assert all(map(torch.equal, copies, (first, second, alone)))
    assert copies[0].untyped_storage().data_ptr() == copies[1].untyped_storage().data_ptr()
    assert copies[0].untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
    assert all(copy.requires_grad and copy.is_leaf for copy in copies)
