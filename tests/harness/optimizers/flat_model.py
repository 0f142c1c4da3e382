"""A bag of tensors as a model, so that the flat optimizers can be held against the plain ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from harness.parameters import FlatParameters, flatten_dense, shape_like

# Sizes above, at and below a chunk of 256 elements, a convolution, one element.
SHAPES = [(16, 3, 5, 5), (8, 16, 1, 1), (10, 80), (8, 8), (7, 5), (16,), (300,), (1,), (12, 64)]
ADAPTED = [0, 1, 2, 3, 4, 8]
ZERO_WEIGHT, ZERO_GRADIENT = 3, 4


class Bag(nn.Module):
    """Parameters of given values, in their order."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        super().__init__()
        self.values = nn.ParameterList([nn.Parameter(value.float().clone()) for value in values])


def draw(shapes: Sequence[tuple[int, ...]], seed: int) -> list[Tensor]:
    """Values of these shapes; tensor ZERO_WEIGHT is 0."""
    generator = torch.Generator().manual_seed(seed)
    values = [torch.randn(shape, generator=generator) for shape in shapes]
    values[ZERO_WEIGHT].zero_()
    return values


def draw_gradients(step: int, size: float = 0.1) -> list[Tensor]:
    """Gradients for SHAPES; tensor ZERO_GRADIENT's is 0."""
    generator = torch.Generator().manual_seed(1000 + step)
    gradients = [size * torch.randn(shape, generator=generator) for shape in SHAPES]
    gradients[ZERO_GRADIENT].zero_()
    return gradients


def flatten_bag(
    bag: Bag,
    adapted: Sequence[int],
    dtype: torch.dtype = torch.float32,
    bucket_megabytes: float = 0.002,
    rank: int = 0,
    shards: int = 1,
) -> FlatParameters:
    """Several buckets; tensors of one dimension stay fp32."""
    values = list(bag.values)
    kept = [value for value in values if value.dim() == 1]
    chosen = [values[number] for number in adapted]
    runs = [[value] for value in values]
    return FlatParameters(bag, runs, kept, chosen, dtype, bucket_megabytes, rank, shards)


def put_gradients(parameters: FlatParameters, bag: Bag, gradients: Sequence[Tensor]) -> None:
    """Write gradients, in the order of the bag, where a backward pass would leave them."""
    given = {id(value): gradient for value, gradient in zip(bag.values, gradients, strict=True)}
    for pool in parameters.pools:
        for placed in pool.placed:
            flat = flatten_dense(given[id(placed.parameter)])
            pool.gradients[placed.start : placed.stop] = flat
        for bucket in pool.buckets:
            pool.owned_gradients[pool.owned_place(bucket)] = pool.gradients[pool.share(bucket)]


def read_masters(parameters: FlatParameters, bag: Bag) -> list[Tensor]:
    """The fp32 values of every tensor, in the order of the bag; unsharded pools alone."""
    found = {}
    for pool in parameters.pools:
        for placed in pool.placed:
            flat = pool.master[placed.start : placed.stop]
            found[id(placed.parameter)] = shape_like(flat, placed.parameter)
    return [found[id(value)] for value in bag.values]


def measure_error(ours: Tensor, theirs: Tensor | np.ndarray) -> float:
    """The difference's norm, in parts of the expected tensor's."""
    expected = torch.as_tensor(theirs).double()
    size = float(expected.norm())
    return float((ours.detach().double() - expected).norm()) / (size if size > 0 else 1.0)
