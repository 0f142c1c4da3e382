"""The one definition of ResNet's image pipelines, in DALI, for CPU and GPU.

Training follows NVIDIA's accepted closed-division pipeline (common/dali.py of the v4.0 results):
random crop by area and aspect, resize, flip, normalise. Evaluation follows the reference's
imagenet_preprocessing.py: shorter side to a fixed length, other side truncated, central crop.

DALI writes fp32 or fp16, not bf16. A run in bf16 takes fp32 here and casts on its own device
(autocast does it): 8-bit pixels have 8 significant bits, so nothing is lost on the way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import nvidia.dali.math as dali_math
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

if TYPE_CHECKING:
    from resnet.data import InputOptions
    from resnet.shards import Manifest

MEAN = (123.675, 116.28, 103.53)  # RGB on the 0-255 scale
STD = (58.395, 57.12, 57.375)
NO_STD = (1.0, 1.0, 1.0)
CROP_AREA, CROP_ASPECT, CROP_ATTEMPTS = (0.05, 1.0), (3 / 4, 4 / 3), 10
# Largest sides of ImageNet, from NVIDIA's configurations: without them the hardware decoder
# allocates again in the timed run.
WIDEST_PIXELS, HIGHEST_PIXELS = 5980, 6430
HARDWARE_DECODER_SHARE = 0.99

READER = "records"
DTYPES = {"fp32": types.FLOAT, "fp16": types.FLOAT16}
Floats = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Records:
    """Which records a reader reads: part `part` of `parts` equal runs of a split's records."""

    paths: tuple[str, ...]
    index: str
    images: int
    part: int
    parts: int

    @classmethod
    def of_split(cls, manifest: Manifest, split: str, part: int, parts: int) -> Records:
        """Name the files of a split, without opening one."""
        stored = manifest.split(split)
        paths = tuple(str(manifest.folder / shard.file) for shard in stored.shards)
        return cls(paths, str(manifest.folder / stored.index.file), stored.images, part, parts)

    @property
    def start(self) -> int:
        """The first record of the part, as DALI cuts it."""
        return self.images * self.part // self.parts

    @property
    def count(self) -> int:
        """How many records the part has: parts differ by one at most."""
        return self.images * (self.part + 1) // self.parts - self.start


@dataclass(frozen=True)
class Place:
    """Where a pipeline runs: on the GPU of that number, or on the CPU where it is None."""

    gpu: int | None

    @property
    def decoder(self) -> str:
        """The decoder's device in DALI's terms: "mixed" parses on the CPU, decodes on the GPU."""
        return "cpu" if self.gpu is None else "mixed"

    def decoder_hints(self) -> dict[str, Any]:
        """Return the settings of the hardware decoder, which only a GPU has."""
        if self.gpu is None:
            return {}
        return {
            "hw_decoder_load": HARDWARE_DECODER_SHARE,
            "preallocate_width_hint": WIDEST_PIXELS,
            "preallocate_height_hint": HIGHEST_PIXELS,
        }


def build_training(
    records: Records,
    options: InputOptions,
    batch: int,
    seed: int,
    place: Place,
    dtype: Floats = "fp32",
) -> Pipeline:
    """Build the training pipeline: an unbroken, reshuffled stream of random crops.

    Outputs: images (batch, crop, crop, channels) fp32 or fp16, normalised RGB, a fourth channel
    zero; labels (batch, 1) int64. Nothing is opened before the first batch is asked for.
    """
    pipeline = _make_pipeline(batch, options, seed, place)
    with pipeline:
        encoded, labels = _read_shuffled(records, options, seed)
        images = fn.decoders.image_random_crop(
            encoded,
            device=place.decoder,
            random_area=list(CROP_AREA),
            random_aspect_ratio=list(CROP_ASPECT),
            num_attempts=CROP_ATTEMPTS,
            adjust_orientation=False,  # the reference ignores EXIF
            **place.decoder_hints(),
        )
        side = options.crop_size
        images = fn.resize(images, size=[side, side], interp_type=types.INTERP_LINEAR)
        mirror = fn.random.coin_flip(probability=0.5)
        images = _normalize(images, STD, options.channels, dtype, mirror=mirror)
        pipeline.set_outputs(images, _as_integers(labels, place))
    pipeline.build()
    return pipeline


def build_evaluation(
    records: Records, options: InputOptions, batch: int, place: Place, dtype: Floats = "fp32"
) -> Pipeline:
    """Build the evaluation pipeline: the part's records in order, padded to whole batches.

    Every pass has the same number of batches on every part, enough for the longest: shorter
    parts repeat their last image. Outputs as `build_training`'s.
    """
    pipeline = _make_pipeline(batch, options, 0, place)
    with pipeline:
        encoded, labels = fn.readers.mxnet(
            path=list(records.paths),
            index_path=[records.index],
            shard_id=records.part,
            num_shards=records.parts,
            stick_to_shard=True,
            pad_last_batch=True,
            lazy_init=True,
            name=READER,
        )
        images = _resize_shorter(encoded, options.resize_shorter, place)
        images = _normalize(images, STD, options.channels, dtype, **_centre(options.crop_size))
        pipeline.set_outputs(images, _as_integers(labels, place))
    pipeline.build()
    return pipeline


def build_file_evaluation(
    files: list[str], crop_size: int, resize_shorter: int, threads: int
) -> Pipeline:
    """Build the evaluation pipeline over image files, one a batch, the mean subtracted only.

    Output: images (1, crop, crop, 3) fp32 on the 0-255 scale less the mean.
    """
    pipeline = Pipeline(batch_size=1, num_threads=threads, device_id=None, exec_dynamic=True)
    with pipeline:
        encoded, _ = fn.readers.file(files=files, lazy_init=True, name=READER)
        images = _resize_shorter(encoded, resize_shorter, Place(None))
        pipeline.set_outputs(_normalize(images, NO_STD, 3, "fp32", **_centre(crop_size)))
    pipeline.build()
    return pipeline


def _make_pipeline(batch: int, options: InputOptions, seed: int, place: Place) -> Pipeline:
    # The dynamic executor hands its output buffers over: a tensor made from one stays valid as
    # long as it lives, without a copy. The older executors write into it again.
    return Pipeline(
        batch_size=batch,
        num_threads=options.threads,
        device_id=place.gpu,
        seed=seed,
        prefetch_queue_depth=options.prefetch_batches,
        exec_dynamic=True,
    )


def _read_shuffled(records: Records, options: InputOptions, seed: int) -> tuple[Any, Any]:
    """Read the part's records again and again, in a new order each pass.

    `stick_to_shard` keeps a rank on its own part: each node then holds only its share of the data
    in its page cache, and each record comes once a pass. The files are shuffled as a whole when
    they are packed, so a buffer mixes what is already in random order.
    """
    encoded, labels = fn.readers.mxnet(
        path=list(records.paths),
        index_path=[records.index],
        shard_id=records.part,
        num_shards=records.parts,
        random_shuffle=True,
        initial_fill=options.shuffle_buffer_images,
        stick_to_shard=True,
        lazy_init=True,
        seed=seed,
        name=READER,
    )
    return encoded, labels


def _resize_shorter(encoded: Any, resize_shorter: int, place: Place) -> Any:
    """Decode in full and bring the shorter side to `resize_shorter`, keeping the aspect.

    The longer side is truncated to whole pixels, as in the reference; DALI's own argument
    `resize_shorter` would round it.
    """
    shape = fn.peek_image_shape(encoded, adjust_orientation=False)
    height, width = shape[0], shape[1]
    shorter = dali_math.min(height, width)
    images = fn.decoders.image(
        encoded, device=place.decoder, adjust_orientation=False, **place.decoder_hints()
    )
    return fn.resize(
        images,
        resize_y=fn.cast(height * resize_shorter // shorter, dtype=types.FLOAT),
        resize_x=fn.cast(width * resize_shorter // shorter, dtype=types.FLOAT),
        interp_type=types.INTERP_LINEAR,
    )


def _centre(crop_size: int) -> dict[str, Any]:
    """Crop the centre with the reference's offset, floor((size - crop) / 2)."""
    return {"crop": [crop_size, crop_size], "rounding": "truncate"}


def _normalize(
    images: Any, std: tuple[float, ...], channels: int, dtype: Floats, **window: Any
) -> Any:
    """Crop or mirror as `window` says, subtract MEAN, divide by std, lay out as HWC."""
    return fn.crop_mirror_normalize(
        images,
        mean=list(MEAN),
        std=list(std),
        dtype=DTYPES[dtype],
        output_layout="HWC",
        pad_output=channels == 4,
        **window,
    )


def _as_integers(labels: Any, place: Place) -> Any:
    labels = fn.cast(labels, dtype=types.INT64)
    return labels if place.gpu is None else labels.gpu()


def find_undecodable(
    records: Records, options: InputOptions, batch: int, seed: int, batches_done: int
) -> tuple[str, int] | None:
    """Find the image that stopped a training pipeline: (shard path, byte offset), or None.

    DALI does not say which image it could not decode. The same reader with the same seed gives
    the same order, so it is run again without decoding up to the batches that were in work, and
    their images are decoded one by one.
    """
    pipeline = _make_pipeline(batch, options, seed, Place(None))
    with pipeline:
        encoded, _ = _read_shuffled(records, options, seed)
        pipeline.set_outputs(encoded, fn.get_property(encoded, key="source_info"))
    pipeline.build()
    for _ in range(batches_done):
        pipeline.run()
    for _ in range(options.prefetch_batches + 1):
        images, places = pipeline.run()
        for position in range(batch):
            if not _can_decode(images[position]):
                return _parse_place(bytes(memoryview(places[position])).decode())
    return None


def _can_decode(image: Any) -> bool:
    pipeline = Pipeline(batch_size=1, num_threads=1, device_id=None)
    with pipeline:
        encoded = fn.external_source(source=lambda: [image])
        pipeline.set_outputs(fn.decoders.image(encoded))
    pipeline.build()
    try:
        pipeline.run()
    except RuntimeError:
        return False
    return True


def _parse_place(text: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"(.*) at index (\d+)", text)
    return (str(Path(found[1])), int(found[2])) if found else None


def describe_failure(error: Exception) -> str:
    """Reduce DALI's report, which has a traceback of its own in it, to its reason on one line."""
    text = str(error).split("encountered:")[-1].split("Current pipeline object")[0]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Critical error", "Error in "))]
    return lines[0][:200].rstrip(" :.") if lines else "DALI gives no reason"
