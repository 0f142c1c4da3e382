"""Flat buffers: where every tensor lies, what the model sees of it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bert.config import Config as BertConfig
from bert.model import BertForPretraining
from bert.model import Operations as BertOperations
from harness.config import load_config
from harness.ops.table import resolve_operations
from harness.parameters import CHUNK, FlatParameters, Pool, flatten_dense, shape_like
from resnet.config import Config as ResnetConfig
from resnet.model import Operations as ResnetOperations
from resnet.model import ResNet

ROOT = Path(__file__).resolve().parents[2]


class Net(nn.Module):
    """Convolution, normalisation, linear: of sizes that fill no chunk."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.convolution = nn.Conv2d(3, 5, 3, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.first = nn.Linear(5, 70)
        self.second = nn.Linear(70, 9)


def flatten(
    net: Net, dtype: torch.dtype = torch.bfloat16, megabytes: float = 1.0, shards: int = 1
) -> FlatParameters:
    norm = [net.norm.weight, net.norm.bias]
    runs = [
        [net.convolution.weight], [net.norm.weight], [net.norm.bias],
        [net.first.weight, net.second.weight], [net.first.bias], [net.second.bias],
    ]  # fmt: skip
    adapted = [net.convolution.weight, net.first.weight, net.second.weight]
    return FlatParameters(net, runs, norm, adapted, dtype, megabytes, 0, shards)


@pytest.mark.parametrize("shape", [(5, 3, 3, 3), (5, 7, 1, 1), (6, 4), (9,), (1,)])
def test_flattening_and_shaping_are_reverse(shape: tuple[int, ...]) -> None:
    tensor = torch.randn(shape)
    flat = flatten_dense(tensor)
    assert flat.shape == (tensor.numel(),)
    assert torch.equal(shape_like(flat, tensor), tensor)
    last = tensor.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else tensor
    assert flatten_dense(last).data_ptr() == last.data_ptr()  # a view, as for gradients


def test_the_model_computes_with_the_rounded_masters() -> None:
    net, before = Net(), {name: p.detach().clone() for name, p in Net().named_parameters()}
    parameters = flatten(net)
    matrices, norms = parameters.pools
    assert (matrices.dtype, norms.dtype) == (torch.bfloat16, torch.float32)
    assert matrices.master.dtype == torch.float32 and norms.master is norms.weights
    for name, parameter in net.named_parameters():
        kept = name.startswith("norm")
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16)
        assert torch.equal(parameter, before[name].to(parameter.dtype))
    for pool in parameters.pools:
        names = {id(p): name for name, p in net.named_parameters()}
        for placed in pool.placed:
            master = pool.master[placed.start : placed.stop]
            assert torch.equal(master, flatten_dense(before[names[id(placed.parameter)]]))


def test_parameters_are_views_that_an_update_moves() -> None:
    net = Net()
    parameters = flatten(net)
    assert net.convolution.weight.is_contiguous(memory_format=torch.channels_last)
    for pool in parameters.pools:
        pool.weights.fill_(0.25)
    assert all((parameter == 0.25).all() for parameter in net.parameters())


def test_in_fp32_there_is_one_pool_and_no_second_copy() -> None:
    parameters = flatten(Net(), torch.float32)
    (pool,) = parameters.pools
    assert pool.master is pool.weights is pool.owned_weights
    assert pool.owned_gradients is pool.gradients
    assert len(parameters.weights()) == 1


def check_chunks(pool: Pool) -> None:
    """Every chunk belongs to one tensor, and what fills it is zero."""
    numbers = torch.full((pool.length,), pool.tensors)
    for number, placed in enumerate(pool.placed):
        assert placed.start % CHUNK == 0
        numbers[placed.start : placed.stop] = number
        assert not pool.master[placed.stop : -(-placed.stop // CHUNK) * CHUNK].any()
    for chunk, tensor in zip(numbers.view(-1, CHUNK), pool.chunk_tensors.tolist(), strict=True):
        assert set(chunk.tolist()) <= {tensor, pool.tensors}
    flags = pool.adapted.tolist()
    assert flags == [float(placed.adapt) for placed in pool.placed] + [0.0]
    assert pool.any_adapted == (1.0 in flags)


@pytest.mark.parametrize("megabytes", [1.0, 0.0005])
def test_chunks_and_buckets(megabytes: float) -> None:
    """Buckets end with the run that fills them, the last layers' gradients first.

    Or before a run that would fill one by itself, or before the last, which is small.
    """
    net = Net()
    for pool in flatten(net, megabytes=megabytes).pools:
        check_chunks(pool)
        assert pool.buckets[0].start == 0 and pool.buckets[-1].stop == pool.length
        for one, following in zip(pool.buckets, pool.buckets[1:], strict=False):
            assert one.stop == following.start
            sizes = [(b.stop - b.start) * pool.dtype.itemsize for b in (one, following)]
            assert max(sizes) >= megabytes * 2**20
        assert sum(len(bucket.tensors) for bucket in pool.buckets) == pool.tensors
    order = [id(p.parameter) for p in pool.placed]
    assert order == [id(net.norm.bias), id(net.norm.weight)]


def test_a_run_lies_in_one_piece_in_its_own_order() -> None:
    net = Net()
    net.first = nn.Linear(8, 64)  # 512 elements, two chunks
    matrices, _ = flatten(net).pools
    places = {id(placed.parameter): placed for placed in matrices.placed}
    first, second = places[id(net.first.weight)], places[id(net.second.weight)]
    assert second.start == first.stop
    both = matrices.weights[first.start : second.stop]
    assert torch.equal(both[:512].view(64, 8), net.first.weight)


@pytest.mark.parametrize("shards", [2, 3])
def test_every_rank_owns_its_share_of_each_bucket(shards: int) -> None:
    """The shares of all ranks, put together bucket by bucket, are the whole pool."""
    pools = [
        Pool([[p] for p in Net().parameters()], set(), torch.bfloat16, 0.0005, rank, shards)
        for rank in range(shards)
    ]
    whole = Pool([[p] for p in Net().parameters()], set(), torch.float32, 1.0, 0, 1)
    for pool in pools:
        assert pool.master.numel() * shards == pool.length == pool.owned_weights.numel() * shards
        assert pool.chunk_tensors.numel() * CHUNK == pool.master.numel()
    for bucket in pools[0].buckets:
        parts = [pool.master[pool.owned_place(bucket)] for pool in pools]
        for placed in bucket.tensors:
            found = torch.cat(parts)[placed.start - bucket.start : placed.stop - bucket.start]
            number = [p.start for p in pools[0].placed].index(placed.start)
            wanted = whole.placed[number]
            assert torch.equal(found, whole.master[wanted.start : wanted.stop])


@pytest.mark.parametrize("fault", ["missing", "twice"])
def test_every_parameter_is_named_once(fault: str) -> None:
    net = Net()
    runs = [[parameter] for parameter in net.parameters()]
    runs = runs[1:] if fault == "missing" else [*runs, runs[0]]
    with pytest.raises(ValueError, match="every parameter of the model once"):
        FlatParameters(net, runs, [], [], torch.bfloat16, 1.0)


@pytest.mark.parametrize("shards", [1, 3])
def test_the_chunks_of_a_tensor_lie_together(shards: int) -> None:
    """Its range among the owned chunks holds all of them and no other."""
    for rank in range(shards):
        runs = [[parameter] for parameter in Net().parameters()]
        pool = Pool(runs, set(), torch.bfloat16, 0.0005, rank, shards)
        owned = pool.chunk_tensors.tolist()
        ranges = pool.tensor_chunks.tolist()
        assert len(ranges) == pool.tensors + 1 and ranges[-1] == [0, 0]
        for number, (first, last) in enumerate(ranges[:-1]):
            assert owned[first:last] == [number] * owned.count(number)


def lay_out(benchmark: str, shards: int = 1) -> FlatParameters:
    """The full model's parameters in 16 bit, as on 4 x 8 GPUs; shapes without memory."""
    file = ROOT / benchmark / "configs" / "h200_4x8.toml"
    config: Any = load_config(file, BertConfig if benchmark == "bert" else ResnetConfig)
    kind = BertOperations if benchmark == "bert" else ResnetOperations
    operations: Any = resolve_operations(kind, dict.fromkeys(config.operations, "torch"))
    with torch.device("meta"):
        if benchmark == "bert":
            model: Any = BertForPretraining(config.model, operations)
            runs = model.parameter_runs()
        else:
            model = ResNet(config.model, operations)
            runs = [[parameter] for parameter in model.parameters()]
    megabytes = config.communication.bucket_megabytes
    return FlatParameters(
        model,
        runs,
        model.normalisation_parameters(),
        model.adapted_parameters(),
        torch.bfloat16,
        megabytes,
        0,
        shards,
    )


@pytest.mark.parametrize(
    ("benchmark", "matrices", "normalisations", "buckets"),
    [("bert", 336_123_708, 102_400, (12, 1)), ("resnet", 25_507_048, 53_120, (6, 1))],
)
def test_what_a_step_sends(
    benchmark: str, matrices: int, normalisations: int, buckets: tuple[int, int]
) -> None:
    """Two bytes an element of a matrix, 4 of a normalisation; fewer than 0.2 % fill chunks up."""
    pools = lay_out(benchmark).pools
    sent = []
    for pool, count in zip(pools, (matrices, normalisations), strict=True):
        assert sum(placed.parameter.numel() for placed in pool.placed) == count
        sizes = [bucket.stop - bucket.start for bucket in pool.buckets]
        assert sum(sizes) == pool.gradients.numel()
        sent.append(sum(sizes) * pool.gradients.element_size())
    assert [len(pool.buckets) for pool in pools] == list(buckets)
    assert 2 * matrices <= sent[0] <= 1.002 * 2 * matrices
    assert 4 * normalisations <= sent[1] <= 1.1 * 4 * normalisations


def test_little_is_sent_when_the_backward_pass_has_ended() -> None:
    """An eighth of a bucket at most, or one run: what is sent before has a pass to hide behind."""
    *_, before, last = lay_out("resnet").pools[0].buckets
    limit = 10 * 2**20 // 2
    assert 0 < (last.stop - last.start) * 8 <= 1.01 * limit < (before.stop - before.start) * 8
    tables = lay_out("bert").pools[0].buckets[-1].tensors
    assert [placed.parameter.shape[0] for placed in tables] == [30_522, 512, 2]


def test_a_rank_of_32_updates_a_thirty_second_of_berts_matrices() -> None:
    matrices, normalisations = lay_out("bert", shards=32).pools
    assert matrices.master.numel() * 32 == matrices.length
    assert matrices.length < 1.0002 * lay_out("bert").pools[0].length
    assert normalisations.master.numel() == normalisations.length
