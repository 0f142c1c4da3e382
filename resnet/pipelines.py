"""The one definition of ResNet's image pipelines, in DALI, for CPU and GPU.

Training follows NVIDIA's accepted closed-division pipeline (common/dali.py of the v4.0 results):
random crop by area and aspect, resize, flip, normalise. Evaluation follows the reference's
imagenet_preprocessing.py: shorter side to a fixed length, other side truncated, central crop.

DALI writes fp32 or fp16, not bf16. A run in bf16 takes fp32 here, which is cast on the device as
the batch is copied into the step's tensor (handover.py): rounded once, in one pass.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import nvidia.dali
import nvidia.dali.math as dali_math
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline

from harness.commands import InputError

if TYPE_CHECKING:
    from resnet.input_options import InputOptions
    from resnet.shards import Manifest

MEAN = (123.675, 116.28, 103.53)  # RGB on the 0-255 scale
STD = (58.395, 57.12, 57.375)
NO_STD = (1.0, 1.0, 1.0)
CROP_AREA, CROP_ASPECT, CROP_ATTEMPTS = (0.05, 1.0), (3 / 4, 4 / 3), 10
# Largest sides of ImageNet, from NVIDIA's configurations: without them the hardware decoder
# allocates again in the timed run.
WIDEST_PIXELS, HIGHEST_PIXELS = 5980, 6430
HARDWARE_DECODER_SHARE = 0.99
# Memory taken ahead, from the same configurations: a decoded image, nvJPEG's buffers on device and
# host (a thread), and a tenth more than is expected everywhere else.
DECODED_BYTES, NVJPEG_PADDING_BYTES, BUFFER_MARGIN = 1_315_942, 256 << 20, 1.1

# DALI 2.0 and 2.1 give an image that comes out of the cache the size of another, the one decoded
# before in its place in the batch (dali/operators/imgcodec/image_decoder.h; also read off the
# libraries of 2.0.0 and 2.1.1, and that of 2.2.0, which is right): its pixels are then another
# picture, or written past its end. Older ones were not looked at.
CACHE_SINCE = (2, 2)

READER = "records"
DTYPES = {"fp32": types.FLOAT, "fp16": types.FLOAT16}
Floats = Literal["fp32", "fp16"]


@dataclass(frozen=True)
class Records:
    """Which records a reader reads: part `part` of `parts` equal runs of a split's records.

    decoded_bytes: what the part's images take as RGB, about (Split.estimate_decoded_bytes).
    """

    paths: tuple[str, ...]
    index: str
    images: int
    part: int
    parts: int
    decoded_bytes: int

    @classmethod
    def of_split(cls, manifest: Manifest, split: str, part: int, parts: int) -> Records:
        """Name the files of a split, without opening one."""
        stored = manifest.split(split)
        paths = tuple(str(manifest.folder / shard.file) for shard in stored.shards)
        index = str(manifest.folder / stored.index.file)
        start, stop = (stored.images * end // parts for end in (part, part + 1))
        size = stored.estimate_decoded_bytes(start, stop)
        return cls(paths, index, stored.images, part, parts, size)

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
            "device_memory_padding": NVJPEG_PADDING_BYTES,
            "host_memory_padding": NVJPEG_PADDING_BYTES,
            "bytes_per_sample_hint": DECODED_BYTES,
        }

    def buffer_hint(self, bytes_an_image: int) -> dict[str, Any]:
        """Return how much an operation's output takes, so that a GPU's memory is taken once."""
        if self.gpu is None:
            return {}
        return {"bytes_per_sample_hint": round(BUFFER_MARGIN * bytes_an_image)}

    def decoded_cache(self, megabytes: int) -> dict[str, Any]:
        """Return the settings that keep decoded images, of any size, until the memory is full.

        megabytes: MiB of the GPU's memory, taken when the pipeline is built. Raises InputError on
        a CPU, whose decoder keeps nothing, and for a DALI whose cache is not right.
        """
        if self.gpu is None:
            raise InputError(
                f"decoded_cache_megabytes is {megabytes}, but only a GPU's decoder keeps images "
                f"and this run decodes on the CPU: set it to 0"
            )
        version = nvidia.dali.__version__
        if tuple(map(int, re.findall(r"\d+", version)[:2])) < CACHE_SINCE:
            raise InputError(
                f"decoded_cache_megabytes is {megabytes}, but DALI {version} may mix up the sizes "
                f"of the images it keeps: install DALI 2.2 or newer, or set it to 0"
            )
        return {"cache_size": megabytes, "cache_type": "threshold", "cache_threshold": 0}


def fit_decoded_cache(options: InputOptions, records: Records) -> InputOptions:
    """Take no more memory for decoded images than the part's own need, in whole MiB.

    DALI's cache lays them end to end, height x width x 3 bytes each.
    """
    needed = -(-records.decoded_bytes // (1 << 20))
    megabytes = min(options.decoded_cache_megabytes, needed)
    return replace(options, decoded_cache_megabytes=megabytes)


def check_free_memory(options: InputOptions, free_bytes: int) -> None:
    """Refuse a cache of decoded images that a GPU's free memory does not hold.

    Asked before the clock, beside the model: DALI would end in an error of its own. Raises
    InputError.
    """
    megabytes, free_megabytes = options.decoded_cache_megabytes, free_bytes >> 20
    if megabytes > free_megabytes:
        raise InputError(
            f"decoded_cache_megabytes is {megabytes:,}, but the GPU has {free_megabytes:,} MiB "
            f"free beside the model: lower it, or set it to 0 to keep none"
        )


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
    zero; labels (batch, 1) int64. Nothing is opened before the first batch is asked for. A GPU's
    cache of decoded images is as large as the options allow, and no larger than the part needs.
    """
    if place.gpu is not None:
        options = fit_decoded_cache(options, records)
    pipeline = make_pipeline(batch, options, seed, place)
    with pipeline:
        cached = options.decoded_cache_megabytes > 0
        encoded, labels = read_shuffled(records, options, seed, skip_cached=cached)
        crop = _crop_decoded if cached else _crop_while_decoding
        images = crop(encoded, options, seed, place)
        side = options.crop_size
        images = fn.resize(
            images,
            size=[side, side],
            interp_type=types.INTERP_LINEAR,
            **place.buffer_hint(side * side * 3),
        )
        mirror = fn.random.coin_flip(probability=0.5)
        hint = _hint_output(options, dtype, place)
        images = _normalize(images, STD, options.channels, dtype, mirror=mirror, **hint)
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
    pipeline = make_pipeline(batch, options, 0, place)
    with pipeline:
        encoded, labels = fn.readers.mxnet(
            path=list(records.paths),
            index_path=[records.index],
            shard_id=records.part,
            num_shards=records.parts,
            stick_to_shard=True,
            pad_last_batch=True,
            lazy_init=True,
            dont_use_mmap=not options.memory_mapped,
            name=READER,
        )
        images = _resize_shorter(encoded, options.resize_shorter, place)
        window = {**_centre(options.crop_size), **_hint_output(options, dtype, place)}
        images = _normalize(images, STD, options.channels, dtype, **window)
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


def make_pipeline(batch: int, options: InputOptions, seed: int, place: Place) -> Pipeline:
    """Make an empty pipeline with the run's threads and prefetching."""
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


def read_shuffled(
    records: Records, options: InputOptions, seed: int, skip_cached: bool = False
) -> tuple[Any, Any]:
    """Read the part's records again and again, in a new order each pass.

    skip_cached: give nothing for a record whose decoded image the decoder keeps; the order is the
    same.

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
        dont_use_mmap=not options.memory_mapped,
        skip_cached_images=skip_cached,
        seed=seed,
        name=READER,
    )
    return encoded, labels


def _crop_while_decoding(encoded: Any, options: InputOptions, seed: int, place: Place) -> Any:
    """Decode no more than a random crop of each image."""
    return fn.decoders.image_random_crop(
        encoded,
        device=place.decoder,
        adjust_orientation=False,  # the reference ignores EXIF
        **_draw_crop(seed),
        **place.decoder_hints(),
    )


def _crop_decoded(encoded: Any, options: InputOptions, seed: int, place: Place) -> Any:
    """Decode each image in full, or take it decoded from the GPU's memory, and cut a random crop.

    With the same seed the crops are those of `_crop_while_decoding`.
    """
    images = fn.decoders.image(
        encoded,
        device=place.decoder,
        adjust_orientation=False,
        **place.decoder_hints(),
        **place.decoded_cache(options.decoded_cache_megabytes),
    )
    return cut_crop(images, seed)


def cut_crop(images: Any, seed: int) -> Any:
    """Cut a random crop out of each decoded image (H, W, C)."""
    start, shape = fn.random_crop_generator(images.shape()[:2], **_draw_crop(seed))
    return fn.slice(images, start=start, shape=shape, axes=[0, 1])


def _draw_crop(seed: int) -> dict[str, Any]:
    """The law of random crops."""
    return {
        "random_area": list(CROP_AREA),
        "random_aspect_ratio": list(CROP_ASPECT),
        "num_attempts": CROP_ATTEMPTS,
        "seed": seed,
    }


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


def _hint_output(options: InputOptions, dtype: Floats, place: Place) -> dict[str, Any]:
    values = options.crop_size * options.crop_size * options.channels
    return place.buffer_hint(values * (4 if dtype == "fp32" else 2))


def _as_integers(labels: Any, place: Place) -> Any:
    labels = fn.cast(labels, dtype=types.INT64)
    return labels if place.gpu is None else labels.gpu()
