"""Makes and verifies the ResNet data set: `python -m resnet.prepare_data pack` and `verify`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.commands import GOOD, NOT_GOOD, InputError, Parser, run_command
from resnet.prepare_data_pack import FolderSource, pack
from resnet.prepare_data_verify import find_faults
from resnet.shards import Manifest, parse_manifest

DEFAULT_SHARDS = 16
DEFAULT_SEED = 20240221


def pack_folders(train: Path, val: Path, output: Path, shards: int, seed: int) -> Manifest:
    """Pack class folders (train/<class>/*.JPEG, val/<class>/*.JPEG) into `output`.

    Labels are the ranks of the folder names in ascending order; image bytes stay as they are.
    Raises InputError for unusable input, OSError where the system refuses.
    """
    for folder in (train, val):
        if output.resolve() == folder.resolve():
            raise InputError(f"--output {output} holds the images: name another folder")
    return pack(FolderSource(train, val), output, shards, seed)


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 99_999:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 to 99999")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


_count.__name__, _seed.__name__ = "count", "seed"


def build_parser() -> Parser:
    """Describe the command line."""
    parser = Parser(prog="python -m resnet.prepare_data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="pack class folders of JPEG files into shards")
    packing.add_argument("--train", type=Path, required=True, help="folder of class folders")
    packing.add_argument("--val", type=Path, required=True, help="folder of class folders")
    packing.add_argument("--output", type=Path, required=True, help="folder for the shards")
    packing.add_argument(
        "--shards", type=_count, default=DEFAULT_SHARDS, help="files of training images"
    )
    packing.add_argument("--seed", type=_seed, default=DEFAULT_SEED, help="of the one shuffle")
    verifying = commands.add_parser("verify", help="read every byte and report every fault")
    verifying.add_argument("output", type=Path, help="the folder that pack made")
    verifying.add_argument("--decode", action="store_true", help="decode every image as well")
    verifying.add_argument("--imagenet", action="store_true", help="demand ILSVRC 2012's counts")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status."""
    options = build_parser().parse_args(arguments)
    if options.command == "pack":
        manifest = pack_folders(
            options.train, options.val, options.output, options.shards, options.seed
        )
        print(f"{options.output}: {_summarize(manifest)}")
        return GOOD
    manifest = parse_manifest(options.output)
    faults = 0
    for line in find_faults(manifest, options.decode, options.imagenet):
        print(line)
        faults += 1
    print(f"{options.output}: {_summarize(manifest)}: {faults or 'no'} faults")
    return NOT_GOOD if faults else GOOD


def _summarize(manifest: Manifest) -> str:
    size = sum(shard.bytes for split in (manifest.train, manifest.val) for shard in split.shards)
    return (
        f"{manifest.train.images:,} training and {manifest.val.images:,} validation images, "
        f"{len(manifest.classes):,} classes, {size / 1e6:,.1f} MB"
    )


if __name__ == "__main__":
    run_command(main)
