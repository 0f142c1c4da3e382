"""The input measured alone: its rate, and what the evaluation preprocessing makes of images."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.commands import InputError
from harness.files import write_atomically
from harness.precision import find_dtype
from harness.progress import Progress
from resnet.data import EvaluationInput, TrainingInput
from resnet.data_command import Settings
from resnet.input_options import InputOptions
from resnet.pipeline_failures import describe_failure, hold_messages
from resnet.pipelines import Records, build_file_evaluation, fit_decoded_cache
from resnet.shards import Manifest

IMAGE_SUFFIXES = (".jpeg", ".jpg")


def measure_throughput(
    manifest: Manifest,
    split: str,
    settings: Settings,
    place: tuple[int, int],
    gpu: int | None,
    seconds: float,
) -> dict[str, Any]:
    """Fill the step's tensors from one rank's input for `seconds`; return the rate.

    place: rank and number of ranks, which decide the rank's share of the split. What a run makes
    ahead is not timed; nor, with a cache of decoded images, is the rank's first whole pass, which
    fills the cache: all epochs after a run's first are as what is timed here. Raises InputError
    where images cannot be read or the GPU cannot be used.
    """
    rank, ranks = place
    if rank >= ranks:
        raise InputError(f"--rank {rank} is not one of {ranks}, counted from 0")
    if ranks > manifest.split(split).images:
        raise InputError(f"{ranks} ranks are more than the {split} images: give fewer --ranks")
    device = torch.device("cpu") if gpu is None else _find_gpu(gpu)
    options, batch = settings.options, settings.batch_size
    records = Records.of_split(manifest, split, rank, ranks)
    if gpu is not None and split == "train":
        options = fit_decoded_cache(options, records)
    stream = _open_stream(manifest, split, settings, place, device)
    untimed = count_untimed_batches(options, records.count, batch)
    untimed_images = sum(next(stream) for _ in range(untimed))
    _finish(device)
    images, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or not images:
        images += next(stream)
    _finish(device)
    elapsed = time.perf_counter() - start
    return {
        "images_per_second": images / elapsed,
        "images": images,
        "untimed_images": untimed_images,
        "seconds": elapsed,
        "split": split,
        "rank": rank,
        "ranks": ranks,
        "device": "cpu" if gpu is None else f"gpu {gpu}",
        "format": settings.format,
        "batch_size": batch,
        **asdict(options),
    }


def count_untimed_batches(options: InputOptions, share: int, batch: int) -> int:
    """Batches before what is timed: those made ahead, or a pass over a rank's `share` of images."""
    ahead = options.prefetch_batches + 1
    return max(ahead, -(-share // batch)) if options.decoded_cache_megabytes else ahead


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _find_gpu(number: int) -> torch.device:
    found = torch.cuda.device_count()
    if not 0 <= number < found:
        raise InputError(
            f"GPU {number} cannot be used, torch finds {found}: leave --gpu out for the CPU"
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def _open_stream(
    manifest: Manifest,
    split: str,
    settings: Settings,
    place: tuple[int, int],
    device: torch.device,
) -> Iterator[int]:
    """Give batch after batch without end, written where a step reads it; yields its images."""
    options, batch, dtype = settings.options, settings.batch_size, find_dtype(settings.format)
    shape = (batch, options.crop_size, options.crop_size, options.channels)
    images = torch.empty(shape, dtype=dtype, device=device).permute(0, 3, 1, 2)
    labels = torch.empty(batch, dtype=torch.int64, device=device)
    if split == "train":
        seed = time.time_ns() % (1 << 31)
        training = TrainingInput(manifest, options, *place, batch, seed, device)
        training.prepare(dtype)
        training.open()
        while True:
            training.next_into(images, labels)
            yield batch
    validation = EvaluationInput(manifest, options, *place, batch, device)
    validation.prepare(dtype)
    validation.open()
    while True:
        yield from validation.epoch_into(images, labels)


def evaluate_images(
    folder: Path, target: Path, crop_size: int, resize_shorter: int, threads: int
) -> int:
    """Run the evaluation preprocessing on a folder's JPEG files; return how many there were.

    Writes an .npz with, per file name, float32 (crop, crop, 3) RGB on the 0-255 scale less the
    mean. One image is in memory at a time. Raises InputError naming what cannot be used; OSError.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name one with JPEG files in it")
    files = list_images(folder)
    if not target.parent.is_dir():
        raise InputError(f"{target.parent} is not a folder: make it, or name another for --npz")
    names = [str(path) for path in files]
    pipeline = build_file_evaluation(names, crop_size, resize_shorter, threads)
    with (
        hold_messages() as screen,
        write_atomically(target, "wb") as file,
        zipfile.ZipFile(file, "w") as archive,
    ):
        progress = Progress("evaluation images", len(files), "images", screen)
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


def list_images(folder: Path) -> list[Path]:
    """List the JPEG files of a folder in name order, each of which can be opened and is not empty.

    DALI reads ahead of the image it decodes, so its report would name another one. Raises
    InputError, and OSError where a file cannot be opened.
    """
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir()
    )
    if not files:
        raise InputError(f"{folder} holds no JPEG files: name a folder that does")
    for path in files:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(path)!a} is not UTF-8, which DALI needs: rename it") from None
        if path.exists() and not path.is_file():
            raise InputError(f"{path} is no file: put one in its place, or take it away")
        with path.open("rb") as file:
            if not file.read(1):
                raise InputError(f"{path} is empty: put the image back, or take it away")
    return files
