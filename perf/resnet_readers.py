"""What each container of images costs to read: class folders, TFRecord, tar shards, RecordIO.

`python -m perf.resnet_readers` writes the same JPEG bytes in all four forms and lets DALI's reader
of each make one shuffled pass, alone and in front of the training pipeline's decoding on the CPU,
with the files in the page cache (warm) and dropped from it (cold). Rounds take all of them in
turn. Our data set is RecordIO; the others are its peers.
"""

from __future__ import annotations

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from nvidia.dali import fn, tfrecord, types
from nvidia.dali.pipeline import Pipeline

from demo.images import make_images
from harness.commands import GOOD, Parser, run_command
from perf.comparison import check_positive, read_cpu_seconds
from perf.image_containers import (
    Images,
    write_files,
    write_recordio,
    write_tfrecord,
    write_webdataset,
)
from perf.resnet_input import make_jpeg
from resnet.pipelines import CROP_AREA, CROP_ASPECT, CROP_ATTEMPTS, MEAN, STD

CLASSES, DEMO_CLASSES, SIDE_PIXELS, THREADS, PREFETCH = 100, 12, 224, 1, 2
BUFFER_IMAGES, SEED = 1024, 7
Read = Callable[[Path, dict[str, Any]], tuple[Any, Any]]


@dataclass(frozen=True)
class Container:
    """A form of the data set: who writes it, who reads it (encoded images and labels)."""

    name: str
    write: Callable[[Path, Images], None]
    read: Read


@dataclass(frozen=True)
class Cost:
    """Medians over the rounds, for 1,000 images; disk_megabytes: 10^6 bytes read from the disk."""

    container: str
    work: str
    cache: str
    cpu_seconds: float
    wall_seconds: float
    disk_megabytes: float


def read_recordio(folder: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    """MXNet RecordIO, what the trainer reads."""
    paths, index = [str(folder / "images.rec")], [str(folder / "images.idx")]
    encoded, labels = fn.readers.mxnet(path=paths, index_path=index, **options)
    return encoded, labels


def read_files(folder: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    """A file an image, a folder a class."""
    encoded, labels = fn.readers.file(file_root=str(folder), **options)
    return encoded, labels


def read_tfrecord(folder: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    """TFRecord of examples."""
    features = {
        "image/encoded": tfrecord.FixedLenFeature((), tfrecord.string, ""),
        "image/class/label": tfrecord.FixedLenFeature([1], tfrecord.int64, 0),
    }
    path = folder / "images.tfrecord"
    found = fn.readers.tfrecord(
        path=[str(path)], index_path=[f"{path}.idx"], features=features, **options
    )
    return found["image/encoded"], found["image/class/label"]


def read_webdataset(folder: Path, options: dict[str, Any]) -> tuple[Any, Any]:
    """Tar shards."""
    path = folder / "images.tar"
    encoded, labels = fn.readers.webdataset(
        paths=[str(path)], index_paths=[f"{path}.idx"], ext=["jpg", "cls"], **options
    )
    return encoded, labels


CONTAINERS = (
    Container("RecordIO (ours)", write_recordio, read_recordio),
    Container("TFRecord", write_tfrecord, read_tfrecord),
    Container("webdataset (tar)", write_webdataset, read_webdataset),
    Container("files in folders", write_files, read_files),
)


def make_imagenet_like(count: int) -> Images:
    """JPEG files of ImageNet's usual size and weight, about 110 kB, in random order of classes."""
    generator = np.random.default_rng(SEED)
    return [(make_jpeg(generator), int(generator.integers(CLASSES))) for _ in range(count)]


def make_demo_like(count: int) -> Images:
    """The demonstration's photographs, a few kB each, shuffled."""
    with tempfile.TemporaryDirectory() as name:
        make_images(Path(name) / "jpeg", SEED, count, DEMO_CLASSES, DEMO_CLASSES)
        files = sorted((Path(name) / "jpeg" / "train").glob("*/*"))
        classes = sorted({file.parent.name for file in files})
        images = [(file.read_bytes(), classes.index(file.parent.name)) for file in files]
    order = np.random.default_rng(SEED).permutation(len(images))
    return [images[position] for position in order]


MAKERS = {"imagenet": make_imagenet_like, "demo": make_demo_like}


def build(container: Container, folder: Path, images: int, batch: int, decode: bool) -> Pipeline:
    """One rank's pipeline over the whole container; nothing is opened yet."""
    options = {
        "random_shuffle": True,
        "initial_fill": min(BUFFER_IMAGES, images),
        "lazy_init": True,
        "seed": SEED,
        "name": "reader",
    }
    pipeline = Pipeline(batch, THREADS, None, SEED, prefetch_queue_depth=PREFETCH)
    with pipeline:
        found, labels = container.read(folder, options)
        pipeline.set_outputs(prepare(found) if decode else found, labels)
    return pipeline


def prepare(encoded: Any) -> Any:
    """Decode a random crop and shape it, as the training pipeline does."""
    images = fn.decoders.image_random_crop(
        encoded,
        random_area=list(CROP_AREA),
        random_aspect_ratio=list(CROP_ASPECT),
        num_attempts=CROP_ATTEMPTS,
        seed=SEED,
    )
    images = fn.resize(images, size=[SIDE_PIXELS, SIDE_PIXELS], interp_type=types.INTERP_LINEAR)
    return fn.crop_mirror_normalize(images, mean=list(MEAN), std=list(STD), output_layout="HWC")


def drop_pages(folder: Path) -> None:
    """Ask the kernel to drop the files of a folder from its page cache."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read_disk_bytes() -> int:
    """Bytes that this process has had read from a disk so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("read_bytes")))


def measure(
    container: Container, folder: Path, images: int, batch: int, decode: bool
) -> tuple[float, float, float]:
    """One pass from opening on: CPU-seconds, wall seconds and 10^6 bytes from disk, per 1,000."""
    pipeline = build(container, folder, images, batch, decode)
    pipeline.build()
    cpu, start, disk = read_cpu_seconds(), time.perf_counter(), read_disk_bytes()
    for _ in range(images // batch):
        pipeline.run()
    wall = time.perf_counter() - start
    cpu, disk = read_cpu_seconds() - cpu, read_disk_bytes() - disk
    thousands = (images // batch) * batch / 1000
    del pipeline
    gc.collect()  # its files must be unmapped before their pages can be dropped
    return cpu / thousands, wall / thousands, disk / 1e6 / thousands


def compare(folder: Path, made: Images, batch: int, rounds: int) -> list[Cost]:
    """Write every container and measure all kinds of work on each, round by round."""
    for number, container in enumerate(CONTAINERS):
        (folder / str(number)).mkdir()
        container.write(folder / str(number), made)
    kinds = [(work, cache) for work in ("read", "read and decode") for cache in ("warm", "cold")]
    found: dict[tuple[str, str, str], list[tuple[float, float, float]]] = {}
    for turn in range(rounds + 1):
        for number, container in enumerate(CONTAINERS):
            place = folder / str(number)
            for work, cache in kinds:
                if cache == "cold":
                    drop_pages(place)
                else:
                    warm(place)
                values = measure(container, place, len(made), batch, work != "read")
                if turn:  # the first is not counted
                    found.setdefault((container.name, work, cache), []).append(values)
    return [
        Cost(*key, *(median(column) for column in zip(*values, strict=True)))
        for key, values in found.items()
    ]


def warm(folder: Path) -> None:
    """Read every file once."""
    for file in (path for path in folder.rglob("*") if path.is_file()):
        file.read_bytes()


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = Parser(prog="python -m perf.resnet_readers", description=__doc__)
    parser.add_argument("--kind", choices=tuple(MAKERS), default="imagenet", help="of images")
    parser.add_argument("--images", type=int, default=1024, help="how many are made")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    check_positive(options, "images", "batch", "rounds")
    options.batch = min(options.batch, options.images)
    made = MAKERS[options.kind](options.images)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        costs = compare(Path(name), made, options.batch, options.rounds)
    mean_kilobytes = sum(len(image) for image, _ in made) / len(made) / 1000
    if options.json:
        table = {"images": len(made), "mean_kilobytes": mean_kilobytes}
        print(json.dumps({**table, "costs": [asdict(cost) for cost in costs]}, indent=1))
        return GOOD
    print(f"{len(made):,} images of {mean_kilobytes:.1f} kB on average; for 1,000 images:")
    for cost in costs:
        print(
            f"{cost.work:16} {cost.cache:5} {cost.container:18} {cost.cpu_seconds:8.3f} CPU s "
            f"{cost.wall_seconds:8.3f} wall s {cost.disk_megabytes:8.1f} MB from disk"
        )
    return GOOD


if __name__ == "__main__":
    run_command(main)
