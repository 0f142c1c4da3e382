"""The calls of apex's extension: a stand-in with its C++ signatures computes by the definition.

It shows layouts, order and number of arguments, and that gradients come back where they belong;
what apex's kernels compute is shown on a GPU alone.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.commands import InputError
from harness.ops.table import resolve

PAIR = "batch_norm_batch_norm_add_relu"
POOL = "batch_norm_relu_max_pool"
OPERATIONS = ["batch_norm", "batch_norm_relu", "batch_norm_add_relu", PAIR, POOL]


class Extension(types.ModuleType):
    """Signatures of apex/contrib/csrc/groupbn/interface.cpp at 6424da3b."""

    def bn_fwd_nhwc(
        self, x, s, b, rm, rv, mini_m, mini_riv, ret_cta, mom, eps, relu, my, p1, p2, p3, group,
        magic, occupancy, grid, coop,
    ):  # fmt: skip
        self.check(x, ret_cta, my, p1, p2, p3, group, magic, occupancy, grid, coop, 36)
        return self.compute(x, None, s, b, rm, rv, True, mom, eps, relu)

    def bn_fwd_eval_nhwc(self, x, s, b, rm, rv, ret_cta, group, mom, eps, relu):
        assert group == 1 and ret_cta.numel() == 8192
        return self.compute(x, None, s, b, rm, rv, False, mom, eps, relu)

    def bn_bwd_nhwc(
        self, x, dy, s, b, rm, rv, mini_m, mini_riv, ret_cta, mom, eps, relu, my, p1, p2, p3,
        group, magic, occupancy, grid, coop,
    ):  # fmt: skip
        self.check(x, ret_cta, my, p1, p2, p3, group, magic, occupancy, grid, coop, 18)
        return self.differentiate(x, None, dy, s, b, rm, rv, mom, eps, relu)

    def bn_addrelu_fwd_nhwc(
        self, x, z, s, b, rm, rv, mini_m, mini_riv, mask, ret_cta, mom, eps, my, p1, p2, p3, group,
        magic, occupancy, grid, coop,
    ):  # fmt: skip
        self.check(x, ret_cta, my, p1, p2, p3, group, magic, occupancy, grid, coop, 36)
        assert mask.dtype == torch.int32 and mask.numel() == 128 * 2 * 2  # 105 rows, 72 channels
        self.residual = z
        return self.compute(x, z, s, b, rm, rv, True, mom, eps, True)

    def bn_addrelu_fwd_eval_nhwc(self, x, z, s, b, rm, rv, ret_cta, group, mom, eps):
        assert group == 1 and ret_cta.numel() == 8192
        return self.compute(x, z, s, b, rm, rv, False, mom, eps, True)

    def bn_addrelu_bwd_nhwc(
        self, x, dy, s, b, rm, rv, mini_m, mini_riv, mask, ret_cta, mom, eps, my, p1, p2, p3, group,
        magic, occupancy, grid, coop,
    ):  # fmt: skip
        self.check(x, ret_cta, my, p1, p2, p3, group, magic, occupancy, grid, coop, 18)
        assert mask.dtype == torch.int32
        return self.differentiate(x, self.residual, dy, s, b, rm, rv, mom, eps, True)

    def bn_fwd_nhwc_occupancy(self):
        return 3

    def bn_bwd_nhwc_occupancy(self):
        return 1

    bn_addrelu_fwd_nhwc_occupancy = bn_fwd_nhwc_occupancy
    bn_addrelu_bwd_nhwc_occupancy = bn_bwd_nhwc_occupancy

    def check(self, x, ret_cta, *rest: Any) -> None:
        assert x.is_contiguous() and ret_cta.dtype == torch.uint8 and not ret_cta.any()
        *peers, group, magic, occupancy, grid, coop, programs = rest
        assert peers == [None] * 4 and group == 1 and magic.dtype == torch.int32 and not coop
        # 24 multiprocessors: two programs each at most, less 12, or one each
        assert (occupancy, grid) == ((2, 36) if programs == 36 else (1, 12))

    def compute(self, x, z, s, b, rm, rv, training, mom, eps, relu) -> Tensor:
        y = F.batch_norm(x.permute(0, 3, 1, 2), rm, rv, s, b, training, mom, eps)
        y = y if z is None else y + z.permute(0, 3, 1, 2)
        return (y.relu() if relu else y).permute(0, 2, 3, 1).contiguous()

    def differentiate(self, x, z, dy, s, b, rm, rv, mom, eps, relu) -> list[Tensor]:
        assert dy.is_contiguous()
        leaves = [t.detach().requires_grad_() for t in (x, z, s, b) if t is not None]
        with torch.enable_grad():
            residual = None if z is None else leaves[1]
            vectors = (*leaves[-2:], rm.clone(), rv.clone())
            y = self.compute(leaves[0], residual, *vectors, True, mom, eps, relu)
            return list(torch.autograd.grad(y, leaves, dy))


@pytest.fixture(autouse=True)
def extension(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "bnp", Extension("bnp"))
    monkeypatch.delitem(sys.modules, "harness.ops.batch_norm_apex", raising=False)
    properties = types.SimpleNamespace(multi_processor_count=24)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    yield
    sys.modules.pop("harness.ops.batch_norm_apex", None)


def make_inputs(operation: str) -> list[Tensor]:
    torch.manual_seed(1)
    count = 2 if "add" in operation else 1
    images = [torch.randn(3, 72, 5, 7).half() for _ in range(count)]
    images = [x.contiguous(memory_format=torch.channels_last) for x in images]
    vectors = []
    for _ in range(2 if operation == PAIR else 1):
        trained = [torch.rand(72) + 0.5, torch.randn(72)]
        vectors += [*[one.requires_grad_() for one in trained], torch.randn(72)]
        vectors.append(torch.rand(72) + 0.5)
    return [*[image.requires_grad_() for image in images], *vectors]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_extension_is_called_as_it_is_declared(operation: str, training: bool) -> None:
    found = []
    for provider in ("torch", "apex"):
        inputs = make_inputs(operation)
        leaves = [tensor for tensor in inputs if tensor.requires_grad]
        with torch.set_grad_enabled(training):
            y = resolve(operation, provider)(*inputs, training, 0.1, 1e-5)
        y = y[0] if isinstance(y, tuple) else y
        torch.manual_seed(2)
        direction = torch.randn(y.shape).half().contiguous(memory_format=torch.channels_last)
        gradients = torch.autograd.grad(y, leaves, direction) if training else []
        assert y.is_contiguous(memory_format=torch.channels_last)
        statistics = [one for one in inputs if not one.requires_grad]
        found.append([y, *gradients, *statistics])
    for theirs, ours in zip(*found, strict=True):
        assert (theirs.double() - ours.double()).norm() <= 2e-2 * theirs.double().norm()


def test_other_types_and_layouts_are_refused() -> None:
    x, *vectors = make_inputs("batch_norm")
    operation = resolve("batch_norm", "apex")
    with pytest.raises(InputError, match="fp16 alone"):
        operation(x.float(), *vectors, True, 0.1, 1e-5)
    with pytest.raises(InputError, match="channels_last"):
        operation(x.contiguous(), *vectors, True, 0.1, 1e-5)
    with pytest.raises(InputError, match="by fours"):
        odd = torch.zeros(2, 90, 3, 3).half().contiguous(memory_format=torch.channels_last)
        operation(odd, *vectors, True, 0.1, 1e-5)


def test_a_machine_without_apex_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("bnp", "apex"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match="needs the library bnp, which is not installed"):
        resolve("batch_norm_relu", "apex")
    with pytest.raises(InputError, match="needs the library apex"):
        resolve("label_smoothed_cross_entropy", "apex")
