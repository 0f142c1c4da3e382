"""Casts scaled by the step before: what they give, what they note, and who asks for it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harness.ops.float8 import E4M3, E5M2, LARGEST, Float8
from harness.ops.float8_history import (
    GRADIENT,
    INPUT,
    MARGINS,
    ROLES,
    WEIGHT,
    Histories,
    Scaling,
    find_scaling,
    follow_histories,
)
from harness.ops.table import resolve
from tests.harness.ops.gradients import compare, decode, measure_error
from tests.harness.ops.test_feed_forward import define, draw

pytest.importorskip("triton", reason="Triton is published for Linux on x86_64 alone")

from harness.ops.float8_gelu_triton import quantize_gelu, quantize_gelu_gradient
from harness.ops.float8_join_triton import quantize_joined
from harness.ops.float8_triton import quantize

pytestmark = [
    pytest.mark.usefixtures("rounded_float8"),
    pytest.mark.filterwarnings("ignore:(divide by zero|overflow|invalid value) encountered"),
]


def make_scaling(largest: float, seen: float = 0.0) -> Scaling:
    return Scaling(torch.tensor([largest]), torch.tensor([seen]))


def cut(x: Tensor, largest: float, dtype: torch.dtype) -> Tensor:
    """x scaled by another largest number: rounded, and cut where it is past the format."""
    scale = LARGEST[dtype] / MARGINS[dtype] / largest
    scaled = (x.float() * torch.tensor(scale)).clamp(-LARGEST[dtype], LARGEST[dtype])
    return scaled.to(dtype)


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
@pytest.mark.parametrize("largest", [3.0, 1.0, 0.25])
def test_a_cast_is_scaled_by_the_number_given_and_notes_its_own(
    dtype: torch.dtype, largest: float
) -> None:
    torch.manual_seed(1)
    x = torch.randn(130, 70).clamp(-2.0, 2.0).bfloat16()
    x[100, 60] = -2.0
    scaling = make_scaling(largest)
    ours = quantize(x, dtype, True, scaling)
    expected = cut(x, largest, dtype)
    assert ours.columns is not None
    assert torch.equal(ours.rows.view(torch.uint8), expected.view(torch.uint8))
    assert torch.equal(ours.columns.double(), expected.double().t())
    assert scaling.seen == 2.0 and scaling.largest == largest
    # Within the margin nothing is cut; where the scale is a power of two it is that of rounding.
    if MARGINS[dtype] * largest >= 2.0:
        assert measure_error(decode(ours), x.double()) < (0.04 if dtype == E4M3 else 0.08)
    assert quantize(x, dtype, False, Scaling(scaling.largest, None)).columns is None


def test_the_largest_of_several_casts_is_noted() -> None:
    scaling = make_scaling(1.0)
    for size in (0.5, 3.0, 1.0):
        quantize(torch.full((16, 16), size).bfloat16(), E4M3, False, scaling)
    assert scaling.seen == 3.0
    measured = Scaling(None, torch.zeros(1))
    own = quantize(torch.full((16, 16), 0.5).bfloat16(), E4M3, False, measured)
    assert own.rows.double().max() == LARGEST[E4M3] and measured.seen == 0.5


def test_what_is_no_number_stays_none_and_is_not_noted() -> None:
    for wrong in (float("inf"), float("-inf"), float("nan")):
        x = torch.ones(16, 16).bfloat16()
        x[3, 5] = wrong
        scaling = make_scaling(1.0)
        cast = quantize(x, E5M2, True, scaling)
        assert cast.rows.double()[3, 5].isnan() and cast.rows.double().isnan().sum() == 1
        assert scaling.seen == 1.0  # of the same tile


def test_what_fp32_cannot_hold_once_scaled_is_cut_too() -> None:
    """A tensor of almost nothing the step before, and of ordinary numbers in this one."""
    for dtype in (E4M3, E5M2):
        x = torch.tensor([[-10.0, 1e-38, 0.0, 10.0] * 4] * 16).bfloat16()
        cast = quantize(x, dtype, True, make_scaling(1e-38)).rows.double()
        assert (cast[:, 0] == -LARGEST[dtype]).all() and (cast[:, 3] == LARGEST[dtype]).all()
        assert not cast[:, 2].any() and (cast[:, 1] == 3.0).all()


def test_gelu_its_gradient_and_joined_gradients_do_the_same() -> None:
    torch.manual_seed(2)
    grad, x = 1e-3 * torch.randn(40, 48).bfloat16(), torch.randn(40, 48).bfloat16()
    bias = torch.randn(48).bfloat16()
    active = torch.nn.functional.gelu(x.double() + bias.double(), approximate="tanh")
    top = float(active.max())
    scaling = make_scaling(0.8 * top)
    ours = quantize_gelu(x, bias, True, scaling)
    assert measure_error(decode(ours), active) < 0.04
    assert scaling.seen == pytest.approx(top, rel=1e-5)
    own, sums = quantize_gelu_gradient(grad, x, bias)
    noted = make_scaling(float(decode(own).abs().max()))
    ours, again = quantize_gelu_gradient(grad, x, bias, noted)
    assert measure_error(decode(ours), decode(own)) < 0.1 and torch.equal(sums, again)
    assert noted.seen == pytest.approx(float(noted.largest), rel=0.13)  # type: ignore[arg-type]
    parts = (grad, 2 * grad, 3 * grad)
    scaling = make_scaling(2 * float(grad.abs().max()))
    joined, _ = quantize_joined(parts, torch.float32, scaling)
    assert measure_error(decode(joined), torch.cat(parts, 1).double()) < 0.08
    assert scaling.seen == (3 * grad).abs().max()


def test_histories_are_followed_where_asked_for_and_advance_by_steps() -> None:
    weights = [torch.ones(3), torch.ones(4)]
    histories = Histories(weights, torch.device("cpu"))
    assert histories.numbers.shape == (2, 2, ROLES)
    first = find_scaling(weights[0], GRADIENT, records=True)
    assert first.largest is None and first.seen is not None
    first.seen.fill_(7.0)
    assert find_scaling(weights[1], INPUT, records=False) == (None, None)
    histories.advance()
    assert first.seen == 0.0
    histories.advance()  # a step that saw nothing finite
    with follow_histories():
        known = find_scaling(weights[0], GRADIENT, records=True).largest
        assert known == 7.0
        assert find_scaling(weights[1], WEIGHT, records=False).largest == 0.0
        with follow_histories(False):
            assert find_scaling(weights[0], GRADIENT, records=True).largest is None
        assert find_scaling(weights[0], INPUT, records=True).largest is not None
    assert find_scaling(weights[0], GRADIENT, records=True).largest is None


def test_a_weight_without_a_history_is_measured_and_never_followed() -> None:
    assert find_scaling(torch.ones(3), INPUT, records=True) == (None, None)
    with follow_histories(), pytest.raises(RuntimeError, match="no Histories"):
        find_scaling(torch.ones(3), INPUT, records=True)


def make_call(operation: str) -> tuple[list[Tensor], object]:
    if operation == "feed_forward":
        return draw(torch.bfloat16), define
    x, weight, bias = (torch.randn(s).bfloat16() for s in ((48, 64), (32, 64), (32,)))
    return [x, weight / 8, bias], torch.nn.functional.linear


@pytest.mark.parametrize("operation", ["linear", "feed_forward"])
def test_alone_an_operation_measures_and_is_that_of_current_scaling(operation: str) -> None:
    torch.manual_seed(4)
    inputs, definition = make_call(operation)
    compare(resolve(operation, "delayed"), definition, inputs, 0.12)  # type: ignore[arg-type]
    leaves = [tensor.requires_grad_() for tensor in inputs]
    results = []
    for provider in ("scaled_mm", "delayed"):
        y = resolve(operation, provider)(*leaves)
        results.append((y, *torch.autograd.grad(y, leaves, torch.ones_like(y))))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("operation", ["linear", "query_key_value", "feed_forward"])
def test_the_second_step_is_close_to_the_first_of_the_same_numbers(operation: str) -> None:
    torch.manual_seed(5)
    function = resolve(operation, "delayed")
    if operation == "query_key_value":
        x, store = torch.randn(48, 32).bfloat16(), torch.randn(96, 32).bfloat16() / 6
        weights, biases = list(store.chunk(3)), list(torch.randn(96).bfloat16().chunk(3))
        leaves = [x, *weights, *biases]
        held = weights[:1]

        def run() -> Tensor:
            return torch.cat(function(x, tuple(weights), tuple(biases)), 1)

    else:
        leaves, _ = make_call(operation)
        held = [leaf for leaf in leaves[1:] if leaf.dim() == 2]

        def run() -> Tensor:
            result: Tensor = function(*leaves)
            return result

    for leaf in leaves:
        leaf.requires_grad_()
    histories = Histories(held, torch.device("cpu"))
    direction = torch.randn(run().shape).bfloat16()
    found = []
    for number in range(2):
        with follow_histories(number > 0):
            y = run()
        found.append((y, *torch.autograd.grad(y, leaves, direction)))
        assert (histories.numbers[1] > 0).all()  # every cast was noted
        histories.advance()
    for first, second in zip(*found, strict=True):
        # Another scale, by up to 1.129 times the margin, is another rounding of the operands.
        assert measure_error(second, first.detach().double()) < 0.1
    with torch.no_grad(), follow_histories():
        run()
    assert not histories.numbers[1].any()  # evaluation notes nothing


def test_a_cast_of_nothing_known_has_scale_one() -> None:
    cast: Float8 = quantize(torch.full((16, 16), 3.0).bfloat16(), E4M3, False, make_scaling(0.0))
    assert cast.inverse == 1 and (cast.rows.double() == 3).all()
