"""The table of operations, and each definition against its formula in fp64."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.commands import InputError
from harness.ops import PROVIDERS, TABLE, resolve, resolve_operations

ROOT = Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class TwoOperations:
    bias_gelu: Callable[..., Tensor]
    layer_norm: Callable[..., Tensor]


def close(ours: Tensor, theirs: Tensor, limit: float = 1e-6) -> bool:
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return ours.shape == theirs.shape and bool(
        (ours - theirs).norm() <= limit * theirs.norm() + 1e-12
    )


# --- the table


@pytest.mark.parametrize("operation", sorted(TABLE))
def test_every_row_has_a_definition_and_resolves(operation: str) -> None:
    assert "torch" in TABLE[operation]
    for provider in TABLE[operation]:
        assert provider in PROVIDERS
        if provider == "torch":
            function = resolve(operation, provider)
            assert function.__name__ == operation
            assert function.__module__ == f"harness.ops.{operation}"


def test_an_unknown_operation_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match="conv9") as caught:
        resolve("conv9", "torch")
    assert all(operation in str(caught.value) for operation in TABLE)


def test_an_unknown_provider_is_refused_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"'cuda' is no provider.*torch"):
        resolve("bias_gelu", "cuda")


def test_a_provider_without_the_operation_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, "bias_gelu", {"torch": TABLE["bias_gelu"]["torch"]})
    with pytest.raises(InputError, match="'apex' does not implement it; choose one of torch"):
        resolve("bias_gelu", "apex")


def test_a_missing_library_stops_and_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "fused_rows.py").write_text("import a_library_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    row = {"torch": TABLE["bias_gelu"]["torch"], "te": "fused_rows:bias_gelu"}
    monkeypatch.setitem(TABLE, "bias_gelu", row)
    with pytest.raises(InputError, match=r"'te' needs the library a_library_nobody_has.*torch"):
        resolve("bias_gelu", "te")


def test_a_missing_module_of_ours_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TABLE, "bias_gelu", {"torch": "harness.ops.not_there:bias_gelu"})
    with pytest.raises(ModuleNotFoundError):
        resolve("bias_gelu", "torch")


def test_operations_of_a_model_come_from_its_table() -> None:
    operations = resolve_operations(TwoOperations, {"layer_norm": "torch", "bias_gelu": "torch"})
    assert operations.bias_gelu is resolve("bias_gelu", "torch")
    assert operations.layer_norm is resolve("layer_norm", "torch")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"bias_gelu": "torch"}, "missing: layer_norm"),
        (dict.fromkeys(("bias_gelu", "layer_norm", "batch_norm"), "torch"), "not used.*batch_norm"),
        ({"bias_gelu": "torch", "layer_norm": "torhc"}, "'torhc' is no provider"),
        ({"bias_gelu": "torch", "layernorm": "torch"}, "missing: layer_norm; .*: layernorm"),
    ],
)
def test_a_table_that_does_not_fit_the_model_is_refused(table: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        resolve_operations(TwoOperations, table)


def test_the_table_imports_no_implementation_until_asked() -> None:
    code = "import sys, harness.ops; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


# --- definitions


def make_batch_norm_arguments(seed: int) -> dict[str, Any]:
    torch.manual_seed(seed)
    return {
        "weight": torch.rand(5) + 0.5,
        "bias": torch.randn(5),
        "running_mean": torch.randn(5),
        "running_var": torch.rand(5) + 0.5,
        "training": True,
        "momentum": 0.1,
        "eps": 1e-5,
    }


def batch_norm_formula(x: Tensor, a: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    x = x.double()
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    count = x.numel() / x.shape[1]
    moved_mean = 0.9 * a["running_mean"].double() + 0.1 * mean
    moved_var = 0.9 * a["running_var"].double() + 0.1 * var * count / (count - 1)
    if not a["training"]:
        mean, var = a["running_mean"].double(), a["running_var"].double()
        moved_mean, moved_var = mean, var
    shape = (1, -1, 1, 1)
    y = (x - mean.view(shape)) / (var.view(shape) + a["eps"]).sqrt()
    y = y * a["weight"].double().view(shape) + a["bias"].double().view(shape)
    return y, moved_mean, moved_var


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("operation", ["batch_norm", "batch_norm_relu", "batch_norm_add_relu"])
def test_batch_norms_are_their_formula_and_move_the_statistics(
    operation: str, training: bool
) -> None:
    arguments = make_batch_norm_arguments(1) | {"training": training}
    x = (3 * torch.randn(4, 5, 6, 7) + 2).to(memory_format=torch.channels_last)
    residual = torch.randn(4, 5, 6, 7)
    kept = residual.clone()
    expected, mean, var = batch_norm_formula(x, arguments)
    inputs = [x]
    if operation == "batch_norm_add_relu":
        inputs.append(residual)
        expected = expected + residual
    if operation != "batch_norm":
        expected = expected.relu()
    y = resolve(operation, "torch")(*inputs, **arguments)
    if operation == "batch_norm_add_relu":  # one tensor for its two uses
        y, again = y
        assert again is y
    assert close(y, expected)
    assert y.stride() == x.stride() and torch.equal(residual, kept)
    assert close(arguments["running_mean"], mean) and close(arguments["running_var"], var)


@pytest.mark.parametrize("operation", ["batch_norm", "batch_norm_relu", "batch_norm_add_relu"])
def test_batch_norms_have_right_gradients(operation: str) -> None:
    arguments = make_batch_norm_arguments(2)
    fixed = {key: arguments[key] for key in ("training", "momentum", "eps")}
    count = 2 if operation == "batch_norm_add_relu" else 1
    inputs = [torch.randn(3, 5, 2, 2, dtype=torch.float64) for _ in range(count)]
    inputs += [arguments["weight"].double(), arguments["bias"].double()]

    def apply(*leaves: Tensor) -> Tensor:
        statistics = {name: arguments[name].double() for name in ("running_mean", "running_var")}
        y = resolve(operation, "torch")(
            *leaves[:-2], weight=leaves[-2], bias=leaves[-1], **statistics, **fixed
        )
        return y[0] if operation == "batch_norm_add_relu" else y

    assert torch.autograd.gradcheck(apply, [leaf.requires_grad_() for leaf in inputs])


def make_pair_arguments(seed: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Arguments of each normalisation, and of both in one operation."""
    own, other = make_batch_norm_arguments(seed), make_batch_norm_arguments(seed + 1)
    names = {name: f"shortcut_{name.removeprefix('running_')}" for name in
             ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
    return own, other, own | {names[name]: other[name] for name in names}


@pytest.mark.parametrize("training", [True, False])
def test_two_batch_norms_are_their_formulas_and_move_their_statistics(training: bool) -> None:
    own, other, both = make_pair_arguments(5)
    x, shortcut = (
        (scale * torch.randn(4, 5, 6, 7) + 2).to(memory_format=torch.channels_last)
        for scale in (3, 0.5)
    )
    kept = x.clone(), shortcut.clone()
    found = [
        batch_norm_formula(tensor, arguments | {"training": training})
        for tensor, arguments in ((x, own), (shortcut, other))
    ]
    operation = resolve("batch_norm_batch_norm_add_relu", "torch")
    y, again = operation(x, shortcut, **(both | {"training": training}))
    assert again is y and y.stride() == x.stride()
    assert torch.equal(x, kept[0]) and torch.equal(shortcut, kept[1])
    assert close(y, (found[0][0] + found[1][0]).relu())
    moved = [both[name] for name in ("running_mean", "running_var")]
    moved += [both[name] for name in ("shortcut_mean", "shortcut_var")]
    for ours, theirs in zip(moved, (*found[0][1:], *found[1][1:]), strict=True):
        assert close(ours, theirs)


@pytest.mark.parametrize("training", [True, False])
def test_pooling_takes_the_largest_of_each_window(training: bool) -> None:
    arguments = make_batch_norm_arguments(7) | {"training": training}
    x = torch.randn(2, 5, 6, 7).to(memory_format=torch.channels_last)
    normal, mean, var = batch_norm_formula(x, arguments)
    y = resolve("batch_norm_relu_max_pool", "torch")(x, **arguments)
    assert y.shape == (2, 5, 3, 4) and y.is_contiguous(memory_format=torch.channels_last)
    for row in range(3):
        for column in range(4):
            rows, columns = (slice(max(2 * k - 1, 0), 2 * k + 2) for k in (row, column))
            largest = normal[:, :, rows, columns].amax((2, 3)).relu()
            assert close(y[:, :, row, column], largest)
    assert close(arguments["running_mean"], mean) and close(arguments["running_var"], var)


def test_two_batch_norms_have_right_gradients() -> None:
    _, _, both = make_pair_arguments(6)
    trained = ("weight", "bias", "shortcut_weight", "shortcut_bias")
    leaves = [torch.randn(2, 5, 2, 1, dtype=torch.float64) for _ in range(2)]
    leaves += [both[name].double() for name in trained]

    def apply(*tensors: Tensor) -> Tensor:
        given = {k: v.double() if isinstance(v, Tensor) else v for k, v in both.items()}
        given |= dict(zip(trained, tensors[2:], strict=True))
        y: Tensor = resolve("batch_norm_batch_norm_add_relu", "torch")(*tensors[:2], **given)[0]
        return y

    assert torch.autograd.gradcheck(apply, [leaf.requires_grad_() for leaf in leaves])


def test_batch_norm_of_bf16_keeps_statistics_in_fp32() -> None:
    arguments = make_batch_norm_arguments(3)
    x = torch.randn(64, 5, 8, 8).bfloat16() + 16
    _, mean, var = batch_norm_formula(x, arguments)
    y = resolve("batch_norm", "torch")(x, **arguments)
    assert y.dtype == torch.bfloat16
    assert close(arguments["running_mean"], mean, 1e-5)
    assert close(arguments["running_var"], var, 1e-5)


def test_label_smoothed_cross_entropy_is_its_formula() -> None:
    torch.manual_seed(4)
    logits, labels = 3 * torch.randn(9, 12), torch.randint(0, 12, (9,))
    target = torch.full((9, 12), 0.1 / 12, dtype=torch.float64)
    target[torch.arange(9), labels] += 0.9
    expected = -(target * logits.double().log_softmax(1)).sum(1).mean()
    operation = resolve("label_smoothed_cross_entropy", "torch")
    assert close(operation(logits, labels, 0.1), expected)
    plain = -logits.double().log_softmax(1)[torch.arange(9), labels].mean()
    assert close(operation(logits, labels, 0.0), plain)
    assert operation(logits.bfloat16(), labels, 0.1).dtype == torch.float32


def test_query_key_value_projects_thrice_and_keeps_three_gradients() -> None:
    torch.manual_seed(5)
    x = torch.randn(7, 6)
    weights = tuple(torch.randn(6, 6, requires_grad=True) for _ in range(3))
    biases = tuple(torch.randn(6, requires_grad=True) for _ in range(3))
    projections = resolve("query_key_value", "torch")(x, weights, biases)
    for number, (y, weight, bias) in enumerate(zip(projections, weights, biases, strict=True), 1):
        assert close(y, x.double() @ weight.double().T + bias.double())
        (number * y.sum()).backward()
        assert weight.grad is not None and bias.grad is not None
        assert close(weight.grad, number * x.sum(0).expand(6, 6))
        assert close(bias.grad, torch.full((6,), 7.0 * number))


def attention_formula(q: Tensor, k: Tensor, v: Tensor, ends: list[int]) -> Tensor:
    """One matrix over all tokens; what lies in another sequence gets probability 0."""
    number = torch.bucketize(torch.arange(len(q)), torch.tensor(ends[1:]), right=True)
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[2])
    scores = scores.masked_fill(number[:, None] != number[None, :], -math.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(2), v)


@pytest.mark.parametrize("ends", [[0, 13], [0, 4, 5, 13], [0, 4, 4, 13, 13]])
def test_varlen_attention_stays_within_each_sequence(ends: list[int]) -> None:
    torch.manual_seed(6)
    heads = [torch.randn(13, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    cu_seqlens = torch.tensor(ends, dtype=torch.int32)
    operation = resolve("varlen_attention", "torch")
    context = operation(*heads, cu_seqlens, 13, 0.5, False)
    expected = attention_formula(*heads, ends)
    assert context.shape == (13, 3, 4) and close(context, expected, 1e-12)
    direction = torch.randn(13, 3, 4, dtype=torch.float64)
    ours = torch.autograd.grad((context * direction).sum(), heads)
    theirs = torch.autograd.grad((expected * direction).sum(), heads)
    assert all(close(mine, other, 1e-12) for mine, other in zip(ours, theirs, strict=True))


def test_varlen_attention_refuses_lengths_of_another_batch() -> None:
    heads = [torch.randn(13, 3, 4) for _ in range(3)]
    cu_seqlens = torch.tensor([0, 4, 12], dtype=torch.int32)
    with pytest.raises(RuntimeError, match="13"):
        resolve("varlen_attention", "torch")(*heads, cu_seqlens, 8, 0.0, True)


def test_attention_dropout_acts_on_the_probabilities() -> None:
    torch.manual_seed(7)
    tokens = 64
    zero = torch.zeros(tokens, 8, 4)  # equal scores: every probability is 1 / 64
    value = torch.eye(tokens).view(tokens, 1, tokens).expand(tokens, 8, tokens)
    cu_seqlens = torch.tensor([0, tokens], dtype=torch.int32)
    operation = resolve("varlen_attention", "torch")
    probabilities = operation(zero, zero, value, cu_seqlens, tokens, 0.1, True) * tokens
    dropped = probabilities == 0
    # 32768 draws at 0.1: standard deviation 0.0017
    assert abs(dropped.float().mean() - 0.1) < 0.01
    assert close(probabilities[~dropped], torch.full((int((~dropped).sum()),), 1 / 0.9), 1e-5)
    kept = operation(zero, zero, value, cu_seqlens, tokens, 0.1, False) * tokens
    assert close(kept, torch.ones_like(kept), 1e-5)


def test_bias_gelu_is_the_tanh_form() -> None:
    x = torch.linspace(-6, 6, 97).view(97, 1) * torch.ones(1, 3)
    bias = torch.tensor([0.0, 0.5, -1.0])
    y = x.double() + bias.double()
    expected = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
    assert close(resolve("bias_gelu", "torch")(x, bias), expected)
    erf_form = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
    assert not close(resolve("bias_gelu", "torch")(x, bias), erf_form, 1e-5)


def layer_norm_formula(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    x = x.double()
    mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    return (x - mean) / (var + eps).sqrt() * weight.double() + bias.double()


def test_layer_norm_is_its_formula_with_eps_inside_the_root() -> None:
    torch.manual_seed(8)
    x, weight, bias = 3 * torch.randn(6, 16) + 1, torch.randn(16), torch.randn(16)
    operation = resolve("layer_norm", "torch")
    for eps in (1e-12, 0.5):
        assert close(operation(x, weight, bias, eps), layer_norm_formula(x, weight, bias, eps))
    short = (x + 64).bfloat16()  # bf16 sums would lose the variance here
    expected = layer_norm_formula(short, weight, bias, 1e-12)
    y = operation(short, weight, bias, 1e-12)
    assert y.dtype == torch.bfloat16 and close(y, expected, 4e-3)


def test_dropout_add_layer_norm_drops_x_and_not_the_residual() -> None:
    torch.manual_seed(9)
    x, residual = torch.randn(50, 40), torch.randn(50, 40)
    x_bias, weight, bias = (torch.randn(40) for _ in range(3))
    operation = resolve("dropout_add_layer_norm", "torch")
    expected = layer_norm_formula(x + x_bias + residual, weight, bias, 1e-12)
    for dropout, training in ((0.3, False), (0.0, True)):
        results = operation(x, x_bias, residual, weight, bias, dropout, 1e-12, training)
        assert len(results) == 2 and all(close(result, expected) for result in results)
    torch.manual_seed(10)
    y, _ = operation(x, x_bias, residual, weight, bias, 0.3, 1e-12, True)
    torch.manual_seed(10)
    mask = torch.nn.functional.dropout(torch.ones_like(x), 0.3)
    assert mask.unique().tolist() == pytest.approx([0, 1 / 0.7])
    assert close(y, layer_norm_formula((x + x_bias) * mask + residual, weight, bias, 1e-12), 1e-5)


def test_masked_cross_entropy_is_the_reference_definition() -> None:
    torch.manual_seed(11)
    logits, labels = 3 * torch.randn(6, 20), torch.tensor([3, -1, 0, 19, -1, 7])
    counted = [0, 2, 3, 5]
    losses = -logits.double().log_softmax(1)[counted, labels[counted]]
    operation = resolve("masked_cross_entropy", "torch")
    assert close(operation(logits, labels), losses.sum() / (4 + 1e-5))
    assert operation(logits, torch.full((6,), -1)) == 0
    assert operation(logits[:0], labels[:0]) == 0
    assert operation(logits.bfloat16(), labels).dtype == torch.float32
