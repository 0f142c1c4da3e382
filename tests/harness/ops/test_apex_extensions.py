"""Apex's compiled extensions, where they are installed, take our calls as they are declared.

No GPU is needed: arguments are matched with the C++ signatures first, then tensors that no GPU
holds are refused. A call that does not match would be a TypeError.
"""

from __future__ import annotations

import pytest
import torch

from harness.ops.table import resolve
from tests.harness.optimizers import test_flat_lamb as flat
from tests.harness.optimizers.flat_model import (
    ADAPTED,
    SHAPES,
    Bag,
    draw,
    draw_gradients,
    flatten_bag,
    put_gradients,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_amp_c_takes_an_update(dtype: torch.dtype) -> None:
    pytest.importorskip("amp_C", reason="apex is built in images for GPUs")
    bag = Bag(draw(SHAPES, 7))
    parameters = flatten_bag(bag, ADAPTED, dtype)
    optimizer = flat.make(parameters, flat.RATES, "apex")
    put_gradients(parameters, bag, draw_gradients(0))
    with pytest.raises(RuntimeError, match="expected input to be on cuda"):
        optimizer.update()


def test_fast_layer_norm_takes_rows_and_their_gradient() -> None:
    extension = pytest.importorskip("fast_layer_norm", reason="apex is built in images for GPUs")
    x, vector = torch.randn(4, 1024).bfloat16(), torch.ones(1024)
    with pytest.raises(RuntimeError, match="is_cuda"):
        resolve("layer_norm", "apex")(x, vector, vector, 1e-12)
    means = torch.ones(4)
    with pytest.raises(RuntimeError, match="is_cuda"):
        extension.ln_bwd(x, x, means, means, vector.bfloat16(), None, False)
