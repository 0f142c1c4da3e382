"""Cost of ResNet's training input: our DALI pipeline against PIL and numpy on the same images.

`python -m perf.resnet_input [--data DIR]` decodes, crops, resizes, mirrors and normalises to
224 x 224 fp32 on the CPU. It says nothing of a GPU, where nvJPEG and the hardware decoder do this
work.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from harness.commands import GOOD, Parser, run_command
from perf.comparison import Comparison, add_common_options, check_positive, measure_in_turns
from resnet.data import InputOptions, TrainingInput
from resnet.pipelines import CROP_AREA, CROP_ASPECT, CROP_ATTEMPTS, MEAN, STD
from resnet.prepare_data import pack_folders
from resnet.shards import Manifest, read_manifest, read_records

SIDE_PIXELS = 224
# ImageNet's usual size; the noise brings the files to its mean of about 110 kB.
HEIGHT_PIXELS, WIDTH_PIXELS, NOISE = 375, 500, 14.0
QUALITY = 92
MEAN_RGB, STD_RGB = np.asarray(MEAN, np.float32), np.asarray(STD, np.float32)


def make_jpeg(generator: np.random.Generator) -> bytes:
    """Make a JPEG file of ImageNet's usual size and weight: soft shapes and noise."""
    coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((WIDTH_PIXELS, HEIGHT_PIXELS), Image.Resampling.BICUBIC)
    noisy = np.asarray(image) + generator.normal(0.0, NOISE, (HEIGHT_PIXELS, WIDTH_PIXELS, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


@contextmanager
def make_data(images: int) -> Iterator[Manifest]:
    """Pack that many made images, in one shard, for as long as the block runs."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for split, count in (("train", images), ("val", 1)):
            place = folder / split / "n00000000"
            place.mkdir(parents=True)
            for number in range(count):
                (place / f"{number:05d}.JPEG").write_bytes(make_jpeg(generator))
        yield pack_folders(folder / "train", folder / "val", folder / "packed", 1, seed=0)


def read_images(manifest: Manifest, count: int) -> list[bytes]:
    """The first `count` training images' bytes, as they lie in the shards."""
    found: list[bytes] = []
    for shard in manifest.train.shards:
        with open(manifest.folder / shard.file, "rb") as file:
            for record in read_records(file):
                if len(found) == count:
                    return found
                found.append(record.image)
    return found


def draw_crop(
    width: int, height: int, generator: np.random.Generator
) -> tuple[float, float, float, float]:
    """Draw a crop (left, upper, right, lower), pixels, by the law of the DALI pipeline."""
    low, high = (math.log(aspect) for aspect in CROP_ASPECT)
    for _ in range(CROP_ATTEMPTS):
        area = width * height * generator.uniform(*CROP_AREA)
        aspect = math.exp(generator.uniform(low, high))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, upper = generator.integers(width - w + 1), generator.integers(height - h + 1)
            return float(left), float(upper), float(left + w), float(upper + h)
    return 0.0, 0.0, float(width), float(height)


def prepare_with_pil(image: bytes, generator: np.random.Generator) -> np.ndarray:
    """One training image (224, 224, 3) fp32 the way a PyTorch data loader makes it."""
    with Image.open(io.BytesIO(image)) as opened:
        decoded = opened.convert("RGB")
    box = draw_crop(*decoded.size, generator)
    resized = decoded.resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BILINEAR, box=box)
    pixels = np.asarray(resized, dtype=np.float32)
    if generator.random() < 0.5:
        pixels = pixels[:, ::-1]
    normalised: np.ndarray = (pixels - MEAN_RGB) / STD_RGB
    return normalised


def compare(manifest: Manifest, images: int, batch: int, rounds: int) -> Comparison:
    """Measure both on `images` images a turn (a whole number of batches)."""
    batches = max(1, images // batch)
    options = InputOptions(
        crop_size=SIDE_PIXELS,
        resize_shorter=SIDE_PIXELS,
        threads=1,
        prefetch_batches=1,
        shuffle_buffer_images=min(1024, manifest.train.images),
        channels=3,
        decoded_cache_megabytes=0,
        validation_cache_megabytes=0,
        memory_mapped=True,
    )
    training = TrainingInput(manifest, options, 0, 1, batch, seed=0, device="cpu")
    training.open()
    encoded = read_images(manifest, batches * batch)
    generator = np.random.default_rng(0)

    def run_dali() -> None:
        for _ in range(batches):
            training.next()

    def run_pil() -> None:
        for number in range(batches):
            taken = (encoded[(number * batch + i) % len(encoded)] for i in range(batch))
            np.stack([prepare_with_pil(image, generator) for image in taken])

    turns = measure_in_turns(run_dali, run_pil, rounds)
    training.close()
    mean_bytes = sum(map(len, encoded)) / len(encoded)
    return turns.compare(
        what="resnet input, DALI on the CPU",
        peer_name="PIL and numpy",
        per="image",
        count=batches * batch,
        how=f"getrusage, {rounds} turns of {batches * batch} images each "
        f"({mean_bytes / 1000:.0f} kB JPEG), one decoding thread, fp32 out",
    )


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = Parser(prog="python -m perf.resnet_input", description=__doc__)
    parser.add_argument("--data", type=Path, help="packed images (default: made here)")
    parser.add_argument("--images", type=int, default=256, help="images a turn")
    parser.add_argument("--batch", type=int, default=32)
    add_common_options(parser, rounds=11)
    options = parser.parse_args(arguments)
    check_positive(options, "images", "batch", "rounds")
    if options.data is not None:
        manifest = read_manifest(options.data)
        result = compare(manifest, options.images, options.batch, options.rounds)
    else:
        with make_data(options.images) as manifest:
            result = compare(manifest, options.images, options.batch, options.rounds)
    result.show(options.json)
    return GOOD


if __name__ == "__main__":
    run_command(main)
