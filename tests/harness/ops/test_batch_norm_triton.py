"""The kernels of batch normalisation, interpreted, against the definition in fp64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from harness.commands import InputError
from harness.ops import batch_norm_launches as launches
from harness.ops.kernels import record_launches
from harness.ops.table import resolve

OPERATIONS = ["batch_norm", "batch_norm_relu", "batch_norm_add_relu"]
# Relative errors, in the norm: activations are rounded to their type once on the way forward; on
# the way back twice where the residual's gradient is made. Parameters, statistics: sums in fp32.
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2.5e-3, torch.float16: 3e-4}
SUMS = {torch.float32: 2e-6, torch.bfloat16: 2.5e-3, torch.float16: 3e-4}
# Rows that no tile divides; channels below, between and above the tiles; more channels than rows.
CASES = [
    *[(dtype, (3, 72, 5, 7)) for dtype in ROUNDING],
    *[(dtype, (2, 256, 3, 3)) for dtype in ROUNDING],
    (torch.float32, (4, 64, 5, 9)),
    (torch.bfloat16, (3, 8, 20, 25)),
    (torch.bfloat16, (2, 2048, 2, 2)),
]
MOMENTUM, EPS = 0.1, 1e-5


@dataclass
class Case:
    """What goes in, and what has to come out, in fp64."""

    inputs: list[Tensor]
    vectors: list[Tensor]  # weight, bias, running mean, running variance
    training: bool
    directions: list[Tensor]
    result: Tensor
    statistics: list[Tensor]
    gradients: list[Tensor]


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def make_case(
    operation: str, shape: tuple[int, ...], dtype: torch.dtype, training: bool, directions: int = 1
) -> Case:
    """Draw a case, and compute it in fp64 from the numbers as they were rounded."""
    torch.manual_seed(sum(shape))
    channels = shape[1]
    inputs = [channels_last((3 * torch.randn(shape) + 2).to(dtype))]
    if operation == "batch_norm_add_relu":
        inputs.append(channels_last(torch.randn(shape).to(dtype)))
    vectors = [torch.rand(channels) + 0.5, torch.randn(channels)]
    vectors += [torch.randn(channels), torch.rand(channels) + 0.5]
    leaves = [t.double().requires_grad_() for t in (*inputs, *vectors[:2])]
    x, weight, bias = leaves[0], leaves[-2].view(1, -1, 1, 1), leaves[-1].view(1, -1, 1, 1)
    mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    statistics = [vector.double() for vector in vectors[2:]]
    if training:
        count = x.numel() / channels
        moved = (mean, var * count / (count - 1))
        pairs = zip(statistics, moved, strict=True)
        statistics = [(1 - MOMENTUM) * old + MOMENTUM * new for old, new in pairs]
    else:
        mean, var = statistics
    y = (x - mean.view(1, -1, 1, 1)) / (var.view(1, -1, 1, 1) + EPS).sqrt() * weight + bias
    if len(inputs) == 2:
        y = y + leaves[1]
    given = [torch.randn(shape) for _ in range(directions)]
    if operation != "batch_norm":
        # Where the ReLU bends, a rounding decides: nothing is asked there.
        given = [g * (y.detach().abs() > 0.05) for g in given]
        y = y.relu()
    given = [channels_last(g.to(dtype)) for g in given]
    total = torch.stack([g.double() for g in given]).sum(0)
    gradients = list(torch.autograd.grad(y, leaves, total))
    statistics = [vector.detach() for vector in statistics]
    return Case(inputs, vectors, training, given, y.detach(), statistics, gradients)


def run(operation: str, case: Case) -> tuple[Tensor, list[Tensor]]:
    """The kernels' result and gradients; the case's running statistics are moved."""
    function = resolve(operation, "triton")
    leaves = [t.detach().requires_grad_() for t in (*case.inputs, *case.vectors[:2])]
    inputs, parameters = leaves[: len(case.inputs)], leaves[len(case.inputs) :]
    y = function(*inputs, *parameters, *case.vectors[2:], case.training, MOMENTUM, EPS)
    results = list(y) if isinstance(y, tuple) else [y]
    results = results[: len(case.directions)]
    return results[0], list(torch.autograd.grad(results, leaves, case.directions))


def error(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.detach().double() - theirs).norm() / (theirs.norm() + 1e-12))


def check(operation: str, case: Case) -> None:
    dtype = case.inputs[0].dtype
    y, gradients = run(operation, case)
    assert y.dtype == dtype and y.stride() == case.inputs[0].stride()
    assert error(y, case.result) <= ROUNDING[dtype]
    for moved, expected in zip(case.vectors[2:], case.statistics, strict=True):
        assert error(moved, expected) <= 2e-6
    count = len(case.inputs)
    for ours, theirs in zip(gradients[:count], case.gradients[:count], strict=True):
        assert ours.dtype == dtype and ours.stride() == case.inputs[0].stride()
        assert error(ours, theirs) <= 2 * ROUNDING[dtype]
    for ours, theirs in zip(gradients[count:], case.gradients[count:], strict=True):
        assert ours.dtype == torch.float32
        assert error(ours, theirs) <= SUMS[dtype]


@pytest.mark.parametrize(("dtype", "shape"), CASES)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_training_is_the_definition(
    operation: str, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    check(operation, make_case(operation, shape, dtype, training=True))


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_evaluation_is_the_definition_and_moves_nothing(operation: str, dtype: torch.dtype) -> None:
    case = make_case(operation, (3, 72, 5, 7), dtype, training=False)
    kept = [vector.clone() for vector in case.vectors]
    check(operation, case)
    assert all(torch.equal(a, b) for a, b in zip(kept, case.vectors, strict=True))


@pytest.mark.parametrize("shape", [(1, 64, 17, 21), (1, 72, 17, 21)])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_parts_of_many_tiles_are_merged_by_their_counts(
    operation: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launches, "count_multiprocessors", lambda device: 1)
    monkeypatch.setattr(launches, "APPLY_PROGRAMS_PER_MULTIPROCESSOR", 4)
    case = make_case(operation, shape, torch.float32, training=True)
    launch, parts = launches.plan_reduction(None, case.inputs[0], 8192, {})
    tiles = case.inputs[0].numel() / shape[1] / launch.constants["block_rows"]
    assert 1 < parts < tiles and tiles // 1 % parts != 0 and tiles % 1 != 0
    assert launches.plan_apply(None, case.inputs[0], {})[1] > 1
    check(operation, case)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_gradients_of_both_uses_of_a_block_are_added(dtype: torch.dtype) -> None:
    case = make_case("batch_norm_add_relu", (4, 64, 9, 9), dtype, training=True, directions=2)
    check("batch_norm_add_relu", case)


def test_a_use_without_gradient_counts_as_none() -> None:
    case = make_case("batch_norm_add_relu", (3, 72, 5, 7), torch.float32, training=True)
    leaves = [t.detach().requires_grad_() for t in (*case.inputs, *case.vectors[:2])]
    operation = resolve("batch_norm_add_relu", "triton")
    _, second = operation(*leaves, *case.vectors[2:], True, MOMENTUM, EPS)
    gradients = torch.autograd.grad(second, leaves, case.directions)
    for ours, theirs in zip(gradients, case.gradients, strict=True):
        assert error(ours, theirs) <= 2e-6


def test_statistics_keep_their_digits_far_from_zero() -> None:
    """Sums of squares would leave nothing of a variance of 1 beside a mean of 10,000."""
    torch.manual_seed(3)
    x = channels_last((torch.randn(4, 64, 9, 9, dtype=torch.float64) + 1e4).float())
    vectors = [torch.ones(64), torch.zeros(64), torch.zeros(64), torch.zeros(64)]
    y = resolve("batch_norm", "triton")(x, *vectors, True, 1.0, EPS)
    exact = x.double()
    var, mean = torch.var_mean(exact, (0, 2, 3))
    assert error(vectors[2], mean) <= 1e-7 and error(vectors[3], var) <= 1e-4
    biased = exact.var((0, 2, 3), unbiased=False).view(1, -1, 1, 1)
    expected = (exact - mean.view(1, -1, 1, 1)) / (biased + EPS).sqrt()
    assert error(y, expected) <= 1e-3  # the mean itself has 1e-3 between two numbers of fp32


def test_a_constant_channel_has_no_variance() -> None:
    x = channels_last(torch.full((2, 8, 3, 5), 0.1))
    vectors = [torch.ones(8), torch.full((8,), 0.25), torch.zeros(8), torch.ones(8)]
    y = resolve("batch_norm_relu", "triton")(x, *vectors, True, 1.0, EPS)
    assert torch.equal(vectors[3], torch.zeros(8))
    assert error(y, torch.full(x.shape, 0.25, dtype=torch.float64)) <= 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("operation", "inputs", "normalised"),
    [
        ("batch_norm_relu", 1, 1),
        ("batch_norm_add_relu", 2, 1),
        ("batch_norm_batch_norm_add_relu", 2, 2),
        ("batch_norm_relu_max_pool", 1, 1),
    ],
)
def test_what_is_no_number_passes_the_relu(
    operation: str, inputs: int, normalised: int, dtype: torch.dtype
) -> None:
    """A 0 in its place, which a maximum of Triton's puts there, would hide what went wrong."""
    torch.manual_seed(7)
    x = [channels_last(torch.randn(1, 8, 5, 5).to(dtype)) for _ in range(inputs)]
    x[0][0, 2, 3, 1] = float("nan")
    for training in (True, False):
        found = []
        for provider in ("triton", "torch"):
            vectors = [torch.ones(8) for _ in range(4 * normalised)]
            y = resolve(operation, provider)(*x, *vectors, training, MOMENTUM, EPS)
            found.append((y[0] if inputs == 2 else y).isnan())
        assert found[1].any() and torch.equal(*found)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_equal_inputs_give_equal_bits(operation: str) -> None:
    cases = [make_case(operation, (4, 64, 9, 9), torch.bfloat16, True) for _ in range(2)]
    (y, gradients), (y_2, gradients_2) = (run(operation, case) for case in cases)
    assert torch.equal(y, y_2)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_2, strict=True))


def test_the_mask_holds_a_bit_an_element() -> None:
    case = make_case("batch_norm_add_relu", (3, 72, 5, 7), torch.float32, training=True)
    vectors = [case.vectors[i] for i in (2, 3, 0, 1)]
    y, mask = launches.apply(*case.inputs, *vectors, EPS, True, True, True)
    assert mask.shape == (3 * 5 * 7, 9) and mask.dtype == torch.uint8
    bits = (mask[:, :, None] >> torch.arange(8, dtype=torch.uint8)) & 1
    assert torch.equal(bits.reshape(105, 72).bool(), y.permute(0, 2, 3, 1).reshape(105, 72) > 0)


def make_arguments(
    count: int = 1, shape: tuple[int, ...] = (2, 8, 3, 3), device: str = "cpu"
) -> dict[str, Any]:
    x = [channels_last(torch.randn(shape, device=device)) for _ in range(count)]
    vectors = [torch.ones(shape[1], device=device) for _ in range(4)]
    names = [*["x", "residual"][:count], "weight", "bias", "running_mean", "running_var"]
    return dict(zip(names, x + vectors, strict=True)) | {
        "training": True,
        "momentum": MOMENTUM,
        "eps": EPS,
    }


@pytest.mark.parametrize(
    ("operation", "changes", "words"),
    [
        ("batch_norm", {"x": torch.randn(2, 8, 3, 3)}, "channels_last strides"),
        ("batch_norm_relu", {"x": torch.randn(2, 8)}, "channels_last strides"),
        ("batch_norm", {"x": channels_last(torch.randn(2, 8, 3, 3).double())}, "float64"),
        ("batch_norm", {"weight": torch.ones(8).bfloat16()}, "fp32 parameters"),
        ("batch_norm", {"running_var": torch.ones(9)}, "8 channels"),
        ("batch_norm_add_relu", {"residual": torch.randn(2, 8, 3, 3)}, "residual with channels"),
        ("batch_norm_add_relu", {"residual": torch.randn(2, 8, 3, 1)}, "residual alike"),
    ],
)
def test_other_layouts_are_refused(operation: str, changes: dict[str, Any], words: str) -> None:
    arguments = make_arguments(2 if operation == "batch_norm_add_relu" else 1)
    with pytest.raises(InputError, match=words):
        resolve(operation, "triton")(**(arguments | changes))


def test_channels_that_fill_no_byte_and_a_single_value_are_refused() -> None:
    with pytest.raises(InputError, match="8 channels or a multiple"):
        resolve("batch_norm_add_relu", "triton")(**make_arguments(2, (2, 12, 3, 3)))
    with pytest.raises(InputError, match="more than one value"):
        resolve("batch_norm", "triton")(**make_arguments(1, (1, 8, 1, 1)))


def test_a_gradient_of_another_layout_is_refused() -> None:
    arguments = make_arguments()
    arguments["x"].requires_grad_()
    y = resolve("batch_norm", "triton")(**arguments)
    with pytest.raises(InputError, match="the operation behind it has to keep them"):
        y.backward(torch.randn(2, 8, 3, 3))


@pytest.mark.parametrize(
    ("operation", "training", "forward", "backward"),
    [
        ("batch_norm", True, 3, 3),
        ("batch_norm_relu", True, 3, 3),
        ("batch_norm_add_relu", True, 3, 3),
        ("batch_norm_add_relu", False, 1, 0),
    ],
)
def test_launches_are_few(operation: str, training: bool, forward: int, backward: int) -> None:
    arguments = make_arguments(2 if "add" in operation else 1, (102, 256, 56, 56), "meta")
    arguments["x"].requires_grad_()
    arguments["training"] = training
    with record_launches() as records, torch.set_grad_enabled(training):
        y = resolve(operation, "triton")(**arguments)
    assert len(records) == forward
    if training:
        first = y[0] if isinstance(y, tuple) else y
        with record_launches() as records:
            first.backward(torch.empty_like(first))
        assert len(records) == backward


@pytest.mark.parametrize("images", [102, 204, 400])
@pytest.mark.parametrize(("channels", "side"), [(64, 112), (256, 56), (512, 14), (2048, 7)])
def test_every_pass_fills_the_gpu_and_first_passes_fit_it(
    images: int, channels: int, side: int
) -> None:
    x = torch.empty(images, channels, side, side, dtype=torch.bfloat16, device="meta")
    first, parts = launches.plan_reduction(None, x, launches.STATISTICS_TILE_BYTES, {})
    second, _ = launches.plan_apply(None, x, {})
    programs = first.grid[0] * first.grid[1]
    assert first.grid[1] == parts
    assert 2 * 132 <= programs <= launches.PROGRAMS_PER_MULTIPROCESSOR * 132
    assert second.grid[0] * second.grid[1] >= 8 * 132


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_batch_has_more_row_blocks_than_a_grid_takes(dtype: torch.dtype) -> None:
    x = torch.empty(4000, 64, 112, 112, dtype=dtype, device="meta")
    launch, tiles = launches.plan_apply(None, x, {})
    rows = launch.grid[1] * tiles * int(launch.constants["block_rows"])
    assert launch.grid[1] <= 65535 and rows >= 4000 * 112 * 112
