"""Providers beside their definitions: all operations of a step, those that are wrong are told."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bert.config import Config
from bert.model import Operations
from harness.config import load_config
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


class Linear(nn.Module):
    """As Transformer Engine's: computes with parameters that are put into it, and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def linear_of_a_module(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    layer = Linear()
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]
    result: Tensor = layer(x)
    return result


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


def test_libraries_take_parameters_for_matrices_and_tensors_for_attention() -> None:
    """Transformer Engine's modules refuse anything else, its fused attention passes it by."""
    config = load_config(DEMO, Config)
    batch = bert_providers.make_batch(config, 2, torch.device("cpu"))
    cases = bert_providers.make_cases(config, batch, torch.device("cpu"))
    for case in cases:
        leaves = providers.copy_leaves(case.tensors, case.inputs)
        parameters = [isinstance(leaf, nn.Parameter) for leaf in leaves]
        if "te" in TABLE[case.operation]:
            weights = case.operation != "varlen_attention"
            assert parameters == [False, *[weights] * (len(leaves) - 1)]


def test_a_library_may_take_the_tensors_for_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"torch": TABLE["linear"]["torch"], "te": f"{__name__}:linear_of_a_module"}
    monkeypatch.setitem(TABLE, "linear", row)
    tensors = tuple(torch.randn(shape) for shape in ((48, 64), (32, 64), (32,)))
    case = providers.Case("linear", tensors, lambda f, t, _: f(*t), inputs=1)
    definition, library = providers.measure([case], torch.float32, 1, torch.device("cpu"))
    assert "fault" not in library and library["error"] == definition["error"]
    assert library["bytes"] == definition["bytes"] > 0


def test_copies_lie_as_their_originals() -> None:
    first, second = torch.arange(12.0).view(4, 3).chunk(2)
    alone = torch.ones(2, 3)
    copies = providers.copy_leaves([first, second, alone])
    assert all(map(torch.equal, copies, (first, second, alone)))
    assert copies[0].untyped_storage().data_ptr() == copies[1].untyped_storage().data_ptr()
    assert copies[0].untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
    assert all(copy.requires_grad and copy.is_leaf for copy in copies)
