"""ResNet's convolutions alone, one by one: what no design of the rest can be faster than.

`python -m perf.resnet_convolutions [--config FILE] [--images N] [--device cpu|cuda]` times result,
input's gradient and weight's gradient of every convolution of the network in the configuration's
format, channels last, with cuDNN's search as the trainer has it; on a GPU without launches, as in a
step that is one graph. Beside them stands the roofline: the larger of FLOPs and bytes at what the
device reaches, where that is known.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from harness.commands import GOOD, run_command
from harness.config import load_config
from harness.ops.table import resolve_operations
from harness.step_profile import find_reachable
from harness.throughput import choose_device, describe_device
from perf.comparison import check_positive
from perf.device_times import make_parser, time_device
from perf.operations import without_memory
from resnet.config import Config
from resnet.model import Operations, ResNet

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "resnet" / "configs" / "h200_1x1.toml"
PASSES = ("result", "input", "weight")


class Convolution(NamedTuple):
    """Channels in and out, side of the window, stride, and side of the input."""

    inputs: int
    outputs: int
    window: int
    stride: int
    side: int

    @property
    def out_side(self) -> int:
        return -(-self.side // self.stride)

    def count_flops(self, images: int) -> float:
        """Of one pass; all three have as many."""
        pixels = images * self.out_side**2
        return 2.0 * pixels * self.inputs * self.outputs * self.window**2

    def count_bytes(self, images: int, element_bytes: int) -> float:
        """Of one pass: each reads two of input, weight and output and writes the third."""
        image = self.inputs * self.side**2 + self.outputs * self.out_side**2
        return float(element_bytes * (images * image + self.inputs * self.outputs * self.window**2))


def list_convolutions(config: Config) -> Counter[Convolution]:
    """The network's convolutions, and how often it has each."""
    found: Counter[Convolution] = Counter()

    def note(module: torch.nn.Conv2d, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        side, stride = inputs[0].shape[2], module.stride[0]
        sizes = (module.in_channels, module.out_channels, module.kernel_size[0])
        found[Convolution(*sizes, int(stride), side)] += 1

    definitions = dict.fromkeys(config.operations, "torch")
    with without_memory():
        model = ResNet(config.model, resolve_operations(Operations, definitions))
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(note)
        side = config.input.crop_size
        model(torch.empty(2, config.model.input_channels, side, side))
    return found


def time_convolution(
    shape: Convolution, images: int, dtype: torch.dtype, turns: int, device: torch.device
) -> dict[str, float]:
    """Seconds of each of the three passes."""
    layout = torch.channels_last
    kind = {"dtype": dtype, "device": device}
    x = torch.randn(images, shape.inputs, shape.side, shape.side, **kind).to(memory_format=layout)
    weight = torch.randn(shape.outputs, shape.inputs, shape.window, shape.window, **kind)
    weight = weight.to(memory_format=layout)
    stride, padding = shape.stride, shape.window // 2
    grad = torch.randn_like(F.conv2d(x, weight, None, stride, padding))

    def go_back(*wanted: bool) -> object:
        sizes = ([stride] * 2, [padding] * 2, [1, 1], False, [0, 0], 1)
        return torch.ops.aten.convolution_backward(grad, x, weight, None, *sizes, wanted)

    calls = (
        lambda: F.conv2d(x, weight, None, stride, padding),
        lambda: go_back(True, False, False),
        lambda: go_back(False, True, False),
    )
    return {
        name: time_device(call, turns, device) for name, call in zip(PASSES, calls, strict=True)
    }


def measure(config: Config, images: int, turns: int, device: torch.device) -> dict[str, Any]:
    """Time all convolutions; microseconds an image of each pass, and of all together."""
    torch.backends.cudnn.benchmark = True  # as harness.process_group does for a run
    dtype, peaks = config.precision.dtype, find_reachable(describe_device(device))
    rows: list[dict[str, Any]] = []
    for shape, times in list_convolutions(config).items():
        seconds = time_convolution(shape, images, dtype, turns, device)
        flops, moved = shape.count_flops(images), shape.count_bytes(images, dtype.itemsize)
        # The first takes no gradient of its input: images are not learnt.
        passes = [one for one in PASSES if not (one == "input" and not rows)]
        floor = None if peaks is None else max(flops / peaks[0], moved / peaks[1])
        rows.append(
            {
                **shape._asdict(),
                "times": times,
                "flops": flops,
                "bytes": moved,
                "seconds": {one: seconds[one] for one in passes},
                "floor_seconds": floor,
            }
        )
    total = sum(row["times"] * sum(row["seconds"].values()) for row in rows)
    floors = [row["times"] * len(row["seconds"]) * (row["floor_seconds"] or 0.0) for row in rows]
    return {
        "device": describe_device(device),
        "format": config.precision.format,
        "images": images,
        "convolutions": rows,
        "microseconds_per_image": 1e6 * total / images,
        "floor_microseconds_per_image": None if peaks is None else 1e6 * sum(floors) / images,
    }


def show(found: dict[str, Any]) -> None:
    """Print a line for each kind of convolution, and their sum."""
    print("{device}, {format}, {images} images".format(**found))
    print(
        f"{'convolution':34} {'times':>5}"
        + "".join(f"{one:>10} us" for one in PASSES)
        + "  TFLOP/s"
    )
    for row in found["convolutions"]:
        name = "{inputs} to {outputs}, {window}x{window}/{stride}, {side}x{side}".format(**row)
        taken = row["seconds"]
        cells = [f"{1e6 * taken[one]:12,.0f}" if one in taken else f"{'-':>12}" for one in PASSES]
        rate = row["flops"] * len(taken) / sum(taken.values()) / 1e12
        print(f"{name:34} {row['times']:5}{' '.join(cells)} {rate:8.3g}")
    spent = found["microseconds_per_image"]
    print(f"convolutions alone: {spent:,.1f} us an image, {1e6 / spent:,.0f} images/s")
    if found["floor_microseconds_per_image"] is not None:
        floor = found["floor_microseconds_per_image"]
        print(f"their roofline: {floor:,.1f} us an image; reached: {floor / spent:.0%}")


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = make_parser("resnet_convolutions", __doc__, CONFIG, turns=20)
    parser.add_argument("--images", type=int, help="default: the configuration's local batch")
    options = parser.parse_args(arguments)
    config = load_config(options.config, Config)
    if options.images is None:
        options.images = config.batch.local_batch_size
    check_positive(options, "images", "turns")
    found = measure(config, options.images, options.turns, choose_device(options.device))
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        show(found)
    return GOOD


if __name__ == "__main__":
    run_command(main)
