"""Makes and verifies the ResNet data set: `python -m resnet.prepare_data pack` and `verify`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from harness.commands import GOOD, NOT_GOOD, InputError, Parser, run_command
from harness.files import check_writable
from resnet.devkit import Truth, read_devkit, read_labels
from resnet.prepare_data_archives import TrainArchive, ValArchive, open_archive
from resnet.prepare_data_folders import ClassFolders, FlatFolder, is_flat
from resnet.prepare_data_images import ImageSet
from resnet.prepare_data_pack import pack
from resnet.prepare_data_verify import verify
from resnet.shards import Manifest, parse_manifest

DEFAULT_SHARDS = 16
DEFAULT_SEED = 20240221
# About what one disk and the interpreter can keep busy; decoding alone could use more.
MOST_DEFAULT_WORKERS = 32


def pack_images(
    train: Path, val: Path, truth: Truth | None, output: Path, shards: int, seed: int
) -> Manifest:
    """Pack ImageNet into `output`, from its archives or from folders.

    train: ILSVRC2012_img_train.tar or a folder of class folders; val: ILSVRC2012_img_val.tar, a
    folder of its images, or a folder of class folders; truth: the validation images' classes,
    needed unless class folders hold them. Labels are the ranks of the classes' names in ascending
    order; image bytes stay as they are, and the shards are the same whatever the images came from.
    Raises InputError for unusable input, OSError where the system refuses.
    """
    for place in (train, val):
        if os.path.realpath(output) == os.path.realpath(place):
            raise InputError(f"--output {output} holds the images: name another folder")
    _check_output(output)
    with ExitStack() as stack:
        val_set = _open_val(val, truth, stack)
        return pack(_open_train(train, stack), val_set, output, shards, seed)


def _check_output(output: Path) -> None:
    """Raise InputError where `output` cannot be made: listing ImageNet first takes minutes."""
    place = output
    while not place.exists():
        place = place.parent
    check_writable(place, f"--output {output}")


def pack_folders(train: Path, val: Path, output: Path, shards: int, seed: int) -> Manifest:
    """Pack class folders (train/<class>/*.JPEG, val/<class>/*.JPEG) as `pack_images` does."""
    return pack_images(train, val, None, output, shards, seed)


def _open_train(path: Path, stack: ExitStack) -> ImageSet:
    if path.is_dir():
        return ClassFolders(path)
    return TrainArchive(stack.enter_context(open_archive(path)))


def _open_val(path: Path, truth: Truth | None, stack: ExitStack) -> ImageSet:
    if path.is_dir() and not is_flat(path):
        return ClassFolders(path, truth)
    if truth is None and path.exists():
        raise InputError(
            f"{path} does not say which class an image is of: add --devkit with "
            f"ILSVRC2012_devkit_t12.tar.gz"
        )
    if truth is not None and path.is_dir():
        return FlatFolder(path, truth)
    archive = stack.enter_context(open_archive(path))
    assert truth is not None  # open_archive has refused what is not there
    return ValArchive(archive, truth)


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
    packing = commands.add_parser("pack", help="pack ImageNet's archives or folders into shards")
    packing.add_argument(
        "--train",
        type=Path,
        required=True,
        help="ILSVRC2012_img_train.tar as downloaded, or a folder of class folders",
    )
    packing.add_argument(
        "--val",
        type=Path,
        required=True,
        help="ILSVRC2012_img_val.tar as downloaded, a folder of its images, or of class folders",
    )
    truth = packing.add_mutually_exclusive_group()
    truth.add_argument(
        "--devkit",
        type=Path,
        help="ILSVRC2012_devkit_t12.tar.gz, or extracted: the classes of the validation images",
    )
    truth.add_argument(
        "--val-labels",
        type=Path,
        help="instead: a text with the WordNet id of each validation image, one a line",
    )
    packing.add_argument("--output", type=Path, required=True, help="folder for the shards")
    packing.add_argument(
        "--shards", type=_count, default=DEFAULT_SHARDS, help="files of training images"
    )
    packing.add_argument("--seed", type=_seed, default=DEFAULT_SEED, help="of the one shuffle")
    verifying = commands.add_parser("verify", help="read every byte and report every fault")
    verifying.add_argument("output", type=Path, help="the folder that pack made")
    verifying.add_argument("--decode", action="store_true", help="decode every image as well")
    verifying.add_argument(
        "--imagenet",
        action="store_true",
        help="demand ILSVRC 2012's counts even where the classes are not its own",
    )
    verifying.add_argument(
        "--workers",
        type=_count,
        default=min(os.cpu_count() or 1, MOST_DEFAULT_WORKERS),
        help="shards read at a time, and images decoded at a time",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status."""
    options = build_parser().parse_args(arguments)
    if options.command == "pack":
        truth = None
        if options.devkit is not None:
            truth = read_devkit(options.devkit)
        elif options.val_labels is not None:
            truth = read_labels(options.val_labels)
        manifest = pack_images(
            options.train, options.val, truth, options.output, options.shards, options.seed
        )
        print(f"{options.output}: {_summarize(manifest)}")
        return GOOD
    manifest = parse_manifest(options.output)
    faults = 0
    for finding in verify(manifest, options.decode, options.imagenet, options.workers):
        print(finding.text if finding.is_fault else f"note: {finding.text}")
        faults += finding.is_fault
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
