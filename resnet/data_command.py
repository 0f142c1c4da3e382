"""The command line of `python -m resnet.data`."""

from __future__ import annotations

import argparse
import os
from argparse import BooleanOptionalAction
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.commands import InputError, Parser
from resnet.input_options import InputOptions

DESCRIPTION = "Measure ResNet's input alone, or write what the evaluation preprocessing makes."
FORMATS = ("fp32", "bf16", "fp16")
MOST = 10_000_000  # of anything that is counted here, each far above what a machine can hold


@dataclass(frozen=True)
class Settings:
    """What is measured: a rank's input, its batch, and the format of the tensors it fills."""

    options: InputOptions
    batch_size: int
    format: str


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


# Where --config does not say it. No validation images are kept: every pass is as the first is.
DEFAULTS: dict[str, Any] = {
    "crop_size": 224,
    "resize_shorter": 256,
    "threads": count_cores(),
    "prefetch_batches": 3,
    "shuffle_buffer_images": 1024,
    "channels": 4,
    "decoded_cache_megabytes": 0,
    "memory_map": True,
    "batch_size": 100,
    "format": "fp32",
}


def choose_settings(options: argparse.Namespace) -> Settings:
    """Take the settings from the configuration, or from the command line where there is none.

    Raises InputError for both, for sizes that do not fit, and for what the configuration lacks.
    """
    given = [name for name in DEFAULTS if getattr(options, name) is not None]
    if options.config is None:
        chosen = {name: _choose(options, name) for name in DEFAULTS}
        sizes = choose_sizes(options)
        chosen["crop_size"], chosen["resize_shorter"] = sizes
        batch, format_ = chosen.pop("batch_size"), chosen.pop("format")
        memory_mapped = chosen.pop("memory_map")
        shape = InputOptions(**chosen, validation_cache_megabytes=0, memory_mapped=memory_mapped)
        return Settings(shape, batch, format_)
    if given:
        words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"--config says all of the input, so leave out {words}")
    from harness.config import load_config
    from resnet.config import Config

    config = load_config(options.config, Config)
    shape = replace(config.input, validation_cache_megabytes=0)
    return Settings(shape, config.batch.local_batch_size, config.precision.format)


def choose_sizes(options: argparse.Namespace) -> tuple[int, int]:
    """Crop size and shorter side, in pixels. Raises InputError where the crop does not fit."""
    crop_size, shorter = (_choose(options, name) for name in ("crop_size", "resize_shorter"))
    if shorter < crop_size:
        raise InputError("--resize-shorter is less than --crop-size: give a larger one")
    return crop_size, shorter


def _choose(options: argparse.Namespace, name: str) -> Any:
    given = getattr(options, name)
    return DEFAULTS[name] if given is None else given


def _positive(text: str) -> int:
    return _read_whole(text, 1)


def _whole(text: str) -> int:
    return _read_whole(text, 0)


def _read_whole(text: str, least: int) -> int:
    value = int(text)
    if not least <= value <= MOST:
        raise argparse.ArgumentTypeError(f"{text} is not between {least} and {MOST:,}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a duration above 0")
    return value


_positive.__name__, _whole.__name__, _seconds.__name__ = "count", "size", "duration"


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(prog="python -m resnet.data", description=DESCRIPTION)
    commands = parser.add_subparsers(dest="command", required=True)
    rate = commands.add_parser("throughput", help="images per second of the input alone")
    rate.add_argument("--data", type=Path, required=True, help="folder that pack made")
    rate.add_argument("--split", choices=("train", "val"), default="train")
    rate.add_argument("--seconds", type=_seconds, default=10.0)
    rate.add_argument("--ranks", type=_positive, default=1, help="that share the images")
    rate.add_argument("--rank", type=_whole, default=0, help="whose share is read, from 0")
    rate.add_argument("--gpu", type=int, help="number of the GPU to decode on (default: the CPU)")
    rate.add_argument("--json", action="store_true")
    rate.add_argument(
        "--config", type=Path, help="a ResNet configuration, in place of all options below"
    )
    _add(rate, "batch-size", _positive)
    _add(rate, "threads", _positive)
    _add(rate, "prefetch-batches", _positive)
    _add(rate, "shuffle-buffer-images", _positive)
    rate.add_argument("--channels", type=int, choices=(3, 4), help="default: 4")
    rate.add_argument("--format", choices=FORMATS, help="of the step's images (default: fp32)")
    _add(rate, "decoded-cache-megabytes", _whole)
    rate.add_argument("--memory-map", action=BooleanOptionalAction, help="default: on")
    images = commands.add_parser("evaluate-images", help="evaluation preprocessing of JPEG files")
    images.add_argument("folder", type=Path)
    images.add_argument("--npz", type=Path, required=True, help="file to write")
    for command in (rate, images):
        _add(command, "crop-size", _positive)
        _add(command, "resize-shorter", _positive)
    return parser


def _add(command: argparse.ArgumentParser, name: str, kind: Any) -> None:
    default = DEFAULTS[name.replace("-", "_")]
    command.add_argument(f"--{name}", type=kind, help=f"default: {default}")
