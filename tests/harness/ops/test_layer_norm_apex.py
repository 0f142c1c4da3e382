"""The calls of apex's normalisation: a stand-in with its C++ signatures computes as it does.

It shows layouts, types, order and number of arguments, and that gradients come back where they
belong; what apex's kernels compute is shown on a GPU alone.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.commands import InputError
from harness.ops.table import resolve
from tests.harness.ops.gradients import compare, measure_error

EPS = 1e-12
# Where torch rounds once, apex rounds the gain and the normalised value too.
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


class Extension(types.ModuleType):
    """Signatures of apex/contrib/csrc/layer_norm/ln_api.cpp at 6424da3b."""

    def ln_fwd(self, x, gamma, beta, epsilon) -> list[Tensor]:
        assert x.dim() == 2 and x.is_contiguous() and isinstance(epsilon, float)
        assert gamma.dtype == beta.dtype == x.dtype and gamma.shape == beta.shape == x.shape[1:]
        wide = x.float()
        mean = wide.mean(1)
        scale = (wide.var(1, correction=0) + epsilon).rsqrt()
        normal = ((wide - mean[:, None]) * scale[:, None]).to(x.dtype)
        return [gamma * normal + beta, mean, scale]

    def ln_bwd(self, dz, x_or_z, mu_, rsigma, gamma, beta_, memory_efficient) -> list[Tensor]:
        assert beta_ is None and not memory_efficient
        assert dz.shape == x_or_z.shape and dz.is_contiguous() and dz.dtype == gamma.dtype
        assert mu_.dtype == rsigma.dtype == torch.float32
        normal = (x_or_z.float() - mu_[:, None]) * rsigma[:, None]
        slope = dz.float() * gamma.float()
        along = (slope * normal).mean(1, keepdim=True)
        dx = (slope - slope.mean(1, keepdim=True) - normal * along) * rsigma[:, None]
        dgamma, dbeta = (dz.float() * normal).sum(0), dz.float().sum(0)
        sums = [dgamma.to(gamma.dtype), dbeta.to(gamma.dtype)]
        return [dx.to(x_or_z.dtype), *sums, dgamma[None], dbeta[None]]


@pytest.fixture(autouse=True)
def extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "fast_layer_norm", Extension("fast_layer_norm"))
    monkeypatch.delitem(sys.modules, "harness.ops.layer_norm_apex", raising=False)
    yield
    sys.modules.pop("harness.ops.layer_norm_apex", None)


def make_inputs(dtype: torch.dtype) -> list[Tensor]:
    """x, its bias and residual in a type; gain and bias in fp32, as training holds them."""
    torch.manual_seed(3)
    x, residual = (2 * torch.randn(6, 1024) + 1 for _ in range(2))
    x_bias, gain, bias = torch.randn(1024), torch.rand(1024) + 0.5, torch.randn(1024)
    return [x.to(dtype), x_bias.to(dtype), residual.to(dtype), gain, bias]


def normalize_exactly(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return F.layer_norm(x, gain.shape, gain, bias, EPS)


@pytest.mark.parametrize("dtype", LIMITS)
def test_layer_norm_is_called_for_the_definition(dtype: torch.dtype) -> None:
    x, _, _, gain, bias = make_inputs(dtype)
    ours = partial(resolve("layer_norm", "apex"), eps=EPS)
    compare(ours, normalize_exactly, [x, gain, bias], LIMITS[dtype])


@pytest.mark.parametrize("dtype", LIMITS)
def test_what_stands_before_it_is_the_definition(dtype: torch.dtype) -> None:
    def define(
        x: Tensor, x_bias: Tensor, residual: Tensor, gain: Tensor, bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        y = normalize_exactly(x + x_bias + residual, gain, bias)
        return y, y

    operation = resolve("dropout_add_layer_norm", "apex")
    ours = partial(operation, dropout=0.1, eps=EPS, training=False)
    compare(ours, define, make_inputs(dtype), LIMITS[dtype])
    inputs = make_inputs(dtype)
    results = []
    for provider in ("apex", "torch"):
        torch.manual_seed(5)
        operation = resolve("dropout_add_layer_norm", provider)
        results.append(operation(*inputs, 0.3, EPS, True)[0])
    assert measure_error(results[0], results[1].double()) <= LIMITS[dtype]
    assert measure_error(results[0], define(*[each.double() for each in inputs])[0]) > 0.1


def test_other_sizes_types_and_layouts_are_refused() -> None:
    x, x_bias, residual, gain, bias = make_inputs(torch.bfloat16)
    operation = resolve("layer_norm", "apex")
    with pytest.raises(InputError, match="layer_norm by apex takes contiguous rows of 768, 1024"):
        operation(x[:, :1000].contiguous(), gain[:1000], bias[:1000], EPS)
    with pytest.raises(InputError, match="contiguous rows"):
        operation(x.t().contiguous().t(), gain, bias, EPS)
    with pytest.raises(InputError, match="computes fp32, fp16 and bf16"):
        operation(x.double(), gain, bias, EPS)
    with pytest.raises(InputError, match="dropout_add_layer_norm by apex"):
        resolve("dropout_add_layer_norm", "apex")(
            x[:0], x_bias, residual[:0], gain, bias, 0.1, EPS, True
        )


def test_a_machine_without_apex_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fast_layer_norm", None)
    sys.modules.pop("harness.ops.layer_norm_apex", None)
    for operation in ("layer_norm", "dropout_add_layer_norm"):
        with pytest.raises(InputError, match="needs the library fast_layer_norm, which is not"):
            resolve(operation, "apex")
