"""Makes the demonstration's photographs: twelve patterns under changing colour, light and clutter.

What tells the classes apart is the pattern alone. Colour, scale, turn, contrast, the pattern's
place, what covers it and the noise are drawn for every image, so that a network has to learn; and
a pattern repeats, so that a small random crop still shows its class, in gray as in colour.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.commands import InputError

Plane = NDArray[np.float32]
Pattern = Callable[[Plane, Plane], Plane]

SIDES_PIXELS = (72, 144)
PERIOD_PIXELS = (10.0, 14.0)
TURN_RADIANS = 0.08
CONTRAST = (0.5, 0.8)
NOISE = (0.01, 0.05)
COVERS = (0, 2)
COVERED_SHARE = (0.02, 0.08)
PATTERN_SHARE = (1.0, 1.8)  # of the image's area, as an ellipse: above about 1 it fills all of it
GRAY_SHARE, CMYK_SHARE = 0.06, 0.03
QUALITY = (78, 94)


def _soft(distance: Plane, width: float = 0.06) -> Plane:
    """Turn a signed distance (periods) into a filled area with soft edges: 1 inside, 0 outside."""
    return np.clip(0.5 - distance / (2 * width), 0, 1)


def _cell(x: Plane) -> Plane:
    """Place within the period, from -1/2 to 1/2."""
    return x - np.floor(x) - 0.5


def _ramp(x: Plane) -> Plane:
    """Triangle wave of period 1 between 0 and 1."""
    return 2 * np.abs(_cell(x))


def _radius(u: Plane, v: Plane) -> Plane:
    """Distance from the middle of the cell."""
    a, b = _cell(u), _cell(v)
    return np.sqrt(a * a + b * b)


def _bricks(u: Plane, v: Plane) -> Plane:
    row = np.floor(1.6 * v)
    across = np.abs(_cell(0.8 * u + 0.5 * row)) / 0.8
    along = np.abs(_cell(1.6 * v)) / 1.6
    return 1 - np.maximum(_soft(0.56 - across, 0.04), _soft(0.25 - along, 0.04))


def _checks(u: Plane, v: Plane) -> Plane:
    return _soft(np.sin(np.pi * 1.2 * u) * np.sin(np.pi * 1.2 * v) / np.pi)


def _crosses(u: Plane, v: Plane) -> Plane:
    a, b = np.abs(_cell(u)), np.abs(_cell(v))
    return np.maximum(_soft(np.maximum(a - 0.36, b - 0.11)), _soft(np.maximum(b - 0.36, a - 0.11)))


def _dots(u: Plane, v: Plane) -> Plane:
    row = np.floor(1.3 * v)
    return _soft(_radius(1.3 * u + 0.5 * row, 1.3 * v) - 0.27)


def _grid(u: Plane, v: Plane) -> Plane:
    return _soft(np.minimum(np.abs(_cell(u)), np.abs(_cell(v))) - 0.10)


def _rings(u: Plane, v: Plane) -> Plane:
    return _soft(np.abs(_radius(0.85 * u, 0.85 * v) - 0.31) - 0.09)


def _stripes_across(u: Plane, v: Plane) -> Plane:
    return _soft(_ramp(v) / 2 - 0.25)


def _stripes_down(u: Plane, v: Plane) -> Plane:
    return _soft(_ramp(u) / 2 - 0.25)


def _stripes_slanted(u: Plane, v: Plane) -> Plane:
    return _soft(_ramp((u + v) * math.sqrt(0.5)) / 2 - 0.25)


def _triangles(u: Plane, v: Plane) -> Plane:
    height = _cell(v) + 0.5
    return _soft(np.maximum(np.abs(_cell(u)) - 0.46 * height, np.abs(height - 0.5) - 0.42))


def _waves(u: Plane, v: Plane) -> Plane:
    return _soft(_ramp(1.2 * v + 0.35 * np.sin(2 * np.pi * 0.6 * u)) / 2 - 0.25)


def _zigzags(u: Plane, v: Plane) -> Plane:
    return _soft(_ramp(1.2 * u + 0.85 * _ramp(0.75 * v)) / 2 - 0.25)


PATTERNS: dict[str, Pattern] = {
    "bricks": _bricks,
    "checks": _checks,
    "crosses": _crosses,
    "dots": _dots,
    "grid": _grid,
    "rings": _rings,
    "stripes_across": _stripes_across,
    "stripes_down": _stripes_down,
    "stripes_slanted": _stripes_slanted,
    "triangles": _triangles,
    "waves": _waves,
    "zigzags": _zigzags,
}


def list_classes(classes: int) -> list[str]:
    """Name the classes' folders, in label order. Raises InputError for more than there are."""
    if not 2 <= classes <= len(PATTERNS):
        raise InputError(f"classes is {classes}: choose from 2 to {len(PATTERNS)}")
    names = sorted(PATTERNS)[:classes]
    return [f"n{number:08d}_{name}" for number, name in enumerate(names, 1)]


def make_images(folder: Path, seed: int, train_images: int, val_images: int, classes: int) -> None:
    """Make train/<class>/*.JPEG and val/<class>/*.JPEG in `folder`.

    The images depend on the seed alone, each by its split, class and number. The two folders
    appear when all their images are there. Raises InputError where one of them stands already or
    a count is unusable.
    """
    names = list_classes(classes)
    counts = {"train": train_images, "val": val_images}
    for split, count in counts.items():
        if count < classes:
            raise InputError(f"{count} {split} images are too few for {classes} classes")
        if (folder / split).exists():
            raise InputError(f"{folder / split} stands already: remove it or name another folder")
    part = folder / f".images.{os.getpid()}.part"
    try:
        for position, (split, count) in enumerate(counts.items()):
            for label, name in enumerate(names):
                (part / split / name).mkdir(parents=True)
                for number in range((count + classes - 1 - label) // classes):
                    generator = np.random.default_rng([seed, position, label, number])
                    path = part / split / name / f"{name[:9]}_{number:05d}.JPEG"
                    _save(make_image(PATTERNS[name[10:]], generator), path, generator)
        for split in counts:
            os.rename(part / split, folder / split)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def make_image(pattern: Pattern, generator: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one image of a pattern: (height, width, 3) RGB, sides within SIDES_PIXELS."""
    height, width = (int(side) for side in generator.integers(*SIDES_PIXELS, 2, endpoint=True))
    y, x = np.mgrid[:height, :width].astype(np.float32)
    colours = _draw_colours(generator)
    shares = _draw_pattern(pattern, x, y, generator)
    image = colours[0] + shares[..., None] * (colours[1] - colours[0])
    region = _draw_region(x, y, generator)[..., None]
    backdrop = _draw_backdrop(x, y, colours[0], generator)
    image = backdrop + region * (image - backdrop)
    for _ in range(generator.integers(*COVERS, endpoint=True)):
        _cover(image, x, y, generator)
    across, down = generator.normal(0, 0.25, 2).tolist()
    image *= (1 + across * (x / width - 0.5) + down * (y / height - 0.5))[..., None]
    noise = generator.standard_normal(image.shape, dtype=np.float32)
    image += generator.uniform(*NOISE) * noise
    return (255 * np.clip(image, 0, 1) + 0.5).astype(np.uint8, copy=False)


def _draw_colours(generator: np.random.Generator) -> Plane:
    """Draw two colours (2, 3) that differ in brightness, so that gray shows the pattern too."""
    contrast = generator.uniform(*CONTRAST)
    middle = generator.uniform(0.1 + contrast / 2, 0.9 - contrast / 2)
    tints = generator.uniform(-0.25, 0.25, (2, 3))
    tints -= tints.mean(axis=1, keepdims=True)
    levels = middle + generator.permutation([-0.5, 0.5]) * contrast
    return np.clip(levels[:, None] + tints, 0, 1).astype(np.float32)


def _draw_pattern(pattern: Pattern, x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    """Lay the pattern over the plane: shifted, scaled, stretched, turned a little, mirrored."""
    period = math.exp(generator.uniform(math.log(PERIOD_PIXELS[0]), math.log(PERIOD_PIXELS[1])))
    stretch = math.exp(generator.normal(0, 0.12))
    turn = generator.uniform(-TURN_RADIANS, TURN_RADIANS)
    right, down = generator.uniform(0, 1, 2).tolist()
    cosine, sine = math.cos(turn) / period, math.sin(turn) / period
    side = 1 if generator.uniform() < 0.5 else -1
    u = (side / stretch) * (cosine * x + sine * y) + right
    v = stretch * (cosine * y - sine * x) + down
    return pattern(u, v)


def _ellipse(x: Plane, y: Plane, share: float, generator: np.random.Generator) -> Plane:
    """Draw an ellipse of a share of the image's area somewhere: negative inside, 0 on its edge."""
    height, width = x.shape
    radius, aspect = math.sqrt(share / math.pi), math.exp(generator.normal(0, 0.3))
    right, down = generator.uniform(0.25, 0.75, 2).tolist()
    u = (x / width - right) / (radius * aspect)
    v = (y / height - down) / (radius / aspect)
    return np.sqrt(u * u + v * v) - 1


def _draw_region(x: Plane, y: Plane, generator: np.random.Generator) -> Plane:
    """Draw where the pattern shows: 1 inside, 0 outside."""
    return _soft(_ellipse(x, y, generator.uniform(*PATTERN_SHARE), generator), 0.04)


def _draw_backdrop(x: Plane, y: Plane, colour: Plane, generator: np.random.Generator) -> Plane:
    """Draw what lies behind: slow blotches between two colours, with no pattern to them."""
    height, width = x.shape
    total = np.zeros_like(x)
    for across, down in generator.normal(0, 7, (3, 2)).tolist():
        total += np.cos((across / width) * x + (down / height) * y + generator.uniform(0, 7))
    other = generator.uniform(0, 1, 3).astype(np.float32)
    return colour + (0.5 + total / 6)[..., None] * (other - colour)


def _cover(image: Plane, x: Plane, y: Plane, generator: np.random.Generator) -> None:
    """Lay a plain ellipse over the image, in place."""
    share = generator.uniform(*COVERED_SHARE)
    area = _soft(_ellipse(x, y, share, generator), 0.08)[..., None]
    image += area * (generator.uniform(0, 1, 3).astype(np.float32) - image)


def _save(pixels: NDArray[np.uint8], path: Path, generator: np.random.Generator) -> None:
    """Write a JPEG file: most in colour, a few in gray and in CMYK, as ImageNet has them."""
    image, kind = Image.fromarray(pixels), generator.uniform()
    if kind < GRAY_SHARE:
        image = image.convert("L")
    elif kind < GRAY_SHARE + CMYK_SHARE:
        image = image.convert("CMYK")
    image.save(path, "JPEG", quality=int(generator.integers(*QUALITY)))
