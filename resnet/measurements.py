"""The input measured alone: its rate, and what the evaluation preprocessing makes of images."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.commands import InputError
from harness.files import write_atomically
from harness.progress import Progress
from resnet.pipeline_failures import describe_failure
from resnet.pipelines import (
    Place,
    Records,
    build_evaluation,
    build_file_evaluation,
    build_training,
)
from resnet.shards import Manifest

if TYPE_CHECKING:
    from resnet.data import InputOptions

IMAGE_SUFFIXES = (".jpeg", ".jpg")


def measure_throughput(
    manifest: Manifest,
    split: str,
    options: InputOptions,
    batch: int,
    gpu: int | None,
    seconds: float,
) -> dict[str, Any]:
    """Run one rank's pipeline alone for `seconds` after its first batch; return the rate.

    The whole split is the rank's part. Raises InputError where images cannot be read.
    """
    records = Records.of_split(manifest, split, 0, 1)
    seed = time.time_ns() % (1 << 31)
    try:
        if split == "train":
            pipeline = build_training(records, options, batch, seed, Place(gpu))
        else:
            pipeline = build_evaluation(records, options, batch, Place(gpu))
    except RuntimeError as error:  # building opens no file: only the device can be at fault
        raise InputError(
            f"GPU {gpu} cannot be used ({describe_failure(error)}): leave --gpu out for the CPU"
        ) from None
    try:
        for _ in range(options.prefetch_batches + 1):  # what is made ahead, untimed
            pipeline.run()
        batches, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < seconds or not batches:
            pipeline.run()
            batches += 1
    except RuntimeError as error:
        raise InputError(
            f"{manifest.folder}: reading failed ({describe_failure(error)}): check the data with "
            f"`python -m resnet.prepare_data verify {manifest.folder} --decode`"
        ) from None
    images = batches * batch
    return {
        "images_per_second": images / elapsed,
        "images": images,
        "seconds": elapsed,
        "split": split,
        "device": "cpu" if gpu is None else f"gpu {gpu}",
        "batch_size": batch,
        "threads": options.threads,
        "crop_size": options.crop_size,
    }


def evaluate_images(
    folder: Path, target: Path, crop_size: int, resize_shorter: int, threads: int
) -> int:
    """Run the evaluation preprocessing on a folder's JPEG files; return how many there were.

    Writes an .npz with, per file name, float32 (crop, crop, 3) RGB on the 0-255 scale less the
    mean. One image is in memory at a time. Raises InputError naming what cannot be used.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name one with JPEG files in it")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{folder} holds no JPEG files: name a folder that does")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent} is not a folder: make it, or name another for --npz")
    names = [str(path) for path in files]
    pipeline = build_file_evaluation(names, crop_size, resize_shorter, threads)
    progress = Progress("evaluation images", len(files), "images")
    with write_atomically(target, "wb") as file, zipfile.ZipFile(file, "w") as archive:
        for position, path in enumerate(files):
            try:
                image = np.asarray(pipeline.run()[0].as_tensor())[0]
            except RuntimeError as error:
                raise InputError(
                    f"{path} cannot be decoded ({describe_failure(error)}): replace it"
                ) from None
            with archive.open(f"{path.name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, image, allow_pickle=False)
            progress.update(position + 1)
    progress.finish(len(files))
    return len(files)
