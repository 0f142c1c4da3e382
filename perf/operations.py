"""Operations, bytes and FLOPs of a training step of the full models, counted without computing.

`python -m perf.operations [--benchmark resnet|bert]` runs the trainer's own step on tensors that
have a shape and a type but no memory, and counts what is dispatched: one operation is about one
kernel launch of a GPU without graphs; its bytes are the tensors it reads and writes; views and
allocations are free. Each launch of a Triton kernel of ours is an operation `harness::...`. It
finds lost fusion, casts, copies and padding; it says nothing of how fast a kernel is. The
dispatcher sees a CPU, so attention with dropout appears in its unfused form.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import bert.config
import bert.step
import resnet.config
import resnet.step
from bert.model import Batch
from bert.probe import make_synthetic_batch
from harness.batch import Graphs
from harness.commands import GOOD, Parser, run_command
from harness.config import load_config
from harness.operation_counts import count_moved_bytes
from harness.ops.table import PROVIDERS, TABLE
from perf.bert_padding import pad_batch
from perf.comparison import Comparison, check_positive

ROOT = Path(__file__).resolve().parent.parent
# An image shares the weights' bytes with its batch; BERT is counted sequence by sequence, slowly.
DEFAULT_SAMPLES = {"resnet": 102, "bert": 8}
CPU = torch.device("cpu")
# Operations whose inputs and outputs a perfect fusion of everything else would still move.
MATRIX = ("convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm", "_scaled_mm")


@dataclasses.dataclass
class Count:
    """What was dispatched: operations and bytes by name, and FLOPs (a multiply-add is two)."""

    operations: Counter[str]
    bytes: Counter[str]
    flops: int

    @property
    def matrix_bytes(self) -> int:
        """Bytes of convolutions and matrix products alone."""
        return sum(self.bytes[name] for name in MATRIX)


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        moved = count_moved_bytes(func, args, kwargs or {}, result)
        if moved is not None and func.namespace != "c10d":  # what is sent is counted elsewhere
            name = func._schema.name.removeprefix("aten::")
            self.operations[name] += 1
            self.bytes[name] += moved
        return result


def count(call: Callable[[], None], without_flops: Sequence[str] = ()) -> Count:
    """Count what one call dispatches; without_flops: operations whose FLOPs are left out."""
    with _Counting() as counting, FlopCounterMode(display=False) as flops:
        call()
    counted = flops.get_flop_counts().get("Global", {})
    left_out = sum(
        number for name, number in counted.items() if str(name).split(".")[-1] in without_flops
    )
    return Count(counting.operations, counting.bytes, flops.get_total_flops() - left_out)


def count_bytes(call: Callable[[], object]) -> int:
    """Bytes that one call dispatches, whatever it asks autograd.grad for.

    The counter of FLOPs follows modules by their arguments' gradients, and torch refuses that where
    such an argument is a leaf of autograd.grad.
    """
    with _Counting() as counting:
        call()
    return sum(counting.bytes.values())


@contextmanager
def without_memory() -> Iterator[FakeTensorMode]:
    """Make tensors of shape and type alone; nothing to draw into them and nowhere to move them."""
    with (
        FakeTensorMode(allow_non_fake_inputs=True) as mode,
        patch("torch.nn.init.trunc_normal_", lambda tensor, *_: tensor),
        patch("torch.nn.Module.to", lambda module, *_, **__: module),
    ):
        yield mode


def count_resnet(config: resnet.config.Config, images: int) -> tuple[Count, Count]:
    """Count forward and backward of `images` images, and the update after them."""
    batch = dataclasses.replace(config.batch, local_batch_size=images, batch_norm_span=images)
    graphs = Graphs(step=False, evaluation=False)
    config = dataclasses.replace(config, batch=batch, graphs=graphs)
    with without_memory():
        step = resnet.step.TrainingStep(config, CPU, 0, 1, [1.0])
        return count(step.backward), count(step.optimizer.update)


def count_bert(config: bert.config.Config, batch: Batch) -> tuple[Count, Count]:
    """Count forward and backward of a batch, and the update after it."""
    config = dataclasses.replace(config, graphs=Graphs(step=False, evaluation=False))
    with without_memory() as mode:
        step = bert.step.TrainingStep(config, CPU, 0, 1, None, [1.0])
        # cu_seqlens stays real: attention reads the lengths.
        shapes = {
            field.name: mode.from_tensor(getattr(batch, field.name))
            for field in dataclasses.fields(batch)
            if field.name not in ("cu_seqlens", "longest_sequence")
        }
        batch = dataclasses.replace(batch, **shapes)
        return count(lambda: step.backward(batch)), count(step.optimizer.update)


def name_providers(operations: dict[str, str], provider: str | None) -> dict[str, str]:
    """A configuration's table with one provider in place of each where it has the operation."""
    return {
        operation: named if provider is None or provider not in TABLE[operation] else provider
        for operation, named in operations.items()
    }


def show_most(name: str, counted: Count, unit: str, units: int, most: int = 8) -> None:
    """Print the operations that move most bytes."""
    print(f"{name}: {sum(counted.operations.values()):,} operations; those that move most bytes:")
    for operation, moved in counted.bytes.most_common(most):
        number = counted.operations[operation]
        print(f"  {operation:32} {number:6,} times {moved / units:16,.0f} bytes/{unit}")


def measure_resnet(file: Path, images: int, provider: str | None, as_json: bool) -> None:
    """Print ResNet's bytes an image beside those of its convolutions alone."""
    config = load_config(file, resnet.config.Config)
    table = name_providers(config.operations, provider)
    config = dataclasses.replace(config, operations=table)
    step, update = count_resnet(config, images)
    if not as_json:
        show_most("resnet forward and backward", step, "image", images)
        print(f"update: {sum(update.operations.values()):,} operations")
    flops = step.flops / images
    total, matrix = sum(step.bytes.values()) / images, step.matrix_bytes / images
    Comparison(
        what="resnet step, all operations",
        unit="bytes/image",
        ours=total,
        peer_name="its convolutions and products alone",
        peer=matrix,
        ratio=matrix / total,
        ratios=None,
        how=f"counted at dispatch, {config.precision.format}, {images} images a rank; "
        f"{flops / 1e9:.3f} GFLOP an image",
    ).show(as_json)


def measure_bert(file: Path, sequences: int, provider: str | None, as_json: bool) -> None:
    """Print BERT's FLOPs a sequence beside those of the padded step."""
    config = load_config(file, bert.config.Config)
    # The definition reads lengths, which a GPU's attention never does (perf.bert_operations).
    table = name_providers(config.operations, provider or "torch")
    config = dataclasses.replace(config, operations=table)
    batch = make_synthetic_batch(config, sequences, CPU)
    length = config.input.max_sequence_length
    step, update = count_bert(config, batch)
    padded, _ = count_bert(config, pad_batch(batch, length))
    tokens = batch.input_ids.numel()
    if not as_json:
        show_most("bert forward and backward", step, "token", tokens)
        print(f"update: {sum(update.operations.values()):,} operations")
    Comparison(
        what="bert step, un-padded",
        unit="FLOP/sequence",
        ours=step.flops / sequences,
        peer_name=f"the same step, padded to {length}",
        peer=padded.flops / sequences,
        ratio=padded.flops / step.flops,
        ratios=None,
        how=f"counted at dispatch, {config.precision.format}, {sequences} sequences of "
        f"{tokens / sequences:.0f} tokens on average; "
        f"{step.flops / tokens / 1e9:.3f} GFLOP and {sum(step.bytes.values()) / tokens / 1e6:.2f} "
        f"MB a token ({step.matrix_bytes / tokens / 1e6:.2f} MB of products)",
    ).show(as_json)


def main(arguments: Sequence[str]) -> int:
    """Count and print."""
    parser = Parser(prog="python -m perf.operations", description=__doc__)
    parser.add_argument("--benchmark", choices=("resnet", "bert"), default="resnet")
    parser.add_argument("--config", type=Path, help="default: the benchmark's h200_4x8.toml")
    parser.add_argument(
        "--samples", type=int, help="images or sequences of a step (default: 102 or 8)"
    )
    parser.add_argument(
        "--provider",
        choices=PROVIDERS,
        help="of every operation that it has (default: the config's; bert: torch)",
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    if options.samples is None:
        options.samples = DEFAULT_SAMPLES[options.benchmark]
    check_positive(options, "samples")
    file = options.config or ROOT / options.benchmark / "configs" / "h200_4x8.toml"
    measure = measure_resnet if options.benchmark == "resnet" else measure_bert
    measure(file, options.samples, options.provider, options.json)
    return GOOD


if __name__ == "__main__":
    run_command(main)
