"""The image pipelines against plain arithmetic: windows, sizes, colours, flips, laziness."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvidia.dali import fn, types
from nvidia.dali.pipeline import Pipeline
from PIL import Image

from harness.commands import InputError
from resnet import pipelines
from resnet.data import InputOptions
from resnet.pipeline_failures import describe_failure, find_undecodable
from resnet.pipelines import (
    MEAN,
    STD,
    Place,
    Records,
    build_evaluation,
    build_training,
    check_free_memory,
    cut_crop,
    fit_decoded_cache,
    make_pipeline,
    read_shuffled,
)
from resnet.prepare_data_headers import count_decoded_bytes
from resnet.shards import Manifest, Shard, Split, StoredFile, frame_image

CPU = Place(None)
SQUARE = np.array([[[200, 30, 40], [20, 220, 60]], [[30, 40, 230], [250, 240, 20]]], dtype=np.uint8)


def make_options(**changes: int) -> InputOptions:
    """Options of a small test pipeline."""
    values = {
        "crop_size": 32,
        "resize_shorter": 36,
        "threads": 1,
        "prefetch_batches": 2,
        "shuffle_buffer_images": 8,
        "channels": 3,
        "decoded_cache_megabytes": 0,
        "validation_cache_megabytes": 0,
        "memory_mapped": True,
    }
    return InputOptions(**{**values, **changes})


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """Return an image file's bytes; PNG keeps every pixel, and is read as ImageNet's one PNG is."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def store(folder: Path, images: list[bytes]) -> Records:
    """Write images as one shard, labelled by their position."""
    records = [frame_image(number, number, image) for number, image in enumerate(images)]
    offsets = np.cumsum([0, *map(len, records)])
    (folder / "x.rec").write_bytes(b"".join(records))
    lines = [f"{number}\t{offsets[number]}\n" for number in range(len(images))]
    (folder / "x.idx").write_text("".join(lines))
    size = sum(map(count_decoded_bytes, images))
    return Records((str(folder / "x.rec"),), str(folder / "x.idx"), len(images), 0, 1, size)


def run(pipeline) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    """Return a batch as arrays: images (B, H, W, C) on the 0-255 scale, labels (B,)."""
    images, labels = pipeline.run()
    images = np.asarray(images.as_tensor()).astype(np.float32)
    restored = images[..., :3] * np.array(STD) + np.array(MEAN)
    return restored, np.asarray(labels.as_tensor()).ravel()


def test_evaluation_crops_the_centre_with_a_floor_offset(tmp_path: Path) -> None:
    """Where no resizing is needed the crop is exact: offsets floor(4/2) and floor(19/2)."""
    pixels = np.random.default_rng(0).integers(0, 256, (36, 51, 3), dtype=np.uint8)
    records = store(tmp_path, [encode(Image.fromarray(pixels))])
    images, _ = run(build_evaluation(records, make_options(), 1, CPU))
    np.testing.assert_allclose(images[0], pixels[2:34, 9:41], atol=1e-3)


@pytest.mark.parametrize("portrait", [False, True])
def test_evaluation_truncates_the_longer_side(tmp_path: Path, portrait: bool) -> None:
    """10 x 19 with the shorter side to 15: 28.5 becomes 28, where rounding would say 29."""
    ramp = np.linspace(0, 250, 19)[None, :, None] + np.zeros((10, 1, 3))
    pixels = np.round(ramp).astype(np.uint8)
    image = Image.fromarray(pixels.transpose(1, 0, 2) if portrait else pixels)
    records = store(tmp_path, [encode(image)])
    options = make_options(crop_size=15, resize_shorter=15)
    result = run(build_evaluation(records, options, 1, CPU))[0][0]

    def expect(longer: int) -> np.ndarray:
        size = (15, longer) if portrait else (longer, 15)
        resized = np.asarray(image.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
        start = (longer - 15) // 2
        return resized[start : start + 15] if portrait else resized[:, start : start + 15]

    assert np.abs(result - expect(28)).max() < 1.5
    assert np.abs(result - expect(29)).max() > 3


def test_every_kind_of_image_becomes_rgb(tmp_path: Path) -> None:
    """JPEG in colour, gray, CMYK and progressive, PNG in disguise, and EXIF turns are ignored."""
    image = Image.fromarray(np.kron(SQUARE, np.ones((18, 18, 1), dtype=np.uint8)))
    gray = np.repeat(np.asarray(Image.fromarray(SQUARE).convert("L"))[..., None], 3, axis=2)
    exif = Image.Exif()
    exif[0x112] = 6
    kept = {"quality": 95, "subsampling": 0}
    cases = [
        (encode(image, "JPEG", **kept), SQUARE),
        (encode(image, "JPEG", progressive=True, **kept), SQUARE),
        (encode(image, "JPEG", exif=exif, **kept), SQUARE),
        (encode(image.convert("CMYK"), "JPEG", quality=95), SQUARE),
        (encode(image.convert("L"), "JPEG", quality=95), gray),
        (encode(image), SQUARE),
        (encode(image.convert("L")), gray),
        (encode(image.convert("RGBA")), SQUARE),
    ]
    records = store(tmp_path, [data for data, _ in cases])
    evaluated, labels = run(build_evaluation(records, make_options(), len(cases), CPU))
    assert list(labels) == list(range(len(cases)))
    for result, (_, expected) in zip(evaluated, cases, strict=True):
        centres = result[8::16, 8::16]
        np.testing.assert_allclose(centres, expected, atol=4)


def build_decoded_cropping(records: Records, count: int, seed: int) -> Pipeline:
    """The training pipeline that crops decoded images, on a CPU and so without their cache."""
    options = make_options()
    pipeline = make_pipeline(count, options, seed, CPU)
    with pipeline:
        encoded, labels = read_shuffled(records, options, seed)
        images = cut_crop(fn.decoders.image(encoded, adjust_orientation=False), seed)
        images = fn.resize(images, size=[32, 32], interp_type=types.INTERP_LINEAR)
        mirror = fn.random.coin_flip(probability=0.5)
        images = fn.crop_mirror_normalize(
            images, mean=list(MEAN), std=list(STD), mirror=mirror, output_layout="HWC"
        )
        pipeline.set_outputs(images, labels)
    return pipeline


def sample_windows(
    tmp_path: Path, count: int, decoded: bool = False, seed: int = 11
) -> tuple[np.ndarray, np.ndarray]:
    """Draw training crops of an image that carries its coordinates.

    decoded: cut them out of decoded images, as with a cache. Returns left, right, top, bottom of
    each window as fractions (count, 4), left > right where it is mirrored, and the images
    (count, 32, 32, 3).
    """
    side = 256
    axis = np.arange(side)
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = axis[None, :], axis[:, None]
    records = store(tmp_path, [encode(Image.fromarray(pixels))])
    if decoded:
        images, _ = run(build_decoded_cropping(records, count, seed))
    else:
        images, _ = run(build_training(records, make_options(), count, seed, CPU))
    x, y = images[..., 0].mean(axis=1), images[..., 1].mean(axis=2)
    # Output pixel k lies at (k + 1/2) / 32 of the window: extrapolate from two inner ones to edges.
    edges = []
    for line in (x, y):
        step = (line[:, 24] - line[:, 8]) / 16
        middle = (line[:, 15] + line[:, 16]) / 2
        edges += [middle - 16 * step, middle + 16 * step]
    return (np.stack(edges, axis=1) + 0.5) / side, images


def test_training_crops_follow_area_and_aspect(tmp_path: Path) -> None:
    """Area in [0.05, 1], near uniform; aspect in [3/4, 4/3]; half of the crops mirrored."""
    windows, images = sample_windows(tmp_path, 1000)
    width = np.abs(windows[:, 1] - windows[:, 0])
    height = windows[:, 3] - windows[:, 2]
    area, aspect = width * height, width / height
    assert images.shape == (1000, 32, 32, 3)
    assert 0.045 < area.min() < 0.08 and 0.9 < area.max() < 1.03
    assert 0.72 < aspect.min() < 0.8 and 1.25 < aspect.max() < 1.38
    # The law itself: uniform area, log-uniform aspect, drawn again where it does not fit.
    generator = np.random.default_rng(0)
    areas = generator.uniform(0.05, 1, 100_000)
    logarithms = generator.uniform(np.log(3 / 4), np.log(4 / 3), 100_000)
    fits = areas * np.exp(np.abs(logarithms)) <= 1
    quarters = (0.25, 0.5, 0.75)
    expected = np.quantile(areas[fits], quarters)
    np.testing.assert_allclose(np.quantile(area, quarters), expected, atol=0.05)
    expected = np.quantile(logarithms[fits], quarters)
    np.testing.assert_allclose(np.quantile(np.log(aspect), quarters), expected, atol=0.05)
    mirrored = (windows[:, 1] < windows[:, 0]).mean()
    assert abs(mirrored - 0.5) < 5 * np.sqrt(0.25 / 1000)


def test_crops_of_decoded_images_are_those_of_region_decoding(tmp_path: Path) -> None:
    """With a cache and without: equal bit for bit with one seed, of one law with two."""
    windows, images = sample_windows(tmp_path, 1000)
    same_windows, same_images = sample_windows(tmp_path, 1000, decoded=True)
    np.testing.assert_array_equal(images, same_images)
    np.testing.assert_array_equal(windows, same_windows)
    other = sample_windows(tmp_path, 1000, decoded=True, seed=12)[0]
    assert np.abs(other - windows).max() > 0.5
    for measure in (measure_area, measure_aspect, measure_left):
        quantiles = [
            np.quantile(measure(one), (0.1, 0.25, 0.5, 0.75, 0.9)) for one in (windows, other)
        ]
        np.testing.assert_allclose(quantiles[0], quantiles[1], atol=0.06)


def measure_area(windows: np.ndarray) -> np.ndarray:
    return np.abs(windows[:, 1] - windows[:, 0]) * (windows[:, 3] - windows[:, 2])


def measure_aspect(windows: np.ndarray) -> np.ndarray:
    return np.log(np.abs(windows[:, 1] - windows[:, 0]) / (windows[:, 3] - windows[:, 2]))


def measure_left(windows: np.ndarray) -> np.ndarray:
    return np.minimum(windows[:, 0], windows[:, 1])


class Unbuilt(Pipeline):
    """A pipeline with a GPU's graph on a machine without one: checked and written, never run."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        super().__init__(**{**options, "device_id": None})

    def build(self) -> None:
        self.graph = self.serialize()

    def holds(self, name: str) -> bool:
        """Whether the written graph has it as a name or a value, not in a line of source."""
        return bytes([len(name)]) + name.encode() in self.graph


@pytest.mark.parametrize("cache", [0, 5000])
def test_the_gpus_graph_has_its_hints_and_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: int
) -> None:
    """DALI takes every operation and argument; the graph is asked what it holds."""
    monkeypatch.setattr(pipelines, "Pipeline", Unbuilt)
    records = store(tmp_path, [encode(Image.new("RGB", (40, 40)))])
    options = make_options(decoded_cache_megabytes=cache, channels=4)
    training = build_training(records, options, 2, 5, Place(3), "fp16")
    evaluation = build_evaluation(records, options, 2, Place(3))
    assert training.options["device_id"] == evaluation.options["device_id"] == 3
    assert training.options["exec_dynamic"]  # what Handover relies on
    for pipeline in (training, evaluation):
        for name in ("device_memory_padding", "host_memory_padding", "hw_decoder_load",
                     "preallocate_width_hint", "preallocate_height_hint", "mixed"):  # fmt: skip
            assert pipeline.holds(name), name
    for name in ("cache_size", "cache_threshold", "threshold", "RandomCropGenerator"):
        assert training.holds(name) == bool(cache), name
        assert not evaluation.holds(name), name
    assert training.holds("decoders__ImageRandomCrop") != bool(cache)


def make_imagenet(shards: int, decoded_bytes: int = 600_000) -> Manifest:
    """ImageNet's training images over shards, every image of that size."""
    ends = [1_281_167 * k // shards for k in range(shards + 1)]
    stored = tuple(
        Shard(f"{k}.rec", end - start, 1, "", decoded_bytes * (end - start))
        for k, (start, end) in enumerate(pairwise(ends))
    )
    other = StoredFile("x", 1, "")
    split = Split(1_281_167, other, other, stored)
    return Manifest(Path("/data"), 1, ("a",), split, split)


@pytest.mark.parametrize(
    ("shards", "ranks", "wanted"),
    [
        (32, 32, 22_910),  # 40,037 images of 600,000 bytes: 24.02 GB
        (16, 32, 24_055),  # half a shard each: 5 % more
        (16, 16, 42_288),  # 45,818 MiB are more than the limit
        (16, 8, 42_288),
    ],
)
def test_the_cache_is_sized_to_shard_and_memory(shards: int, ranks: int, wanted: int) -> None:
    """No more than the limit, and no more than the rank's images take."""
    options = make_options(decoded_cache_megabytes=42_288)
    for rank in (0, ranks // 2, ranks - 1):
        records = Records.of_split(make_imagenet(shards), "train", rank, ranks)
        found = fit_decoded_cache(options, records).decoded_cache_megabytes
        assert wanted - 1 <= found <= wanted
    assert fit_decoded_cache(make_options(), records).decoded_cache_megabytes == 0


def test_a_part_of_whole_shards_is_known_exactly() -> None:
    manifest = make_imagenet(4, 7)
    parts = [Records.of_split(manifest, "train", rank, 2) for rank in range(2)]
    assert sum(part.decoded_bytes for part in parts) == 7 * 1_281_167
    crossing = [Records.of_split(manifest, "train", rank, 3) for rank in range(3)]
    total = sum(part.decoded_bytes for part in crossing)
    assert 7 * 1_281_167 < total < 1.05 * 7 * 1_281_167


def test_a_gpus_pipeline_takes_the_fitted_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "Pipeline", Unbuilt)
    asked = []
    monkeypatch.setattr(Place, "decoded_cache", lambda place, size: asked.append(size) or {})
    images = [encode(Image.new("RGB", (700, 600))) for _ in range(3)]
    records = store(tmp_path, images)
    assert records.decoded_bytes == 3 * 700 * 600 * 3
    for limit in (2, 5000):
        build_training(records, make_options(decoded_cache_megabytes=limit), 2, 5, Place(0))
    assert asked == [2, 4]  # 3.78 MB


def test_a_cache_without_the_memory_for_it_is_refused() -> None:
    """Beside the model, before the clock, with both figures."""
    options = make_options(decoded_cache_megabytes=2000)
    check_free_memory(options, 2000 << 20)
    check_free_memory(make_options(), 0)
    with pytest.raises(InputError, match="is 2,000, but the GPU has 1,999 MiB free"):
        check_free_memory(options, (2000 << 20) - 1)


def test_the_gpus_settings_are_nvidias() -> None:
    """The hints of the published configurations, and none of them on a CPU."""
    gpu = Place(0)
    assert gpu.decoder_hints() == {
        "hw_decoder_load": 0.99,
        "preallocate_width_hint": 5980,
        "preallocate_height_hint": 6430,
        "device_memory_padding": 268_435_456,
        "host_memory_padding": 268_435_456,
        "bytes_per_sample_hint": 1_315_942,
    }
    # A resized crop and a normalised one, 224 x 224: bytes 3 channels, halves 4.
    assert gpu.buffer_hint(224 * 224 * 3) == {"bytes_per_sample_hint": 165_581}
    assert gpu.buffer_hint(224 * 224 * 4 * 2) == {"bytes_per_sample_hint": 441_549}
    assert gpu.decoded_cache(42_288) == {
        "cache_size": 42_288,
        "cache_type": "threshold",
        "cache_threshold": 0,
    }
    assert CPU.decoder_hints() == CPU.buffer_hint(1000) == {}
    with pytest.raises(InputError, match="decoded_cache_megabytes is 7"):
        CPU.decoded_cache(7)


def test_a_cache_that_mixes_up_sizes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("1.53.0", "2.1.1"):
        monkeypatch.setattr("nvidia.dali.__version__", version)
        with pytest.raises(InputError, match=rf"DALI {version} may mix up .* 2.2 or newer, or set"):
            Place(0).decoded_cache(7)
    for version in ("2.2.0", "2.10.0", "3.0.0dev"):
        monkeypatch.setattr("nvidia.dali.__version__", version)
        assert Place(0).decoded_cache(7)["cache_size"] == 7


def test_training_crops_move_over_the_whole_image(tmp_path: Path) -> None:
    """Small windows reach every corner."""
    windows, _ = sample_windows(tmp_path, 1000)
    left = np.minimum(windows[:, 0], windows[:, 1])
    right = np.maximum(windows[:, 0], windows[:, 1])
    assert left.min() < 0.02 and right.max() > 0.98 and left.max() > 0.6
    assert windows[:, 2].min() < 0.02 and windows[:, 3].max() > 0.98


@pytest.mark.parametrize("build", ["training", "evaluation"])
def test_channels_and_precision_of_the_output(tmp_path: Path, build: str) -> None:
    """fp16 agrees with fp32 to its rounding; a fourth channel holds zeros."""
    pixels = np.random.default_rng(1).integers(0, 256, (40, 44, 3), dtype=np.uint8)
    records = store(tmp_path, [encode(Image.fromarray(pixels))])

    def make(dtype: str, channels: int) -> np.ndarray:
        options = make_options(channels=channels)
        if build == "training":
            pipeline = build_training(records, options, 2, 5, CPU, dtype)
        else:
            pipeline = build_evaluation(records, options, 2, CPU, dtype)
        return np.asarray(pipeline.run()[0].as_tensor())

    full, half = make("fp32", 3), make("fp16", 4)
    assert full.shape == (2, 32, 32, 3) and full.dtype == np.float32
    assert half.shape == (2, 32, 32, 4) and half.dtype == np.float16
    assert not half[..., 3].any()
    np.testing.assert_allclose(half[..., :3], full, rtol=1e-3, atol=1e-3)


def test_the_normalised_values_are_those_of_the_specification(tmp_path: Path) -> None:
    """A plain image gives (value - mean) / std in RGB order."""
    image = Image.new("RGB", (36, 36), (10, 100, 200))
    records = store(tmp_path, [encode(image)])
    output, _ = build_evaluation(records, make_options(), 1, CPU).run()
    expected = (
        (10 - 0.485 * 255) / (0.229 * 255),
        (100 - 0.456 * 255) / (0.224 * 255),
        (200 - 0.406 * 255) / (0.225 * 255),
    )
    np.testing.assert_allclose(np.asarray(output.as_tensor())[0, 5, 7], expected, rtol=1e-5)


def test_building_touches_no_file(tmp_path: Path) -> None:
    """Pipelines over absent files are built; only asking for a batch meets their absence."""
    absent = Records((str(tmp_path / "no.rec"),), str(tmp_path / "no.idx"), 8, 0, 1, 0)
    for pipeline in (
        build_training(absent, make_options(), 2, 1, CPU),
        build_evaluation(absent, make_options(), 2, CPU),
    ):
        with pytest.raises(RuntimeError) as caught:
            pipeline.run()
        sentence = describe_failure(caught.value)
        assert "no.rec" in sentence and "\n" not in sentence


def test_the_undecodable_image_is_found_again(tmp_path: Path) -> None:
    """Whatever the batch it stops, file and byte offset lead to the broken image."""
    good = encode(Image.new("RGB", (40, 40), (9, 9, 9)), "JPEG")
    images = [good] * 9
    images[6] = good[: len(good) * 2 // 3]
    records = store(tmp_path, images)
    offset = len(frame_image(0, 0, good)) * 6
    batches = set()
    for seed in range(4):
        pipeline = build_training(records, make_options(), 2, seed, CPU)
        done = 0
        with pytest.raises(RuntimeError):
            while done < 20:
                pipeline.run()
                done += 1
        batches.add(done)
        found = find_undecodable(records, make_options(), 2, seed, done)
        assert found == (str(tmp_path / "x.rec"), offset)
    assert len(batches) > 1
