"""The command line of `python -m resnet.data`."""

from __future__ import annotations

import argparse
import os
from argparse import BooleanOptionalAction
from pathlib import Path

from harness.commands import Parser

DESCRIPTION = "Measure ResNet's input alone, or write what the evaluation preprocessing makes."


def count_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
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
    rate.add_argument("--batch-size", type=_positive, default=100)
    rate.add_argument("--threads", type=_positive, default=count_cores())
    rate.add_argument("--prefetch-batches", type=_positive, default=3)
    rate.add_argument("--shuffle-buffer-images", type=_positive, default=1024)
    rate.add_argument("--channels", type=int, choices=(3, 4), default=4)
    rate.add_argument("--decoded-cache-megabytes", type=_whole, default=0, help="GPU memory, MiB")
    rate.add_argument("--memory-map", action=BooleanOptionalAction, default=True)
    rate.add_argument("--gpu", type=int, help="number of the GPU to decode on (default: the CPU)")
    rate.add_argument("--json", action="store_true")
    images = commands.add_parser("evaluate-images", help="evaluation preprocessing of JPEG files")
    images.add_argument("folder", type=Path)
    images.add_argument("--npz", type=Path, required=True, help="file to write")
    for command in (rate, images):
        command.add_argument("--crop-size", type=_positive, default=224)
        command.add_argument("--resize-shorter", type=_positive, default=256)
    return parser
