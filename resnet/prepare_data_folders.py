"""Extracted images for `pack`: folders of classes, or a folder of validation images."""

from __future__ import annotations

import os
from pathlib import Path

from harness.commands import InputError
from resnet.devkit import Truth
from resnet.prepare_data_images import VALIDATION_NAME, Image, name_validation_images

IMAGE_SUFFIXES = (".jpeg", ".jpg")
EXTRACT = "extract ILSVRC2012_img_val.tar again"
PUT_BACK = "put the original back"


class ClassFolders:
    """Images as <folder>/<class>/*.JPEG.

    Raises InputError where a class is empty or something that is not a JPEG file lies among the
    images; with `truth` also where a validation image lies in another class's folder.
    """

    def __init__(self, path: Path, truth: Truth | None = None) -> None:
        self.path, self.mend = path, PUT_BACK
        self.images: list[Image] = []
        for name in _list_classes(path):
            for image in _list_files(path / name):
                if truth is not None:
                    _check_class(path, name, image.name, truth)
                place = len(self.images)
                self.images.append(image._replace(name=f"{name}/{image.name}", place=place))

    def read(self, image: Image) -> bytes:
        """Read an image's file."""
        return (self.path / image.name).read_bytes()


class FlatFolder:
    """Validation images without class folders, their classes from `truth`.

    Raises InputError unless the folder holds each of the truth's images and nothing else.
    """

    def __init__(self, path: Path, truth: Truth) -> None:
        self.path, self.mend = path, PUT_BACK
        found: dict[int, Image] = {}
        for image in _list_files(path):
            match = VALIDATION_NAME.fullmatch(image.name)
            if match is None:
                raise InputError(
                    f"{path}: {image.name!r} is not a validation image such as "
                    f"ILSVRC2012_val_00000001.JPEG: move it away"
                )
            found[int(match[1])] = image._replace(place=len(found))
        self.images = name_validation_images(found, truth, path, EXTRACT)

    def read(self, image: Image) -> bytes:
        """Read an image's file."""
        return (self.path / image.name.partition("/")[2]).read_bytes()


def is_flat(path: Path) -> bool:
    """True for a folder with validation images directly in it."""
    with os.scandir(path) as entries:
        return any(VALIDATION_NAME.fullmatch(item.name) for item in entries)


def _check_class(path: Path, name: str, file: str, truth: Truth) -> None:
    match = VALIDATION_NAME.fullmatch(file)
    number = int(match[1]) if match else 0
    if not 1 <= number <= len(truth.wordnet_ids):
        raise InputError(f"{path}: {name}/{file} is not in {truth.path}: move it away")
    if truth.wordnet_ids[number - 1] != name:
        raise InputError(
            f"{path}: {name}/{file} is of class {truth.wordnet_ids[number - 1]}, says "
            f"{truth.path}: sort the validation images into class folders again"
        )


def _list_classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name the one that holds the class folders")
    with os.scandir(folder) as entries:
        names = sorted(item.name for item in entries if item.is_dir() and item.name[0] != ".")
    if not names:
        raise InputError(f"{folder} holds no class folders: name the one that does")
    return names


def _list_files(folder: Path) -> list[Image]:
    """List a folder's images in the order of their names, `name` being the file's alone."""
    images = []
    with os.scandir(folder) as entries:
        for item in entries:
            if item.name[0] == ".":
                continue
            plain = item.name.isprintable() and item.is_file()
            if not plain or not item.name.lower().endswith(IMAGE_SUFFIXES):
                raise InputError(f"{folder}: {item.name!r} is not a .JPEG file: move it away")
            status = item.stat()
            images.append(Image(item.name, status.st_size, status.st_mtime_ns, 0))
    if not images:
        raise InputError(f"{folder} holds no images: extract this class again")
    return sorted(images)
