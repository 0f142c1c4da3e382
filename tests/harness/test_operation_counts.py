"""Kinds of work and the least time they can take, against sums by hand."""

from __future__ import annotations

import pytest
import torch

from harness.operation_counts import KINDS, OTHER, OperationFloor, count_floor, name_kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("convolution_backward", "convolution"),
        ("sm90_xmma_dgrad_implicit_gemm_f16", "convolution"),
        ("sm90_xmma_gemm_bf16bf16", "matrix product"),
        ("addmm", "matrix product"),
        ("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT", "matrix product"),
        ("batch_norm_pool_reduce_pool", "normalisation"),
        ("lars_update_apply", "gradients and update"),
        ("chunk_sums_sum", "gradients and update"),
        ("native_batch_norm_backward", "normalisation"),
        ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", "communication"),
        ("_flash_attention_forward", "attention"),
        ("_foreach_copy_", "gradients and update"),
        ("cross_entropy_loss", "loss"),
        ("Memcpy DtoD (Device -> Device)", "memory"),
        ("_scaled_mm", "matrix product"),
        ("float8_gelu_cast_gradient", "cast to FP8"),
        ("find_largest_joined", "cast to FP8"),
        ("relu_", OTHER),
    ],
)
def test_names_have_their_kind(name: str, kind: str) -> None:
    assert kind in {*KINDS, OTHER}
    assert name_kind(name) == kind


def test_the_floor_is_the_larger_of_both_limits() -> None:
    a, b = torch.ones(8, 16), torch.ones(16, 4)
    flops, moved = 2 * 8 * 16 * 4, 4 * (8 * 16 + 16 * 4 + 8 * 4)
    assert count_floor(lambda: a @ b, 1.0, 1e9) == {"matrix product": flops}
    assert count_floor(lambda: a @ b, 1e9, 1.0) == {"matrix product": moved}


def test_products_in_fp8_have_twice_the_flops_a_second() -> None:
    one = torch.ones(())
    left, right = (torch.ones(32, 16).to(torch.float8_e4m3fn) for _ in range(2))

    def multiply() -> None:
        torch._scaled_mm(left, right.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    assert count_floor(multiply, 1.0, 1e9) == {"matrix product": 2 * 32 * 32 * 16 / 2}


def test_views_and_reservations_cost_nothing() -> None:
    a = torch.ones(8, 16)
    with OperationFloor(1.0, 1.0) as floor:
        a.view(16, 8).t()
        torch.empty(5)
    assert not floor.seconds and not floor.operations


def test_backward_is_counted() -> None:
    a = torch.ones(8, 16, requires_grad=True)
    b = torch.ones(16, 4, requires_grad=True)
    forward = count_floor(lambda: a @ b, 1.0, 1e18)["matrix product"]
    both = count_floor(lambda: (a @ b).sum().backward(), 1.0, 1e18)["matrix product"]
    assert both == 3 * forward


def test_what_is_written_in_place_counts_twice_though_it_is_not_returned() -> None:
    places, values = [torch.zeros(100)], [torch.ones(100)]
    moved = count_floor(lambda: torch._foreach_copy_(places, values), 1.0, 1.0)
    assert moved == {"gradients and update": 4 * 100 * 3}
