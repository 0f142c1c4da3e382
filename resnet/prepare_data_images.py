"""What `pack` packs: a list of images and a way to read each, whatever they are stored as."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple, Protocol

from harness.commands import InputError
from resnet.devkit import Truth
from resnet.prepare_data_headers import parse_header

VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.ASCII)
# ILSVRC 2012's classes in the order of their labels: how many, the first, the last.
IMAGENET_CLASSES, IMAGENET_FIRST, IMAGENET_LAST = 1000, "n01440764", "n15075141"


class Image(NamedTuple):
    """A source image.

    name: class/file; size: in bytes; changed: when, in ns; place: sorting by it is the order
    in which the images lie in their file or folder.
    """

    name: str
    size: int
    changed: int
    place: int

    def find_class(self) -> str:
        """Return the class that the name says."""
        return self.name.partition("/")[0]


class ImageSet(Protocol):
    """The images of one split. `path` is what the user named, `mend` what helps a bad image."""

    path: Path
    mend: str
    images: list[Image]

    def read(self, image: Image) -> bytes:
        """Read an image's bytes; several threads may."""


def read_image(source: ImageSet, image: Image) -> bytes:
    """Read an image's bytes. Raises InputError where they are not a JPEG (or PNG) image."""
    data = source.read(image)
    try:
        parse_header(data)
    except ValueError as error:
        raise InputError(
            f"{source.path}: {image.name} is not an image ({error}): {source.mend}"
        ) from None
    return data


def find_classes(train: ImageSet, val: ImageSet) -> tuple[str, ...]:
    """Return the classes in the order of their labels: ascending names, the same in both splits.

    Raises InputError where they differ, or where 1000 WordNet ids are not ImageNet's.
    """
    listed = [{image.find_class() for image in source.images} for source in (train, val)]
    for name in sorted(listed[0] ^ listed[1]):
        has, lacks = (train, val) if name in listed[0] else (val, train)
        raise InputError(
            f"class {name} stands in {has.path} but not in {lacks.path}: "
            f"both must have the same classes"
        )
    classes = tuple(sorted(listed[0]))
    wordnet = all(re.fullmatch(r"n\d{8}", name) for name in classes)
    if wordnet and len(classes) == IMAGENET_CLASSES:
        ends = (classes[0], classes[-1])
        if ends != (IMAGENET_FIRST, IMAGENET_LAST):
            raise InputError(
                f"{train.path}: its 1000 classes go from {ends[0]} to {ends[1]} where ILSVRC "
                f"2012's go from {IMAGENET_FIRST} to {IMAGENET_LAST}: name the 2012 data"
            )
    return classes


def name_validation_images(
    found: dict[int, Image], truth: Truth, path: Path, mend: str
) -> list[Image]:
    """Put the class that the truth says in front of each validation image's file name.

    found: images by the number in their names. Raises InputError unless the numbers are
    1 ... the number of lines of the truth.
    """
    wanted = len(truth.wordnet_ids)
    for number in sorted(found):
        if not 1 <= number <= wanted:
            raise InputError(
                f"{path} has an image {number} where {truth.path} has {wanted:,} classes: {mend}"
            )
    for number in range(1, wanted + 1):
        if number not in found:
            raise InputError(
                f"{path} has no ILSVRC2012_val_{number:08d}.JPEG, whose class is in "
                f"{truth.path}: {mend}"
            )
    return [
        found[number]._replace(name=f"{name}/{found[number].name}")
        for number, name in enumerate(truth.wordnet_ids, 1)
    ]
