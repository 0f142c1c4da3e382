"""The trainer's input: coverage, exactness, laziness, and sentences for damaged data."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from harness.commands import InputError
from resnet.data import EvaluationInput, InputOptions, TrainingInput, mix_seed
from resnet.measurements import count_untimed_batches, list_images
from resnet.pipeline_failures import hold_messages
from resnet.prepare_data import pack_folders
from resnet.shards import Manifest, read_manifest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT.parent / "shared" / "golden" / "resnet" / "eval_images"
OPTIONS = InputOptions(
    crop_size=16,
    resize_shorter=18,
    threads=1,
    prefetch_batches=2,
    shuffle_buffer_images=6,
    channels=3,
    decoded_cache_megabytes=0,
    validation_cache_megabytes=0,
    memory_mapped=True,
)
IMAGES = 23


def make_data(folder: Path, cut_off: tuple[str, int] | None = None) -> Manifest:
    """Pack 23 + 23 images in three shards, each of its own class, so that its label names it."""
    generator = np.random.default_rng(2)
    for split in ("train", "val"):
        for number in range(IMAGES):
            path = folder / "images" / split / f"n{number:03d}" / f"{split}_{number}.JPEG"
            path.parent.mkdir(parents=True)
            buffer = io.BytesIO()
            pixels = generator.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(buffer, "JPEG")
            data = buffer.getvalue()
            path.write_bytes(data[: len(data) // 2] if cut_off == (split, number) else data)
    images = folder / "images"
    return pack_folders(images / "train", images / "val", folder / "data", shards=3, seed=4)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    make_data(folder := tmp_path_factory.mktemp("packed"))
    return read_manifest(folder / "data")


def open_training(
    manifest: Manifest, rank: int, world_size: int, batch: int, seed: int = 1
) -> TrainingInput:
    training = TrainingInput(manifest, OPTIONS, rank, world_size, batch, seed, "cpu")
    training.open()
    return training


def draw_labels(training: TrainingInput, batches: int) -> list[int]:
    """Return the labels of the next batches, one after the other."""
    return [int(label) for _ in range(batches) for label in training.next()[1]]


@pytest.mark.parametrize(("world_size", "batch"), [(1, 4), (1, 23), (3, 2), (3, 5), (4, 2), (4, 7)])
def test_every_image_is_seen_once_an_epoch_from_the_start(
    manifest: Manifest, world_size: int, batch: int
) -> None:
    """After k epochs of ceil(N / global batch) steps each image has come at least k times."""
    steps = -(-IMAGES // (world_size * batch))
    inputs = [open_training(manifest, rank, world_size, batch) for rank in range(world_size)]
    counts: Counter[int] = Counter()
    for epoch in range(1, 5):
        for training in inputs:
            counts.update(draw_labels(training, steps))
        assert min(counts[label] for label in range(IMAGES)) >= epoch
        assert counts.total() == epoch * steps * world_size * batch


def test_a_pass_is_a_permutation_of_the_ranks_part_and_changes(manifest: Manifest) -> None:
    """No image comes twice before all have come; each pass has another order; parts differ."""
    parts = []
    for rank in range(3):
        training = open_training(manifest, rank, 3, 1)
        part = IMAGES * (rank + 1) // 3 - IMAGES * rank // 3
        passes = [draw_labels(training, part) for _ in range(4)]
        assert all(sorted(one) == sorted(set(passes[0])) for one in passes)
        assert len({tuple(one) for one in passes}) == 4
        parts += passes[0]
    assert sorted(parts) == list(range(IMAGES))


def test_the_order_depends_on_the_seed_and_repeats_with_it(manifest: Manifest) -> None:
    """The same seed gives the same stream of images and crops, another seed another."""
    first, again, other = (open_training(manifest, 0, 1, 5, seed) for seed in (1, 1, 2))
    streams = [[one.next() for _ in range(4)] for one in (first, again, other)]
    for (images, labels), (same_images, same_labels) in zip(streams[0], streams[1], strict=True):
        assert torch.equal(labels, same_labels) and torch.equal(images, same_images)
    joined = [torch.cat([labels for _, labels in stream]).tolist() for stream in streams]
    assert joined[0] != joined[2]


def test_ranks_and_runs_have_seeds_of_their_own() -> None:
    """All pairs of 40 runs and 40 ranks differ."""
    assert len({mix_seed(seed, rank) for seed in range(40) for rank in range(40)}) == 1600


def test_batches_are_channels_last_views_that_stay_as_they_are(manifest: Manifest) -> None:
    """float32 (B, C, H, W) over an NHWC buffer; batches kept for long are not written into."""
    training = open_training(manifest, 0, 1, 4)
    kept, copies = [], []
    for _ in range(30):
        images, labels = training.next()
        kept.append((images, labels))
        copies.append((images.clone(), labels.clone()))
    assert images.shape == (4, 3, 16, 16) and images.dtype == torch.float32
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (4,) and labels.dtype == torch.int64
    training.close()
    for (images, labels), (images_copy, labels_copy) in zip(kept, copies, strict=True):
        assert torch.equal(images, images_copy) and torch.equal(labels, labels_copy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_next_into_writes_the_next_batch_where_the_step_reads_it(
    manifest: Manifest, dtype: torch.dtype
) -> None:
    """The batches of `next`, cast; the tensors stay where they are, as a CUDA graph needs it."""
    training, same = open_training(manifest, 0, 1, 4), open_training(manifest, 0, 1, 4)
    images = torch.zeros(4, 16, 16, 3, dtype=dtype).permute(0, 3, 1, 2)
    labels = torch.zeros(4, dtype=torch.int64)
    places = images.data_ptr(), labels.data_ptr()
    for _ in range(9):
        training.next_into(images, labels)
        wanted, wanted_labels = same.next()
        assert torch.equal(images, wanted.to(dtype)) and torch.equal(labels, wanted_labels)
    assert (images.data_ptr(), labels.data_ptr()) == places and images.dtype == dtype
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_dali_writes_halves_for_a_run_in_halves(manifest: Manifest) -> None:
    """And what the step then reads is what casting would have made; bf16 comes as float32."""
    for dtype, made in ((torch.float16, torch.float16), (torch.bfloat16, torch.float32)):
        training = TrainingInput(manifest, OPTIONS, 0, 1, 4, 1, "cpu")
        validation = EvaluationInput(manifest, OPTIONS, 0, 1, 4, "cpu")
        training.prepare(dtype), validation.prepare(dtype)
        images, labels = training.next()
        same, same_labels = open_training(manifest, 0, 1, 4).next()
        assert images.dtype == made and torch.equal(labels, same_labels)
        assert torch.equal(images, same.to(made))
        assert next(iter(validation.epoch()))[0].dtype == made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("megabytes", [0, 1])
def test_epoch_into_gives_the_epoch_pass_after_pass(
    manifest: Manifest, megabytes: int, dtype: torch.dtype
) -> None:
    """Kept or made anew, whatever the caller does to the tensors, also after an early end."""
    options = replace(OPTIONS, validation_cache_megabytes=megabytes)
    validation = EvaluationInput(manifest, options, 1, 2, 5, "cpu")
    plain = EvaluationInput(manifest, OPTIONS, 1, 2, 5, "cpu")
    validation.prepare(dtype)
    for one in (validation, plain):
        one.open()
    images = torch.zeros(5, 16, 16, 3, dtype=dtype).permute(0, 3, 1, 2)
    labels = torch.zeros(5, dtype=torch.int64)
    places = images.data_ptr(), labels.data_ptr()
    for _ in validation.epoch_into(images, labels):
        break
    for _ in range(3):
        passes = zip(validation.epoch_into(images, labels), plain.epoch(), strict=True)
        for count, (wanted, wanted_labels, wanted_count) in passes:
            assert count == wanted_count and torch.equal(labels, wanted_labels)
            assert torch.equal(images, wanted.to(dtype))
            labels[count:] = -1
            images.zero_()
    assert (images.data_ptr(), labels.data_ptr()) == places


def test_kept_validation_images_are_made_once(manifest: Manifest) -> None:
    """After the first pass the pipeline is not asked again, and a rank without images is idle."""
    options = replace(OPTIONS, validation_cache_megabytes=1)
    validation = EvaluationInput(manifest, options, 0, 1, 5, "cpu")
    validation.open()
    images, labels = torch.zeros(5, 3, 16, 16), torch.zeros(5, dtype=torch.int64)
    assert sum(validation.epoch_into(images, labels)) == IMAGES
    validation._pipeline = None
    assert sum(validation.epoch_into(images, labels)) == IMAGES
    idle = EvaluationInput(manifest, options, 29, 30, 5, "cpu")
    idle.prepare()
    assert list(idle.epoch_into(images, labels)) == []


def test_a_cache_of_decoded_images_on_a_cpu_is_refused(manifest: Manifest) -> None:
    """Before the clock, by its key."""
    options = replace(OPTIONS, decoded_cache_megabytes=100)
    training = TrainingInput(manifest, options, 0, 1, 4, 1, "cpu")
    with pytest.raises(InputError, match=r"decoded_cache_megabytes is 100.*set it to 0"):
        training.prepare()


def test_too_little_room_for_validation_images_is_refused(manifest: Manifest) -> None:
    """Before the clock, with what they need."""
    options = replace(OPTIONS, crop_size=224, resize_shorter=256, validation_cache_megabytes=1)
    validation = EvaluationInput(manifest, options, 0, 1, 4, "cpu")
    with pytest.raises(InputError, match="validation_cache_megabytes is 1, but a rank's 6"):
        validation.prepare()


def test_read_shards_give_the_stream_of_mapped_ones(manifest: Manifest) -> None:
    """`memory_mapped = false` changes how bytes come, not which."""
    streams = []
    for mapped in (True, False):
        options = replace(OPTIONS, memory_mapped=mapped)
        training = TrainingInput(manifest, options, 0, 1, 5, 3, "cpu")
        training.open()
        streams.append([training.next() for _ in range(6)])
    for (images, labels), (same, same_labels) in zip(*streams, strict=True):
        assert torch.equal(images, same) and torch.equal(labels, same_labels)


def list_open_files(folder: Path) -> list[str]:
    """List files under `folder` that this process has open or mapped."""
    found = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            continue
    found += [line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()]
    return [name for name in found if name.startswith(str(folder))]


def test_nothing_of_the_data_is_open_before_the_first_batch(tmp_path: Path) -> None:
    """The clock starts before the data is touched: prepare() builds, next() reads."""
    make_data(tmp_path)
    manifest = read_manifest(tmp_path / "data")
    training = TrainingInput(manifest, OPTIONS, 0, 2, 4, 1, "cpu")
    validation = EvaluationInput(manifest, OPTIONS, 0, 2, 4, "cpu")
    training.prepare()
    validation.prepare()
    assert list_open_files(tmp_path) == []
    training.open()
    assert list_open_files(tmp_path) == []
    training.next()
    assert any(name.endswith(".rec") for name in list_open_files(tmp_path))


@pytest.mark.parametrize("world_size", [1, 3, 4, 30])
@pytest.mark.parametrize("batch", [2, 7, 11, 40])
def test_evaluation_gives_every_image_once(manifest: Manifest, world_size: int, batch: int) -> None:
    """Pass after pass, whatever does not divide, even with more ranks than images."""
    inputs = []
    for rank in range(world_size):
        validation = EvaluationInput(manifest, OPTIONS, rank, world_size, batch, "cpu")
        validation.open()
        inputs.append(validation)
    for _ in range(3):
        seen: Counter[int] = Counter()
        for validation in inputs:
            for images, labels, count in validation.epoch():
                assert images.shape == (batch, 3, 16, 16) and labels.shape == (batch,)
                assert 1 <= count <= batch
                seen.update(labels[:count].tolist())
        assert seen == Counter(range(IMAGES))


@pytest.mark.parametrize(("world_size", "counts"), [(16, {3125}), (32, {1562, 1563})])
def test_imagenets_validation_images_are_shared_out(
    manifest: Manifest, world_size: int, counts: set[int]
) -> None:
    """50,000 over 16 and 32 ranks: 16 batches of 204 or 102 on each, none without a real image."""
    imagenet = replace(manifest, val=replace(manifest.val, images=50_000))
    batch = 3264 // world_size
    inputs = [
        EvaluationInput(imagenet, OPTIONS, rank, world_size, batch, "cpu")
        for rank in range(world_size)
    ]
    assert {one.images for one in inputs} == counts
    assert sum(one.images for one in inputs) == 50_000
    assert {one.padded_batches for one in inputs} == {16}
    assert {-(-one.images // batch) for one in inputs} == {16}


def test_evaluation_is_the_same_every_pass_and_survives_an_early_end(manifest: Manifest) -> None:
    """No randomness in it; a pass left after one batch does not shift the next."""
    validation = EvaluationInput(manifest, OPTIONS, 1, 2, 5, "cpu")
    validation.open()
    first = [(images.clone(), labels.clone()) for images, labels, _ in validation.epoch()]
    for _ in validation.epoch():
        break
    second = list(validation.epoch())
    assert len(first) == len(second) == 3
    for (images, labels), (again, labels_again, _) in zip(first, second, strict=True):
        assert torch.equal(images, again) and torch.equal(labels, labels_again)


def test_a_damaged_training_image_is_named(tmp_path: Path) -> None:
    """One sentence with the shard, the original name and the command that finds all of them."""
    make_data(tmp_path, cut_off=("train", 17))
    manifest = read_manifest(tmp_path / "data")
    training = open_training(manifest, 0, 1, 4)
    with pytest.raises(InputError) as caught:
        draw_labels(training, 20)
    sentence = str(caught.value)
    assert "n017/train_17.JPEG" in sentence and "-of-00003.rec" in sentence
    assert "python -m resnet.prepare_data verify" in sentence and "\n" not in sentence


def test_a_damaged_validation_image_is_one_sentence(tmp_path: Path) -> None:
    """Evaluation stops with the command that finds the image."""
    make_data(tmp_path, cut_off=("val", 3))
    validation = EvaluationInput(read_manifest(tmp_path / "data"), OPTIONS, 0, 1, 4, "cpu")
    validation.open()
    with pytest.raises(InputError, match=r"resnet\.prepare_data verify") as caught:
        list(validation.epoch())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("Can't allocate 9000 bytes on device 3.", "Can't allocate 9000 bytes on device 3"),
        ("CUDA runtime API error cudaErrorIllegalAddress (700):\nan illegal memory access",
         "CUDA runtime API error cudaErrorIllegalAddress (700)"),
    ],
)  # fmt: skip
def test_a_gpus_fault_is_no_images(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch, words: str, shown: str
) -> None:
    """No image is looked for, and none is told to be checked."""
    told = (
        "Critical error in pipeline:\nError in mixed operator `nvidia.dali.fn.decoders.image`,\n"
        f"encountered:\n\n{words}\nCurrent pipeline object is no longer valid."
    )

    def fail(*_: object) -> None:
        raise RuntimeError(told)

    training = open_training(manifest, 0, 1, 4)
    training._pipeline = SimpleNamespace(schedule_run=lambda: None, share_outputs=fail)
    monkeypatch.setattr("resnet.pipeline_failures.find_undecodable", fail)
    with pytest.raises(InputError) as caught:
        training.next()
    sentence = str(caught.value)
    assert sentence.startswith(f"the GPU of rank 0 failed while train images were made ({shown}): ")
    assert "decoded_cache_megabytes" in sentence and "verify" not in sentence


def test_an_index_that_lacks_images_is_refused(tmp_path: Path) -> None:
    """The same number of bytes, fewer lines: the reader's count is held against the manifest."""
    make_data(tmp_path)
    index = tmp_path / "data" / "val.idx"
    lines = index.read_text().splitlines()
    index.write_text("\n".join(lines[:-1]) + "\n" + " " * len(lines[-1]) + "\n")
    validation = EvaluationInput(read_manifest(tmp_path / "data"), OPTIONS, 0, 1, 4, "cpu")
    with pytest.raises(InputError, match="22 validation images, the manifest 23"):
        validation.open()


def test_more_ranks_than_training_images_are_refused(manifest: Manifest) -> None:
    """A rank without a single image could not make a batch."""
    with pytest.raises(InputError, match="too few for 24 ranks"):
        TrainingInput(manifest, OPTIONS, 0, 24, 1, 1, "cpu")


@pytest.mark.parametrize(
    ("change", "words"),
    [({"crop_size": 0}, "crop_size"), ({"channels": 5}, "channels"), ({"threads": 0}, "threads"),
     ({"resize_shorter": 15}, "resize_shorter"), ({"decoded_cache_megabytes": -1}, "decoded_cache"),
     ({"validation_cache_megabytes": -1}, "validation_cache")],
)  # fmt: skip
def test_unusable_options_are_refused(change: dict[str, int], words: str) -> None:
    """Each by its key."""
    values = {name: getattr(OPTIONS, name) for name in OPTIONS.__dataclass_fields__}
    with pytest.raises(ValueError, match=words):
        InputOptions(**{**values, **change})


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m resnet.data`."""
    command = [sys.executable, "-m", "resnet.data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_throughput_command_prints_one_json_document(manifest: Manifest, split: str) -> None:
    """A positive rate, and nothing else on stdout."""
    result = run("throughput", "--data", manifest.folder, "--split", split, "--seconds", 0.2,
                 "--batch-size", 8, "--threads", 1, "--json")  # fmt: skip
    assert result.returncode == 0, result.stderr
    table = json.loads(result.stdout)
    assert table["images_per_second"] > 0 and table["split"] == split
    assert table["images"] / table["seconds"] == pytest.approx(table["images_per_second"])


def test_the_throughput_of_a_configuration_is_that_of_a_ranks_input(
    manifest: Manifest, tmp_path: Path
) -> None:
    """Batch, format, threads and all else as a run reads them; the rank's own share."""
    text = (ROOT / "resnet" / "configs" / "demo.toml").read_text()
    for old, new in (
        ("crop_size = 64", "crop_size = 16"),
        ('"fp32"', '"bf16"'),
        ("threads = 1", "threads = 2"),
        ("memory_mapped = true", "memory_mapped = false"),
        ("validation_cache_megabytes = 0", "validation_cache_megabytes = 9"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    file = tmp_path / "run.toml"
    file.write_text(text)
    shared = ("throughput", "--data", manifest.folder, "--config", file, "--seconds", 0.1)
    result = run(*shared, "--rank", 1, "--ranks", 3, "--json")
    assert result.returncode == 0, result.stderr
    table = json.loads(result.stdout)
    wanted = {
        **{"rank": 1, "ranks": 3, "format": "bf16", "batch_size": 16, "crop_size": 16},
        **{"resize_shorter": 73, "threads": 2, "prefetch_batches": 2, "channels": 4},
        **{"shuffle_buffer_images": 512, "decoded_cache_megabytes": 0},
        **{"validation_cache_megabytes": 0, "memory_mapped": False, "untimed_images": 48},
    }
    assert {key: table[key] for key in wanted} == wanted
    for more, words in (
        (("--threads", 2, "--format", "bf16"), "leave out --threads, --format"),
        (("--rank", 3, "--ranks", 3), "--rank 3 is not one of 3"),
        (("--ranks", 24), "24 ranks are more than the train images"),
        (("--gpu", 0), "GPU 0 cannot be used, torch finds 0"),
        (("--threads", 10**20), "--threads: 100000000000000000000 is not between 1 and 10,000,000"),
    ):
        result = run(*shared, *more)
        assert result.returncode == 2 and words in result.stderr, result.stderr
        assert result.stderr.count("\n") == 1


def test_the_pass_that_fills_the_cache_is_not_timed() -> None:
    """A rank of 32 with the cache makes a whole pass first; others what is made ahead."""
    without = replace(OPTIONS, prefetch_batches=3)
    share = 1_281_167 * 32 // 32 - 1_281_167 * 31 // 32
    assert share == 40_037
    assert count_untimed_batches(without, share, 102) == 4
    cached = replace(without, decoded_cache_megabytes=1)
    assert count_untimed_batches(cached, share, 102) * 102 >= share
    assert count_untimed_batches(cached, share, 102) == 393  # an epoch of a run
    assert count_untimed_batches(cached, 10, 102) == 4


def test_wrong_calls_are_one_sentence(manifest: Manifest, tmp_path: Path) -> None:
    """No data, no images, sizes that do not fit: status 2, one line, no file."""
    (tmp_path / "empty").mkdir()
    target = tmp_path / "x.npz"
    for arguments in (
        ("throughput", "--data", tmp_path / "none", "--json"),
        ("throughput", "--data", manifest.folder, "--crop-size", 300),
        ("evaluate-images", tmp_path / "empty", "--npz", target),
        ("evaluate-images", tmp_path / "none", "--npz", target),
    ):
        result = run(*arguments)
        assert result.returncode == 2 and result.stdout == ""
        assert result.stderr.count("\n") == 1, result.stderr
    assert not target.exists()


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    """evaluate-images says which file stopped it and leaves nothing behind."""
    Image.effect_noise((300, 300), 60).save(tmp_path / "a.jpg")
    for content in (b"no image", (tmp_path / "a.jpg").read_bytes()[:9000]):
        (tmp_path / "b.jpg").write_bytes(content)
        result = run("evaluate-images", tmp_path, "--npz", tmp_path / "x.npz")
        assert result.returncode == 2 and "b.jpg cannot be decoded" in result.stderr
        assert result.stderr.count("\n") == 1, result.stderr  # the decoder's own lines are dropped
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.jpg"]


def test_messages_of_libraries_are_held_back_and_dropped_where_we_say_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with hold_messages() as screen:
        os.write(2, b"a library's warning\n")
        print("progress", file=screen, flush=True)
        assert capfd.readouterr().err == "progress\n"
    assert capfd.readouterr().err == "a library's warning\n"
    with pytest.raises(InputError), hold_messages():
        os.write(2, b"a library's error\n")
        raise InputError("what is wrong")
    assert capfd.readouterr().err == ""
    with pytest.raises(RuntimeError), hold_messages():
        os.write(2, b"a library's error\n")
        raise RuntimeError("a defect of ours")
    assert capfd.readouterr().err == "a library's error\n"


def test_only_files_that_can_be_opened_are_taken_for_images(tmp_path: Path) -> None:
    """DALI reads ahead: a file that cannot be read would be told of the image before it."""
    for name in ("b.JPG", "a.jpeg"):
        Image.new("RGB", (300, 300)).save(tmp_path / name, format="JPEG")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "notes.txt").write_text("no image")
    assert [path.name for path in list_images(tmp_path)] == ["a.jpeg", "b.JPG"]
    odd = tmp_path / "c.jpg"
    odd.write_bytes(b"")
    with pytest.raises(InputError, match="is empty: put"):
        list_images(tmp_path)
    odd.unlink()
    os.mkfifo(odd)
    with pytest.raises(InputError, match="is no file: put"):
        list_images(tmp_path)
    odd.unlink()
    odd.symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        list_images(tmp_path)
    odd.unlink()
    Path(os.fsdecode(bytes(tmp_path) + b"/c\xff.jpg")).write_bytes(b"x")
    with pytest.raises(InputError, match=r"c\\udcff.jpg' is not UTF-8, which"):
        list_images(tmp_path)


def smooth(image: np.ndarray) -> np.ndarray:
    """Smooth with a 9x9 box, the edges left out."""
    sums = np.cumsum(np.cumsum(np.pad(image.astype(np.float64), ((1, 0), (1, 0), (0, 0))), 0), 1)
    return (sums[9:, 9:] - sums[:-9, 9:] - sums[9:, :-9] + sums[:-9, :-9]) / 81


@pytest.mark.skipif(not GOLDEN.is_dir(), reason=f"{GOLDEN} does not stand")
def test_evaluation_images_agree_with_the_reference(tmp_path: Path) -> None:
    """The reference's own output, after smoothing, for all of its image kinds."""
    result = run("evaluate-images", GOLDEN, "--npz", tmp_path / "own.npz")
    assert result.returncode == 0, result.stderr
    with np.load(GOLDEN / "eval_224.npz", allow_pickle=False) as golden:
        reference = {name: golden[name] for name in golden.files}
    with np.load(tmp_path / "own.npz", allow_pickle=False) as own:
        images = {name: own[name] for name in own.files}
    assert images.keys() == reference.keys() and len(images) == 7
    for name, image in images.items():
        assert image.shape == (224, 224, 3) and image.dtype == np.float32
        ours, theirs = smooth(image), smooth(reference[name])
        assert np.abs(ours - theirs).mean() < 5.0, name
        assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.993, name
