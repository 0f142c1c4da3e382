"""The demonstration's images: reproducible, of many kinds, to be learnt but not at a glance."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import images
from demo.images import list_classes, make_images
from harness.commands import InputError
from resnet.prepare_data import main, pack_folders


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_images(folder, seed=5, train_images=365, val_images=120, classes=12)
    return folder


def read_all(folder: Path) -> dict[str, bytes]:
    """Read every file under a folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_counts_and_names(made: Path) -> None:
    """All images are there, spread evenly over the same classes in both splits, and no more."""
    assert sorted(path.name for path in made.iterdir()) == ["train", "val"]
    for split, count in (("train", 365), ("val", 120)):
        assert sorted(path.name for path in (made / split).iterdir()) == list_classes(12)
        sizes = [len(list(path.iterdir())) for path in (made / split).iterdir()]
        assert sum(sizes) == count and max(sizes) - min(sizes) <= 1
    assert list_classes(12) == sorted(list_classes(12))


def test_the_seed_alone_decides_every_byte(tmp_path: Path) -> None:
    """Two makings agree; another seed, and the other split, have no image in common."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        make_images(tmp_path / name, seed, train_images=24, val_images=12, classes=12)
    first, again, other = (read_all(tmp_path / name) for name in "abc")
    assert first == again and first.keys() == other.keys()
    assert len({*first.values(), *other.values()}) == 2 * 36


def test_images_are_of_many_shapes_and_kinds(made: Path) -> None:
    """Landscape and portrait, colour, a few in gray and in CMYK; small files."""
    modes: Counter[str] = Counter()
    shapes, sizes = [], []
    for path in made.rglob("*.JPEG"):
        with Image.open(path) as image:
            assert image.format == "JPEG"
            modes[image.mode] += 1
            shapes.append(image.size)
        sizes.append(path.stat().st_size)
    assert set(modes) == {"RGB", "L", "CMYK"} and modes["RGB"] > 0.8 * modes.total()
    widths, heights = np.array(shapes).T
    assert min(widths.min(), heights.min()) >= 48 and max(widths.max(), heights.max()) <= 160
    assert 0.3 < (widths > heights).mean() < 0.7
    assert 4_000 < np.mean(sizes) < 8_000


def read_gray(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read 64x64 gray centre crops (N, 64, 64), each of mean 0 and spread 1, and labels (N,)."""
    crops, labels = [], []
    for label, name in enumerate(list_classes(12)):
        for path in sorted((folder / name).iterdir()):
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("L"), dtype=np.float64)
            top, left = ((side - 64) // 2 for side in pixels.shape)
            crop = pixels[top : top + 64, left : left + 64]
            crops.append((crop - crop.mean()) / crop.std())
            labels.append(label)
    return np.stack(crops), np.array(labels)


def test_a_small_gray_crop_shows_the_class_but_not_pixel_by_pixel(made: Path) -> None:
    """Which frequencies an image has tells its class often; its pixels are far from the target.

    Nearest class mean of the smoothed spectrum, against nearest neighbour in pixels; chance is
    1 in 12.
    """
    (train, train_labels), (val, val_labels) = (read_gray(made / s) for s in ("train", "val"))

    def spectrum(crops: np.ndarray) -> np.ndarray:
        power = np.log1p(np.abs(np.fft.fftshift(np.fft.fft2(crops), axes=(1, 2))))
        return power.reshape(len(crops), 32, 2, 32, 2).mean(axis=(2, 4)).reshape(len(crops), -1)

    means = np.stack([spectrum(train)[train_labels == k].mean(axis=0) for k in range(12)])
    distances = ((spectrum(val)[:, None] - means) ** 2).sum(axis=2)
    by_spectrum = (distances.argmin(axis=1) == val_labels).mean()
    flat_train, flat_val = train.reshape(len(train), -1), val.reshape(len(val), -1)
    nearest = (flat_val @ flat_train.T).argmax(axis=1)
    by_pixels = (train_labels[nearest] == val_labels).mean()
    assert by_pixels < 0.6 < by_spectrum < 0.97


def test_the_images_pack_and_decode(made: Path, tmp_path: Path) -> None:
    """What is made here is a data set like any other."""
    pack_folders(made / "train", made / "val", tmp_path / "data", shards=2, seed=1)
    assert main(["verify", str(tmp_path / "data"), "--decode"]) == 0


def test_folders_that_stand_are_left_alone(tmp_path: Path) -> None:
    """A folder train might be somebody's ImageNet."""
    (tmp_path / "train" / "n01440764").mkdir(parents=True)
    with pytest.raises(InputError, match="stands already"):
        make_images(tmp_path, seed=1, train_images=24, val_images=12, classes=12)
    assert list(tmp_path.iterdir()) == [tmp_path / "train"]


def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk in the middle: no folder train, no remains."""
    save, calls = images._save, []

    def fail_later(*arguments) -> None:  # type: ignore[no-untyped-def]
        calls.append(arguments)
        if len(calls) > 30:
            raise OSError(28, "No space left on device")
        save(*arguments)

    monkeypatch.setattr(images, "_save", fail_later)
    with pytest.raises(OSError):
        make_images(tmp_path, seed=1, train_images=24, val_images=12, classes=12)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("train_images", "classes"), [(11, 12), (100, 13), (100, 1)])
def test_unusable_counts_are_refused(tmp_path: Path, train_images: int, classes: int) -> None:
    """Every class needs an image, and there are twelve patterns."""
    with pytest.raises(InputError, match="class"):
        make_images(tmp_path, 1, train_images, val_images=50, classes=classes)
    assert list(tmp_path.iterdir()) == []
