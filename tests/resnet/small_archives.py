"""Small archives of the structure of ImageNet's downloads, and the same images in folders."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CLASSES = ("n02110341", "n01440764", "n03000001")
TRAIN_COUNTS = (5, 7, 9)
# The devkit's numbers are in another order than the WordNet ids, and it lists ancestors too.
NUMBERS = {2: "n01440764", 1: "n03000001", 3: "n02110341", 4: "n00001740"}
GROUND_TRUTH = (3, 1, 2, 2, 1, 3, 2)
FIELDS = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children")


class Archives(NamedTuple):
    """The three downloads."""

    train: Path
    val: Path
    devkit: Path


def encode_image(generator: np.random.Generator, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """Return a small random image's file."""
    shape = (*generator.integers(8, 24, 2), 3)
    image = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def make_images() -> tuple[dict[str, dict[str, bytes]], dict[str, bytes]]:
    """Return training images by class and name, validation images by name."""
    generator = np.random.default_rng(7)
    train = {
        name: {f"{name}_{10 * k}.JPEG": encode_image(generator) for k in range(count)}
        for name, count in zip(CLASSES, TRAIN_COUNTS, strict=True)
    }
    val = {
        f"ILSVRC2012_val_{number:08d}.JPEG": encode_image(generator)
        for number in range(1, len(GROUND_TRUTH) + 1)
    }
    return train, val


def make_tar(members: dict[str, bytes], **options: object) -> bytes:
    """Return a tar archive of plain files, as tar writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", **options) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def make_train_tar(train: dict[str, dict[str, bytes]]) -> bytes:
    """Return the tar of class tars."""
    return make_tar({f"{name}.tar": make_tar(images) for name, images in train.items()})


# -- MATLAB 5 files as MATLAB writes them: whole numbers in the shortest form, compressed ----------


def make_element(kind: int, data: bytes, order: str = "<") -> bytes:
    """Return a data element; one of up to 4 bytes in the short form."""
    if len(data) <= 4 and kind != 14:
        word = struct.pack(f"{order}I", len(data) << 16 | kind)
        return word + data + bytes(4 - len(data))
    return struct.pack(f"{order}II", kind, len(data)) + data + bytes(-len(data) % 8)


def make_array(
    kind: int, sizes: tuple[int, ...], content: bytes, name: str = "", order: str = "<"
) -> bytes:
    """Return an array of class `kind`."""
    body = make_element(6, struct.pack(f"{order}II", kind, 0), order)
    body += make_element(5, struct.pack(f"{order}{len(sizes)}i", *sizes), order)
    return make_element(14, body + make_element(1, name.encode(), order) + content, order)


def make_value(value: str | int, order: str = "<") -> bytes:
    """Return a text or a whole number as an array."""
    if isinstance(value, str):
        text = value.encode("utf-16-le" if order == "<" else "utf-16-be")
        return make_array(4, (1, len(value)), make_element(4, text, order), order=order)
    code, kind = ("B", 2) if value < 256 else ("H", 4)
    return make_array(
        6, (1, 1), make_element(kind, struct.pack(f"{order}{code}", value), order), order=order
    )


def make_meta(
    rows: list[tuple[str | int, ...]],
    fields: tuple[str, ...] = FIELDS,
    compress: bool = True,
    order: str = "<",
    name: str = "synsets",
) -> bytes:
    """Return a MATLAB 5 file with one struct array, after a variable that nobody wants."""
    content = make_element(5, struct.pack(f"{order}i", 32), order)
    content += make_element(1, b"".join(field.encode().ljust(32, b"\0") for field in fields), order)
    content += b"".join(make_value(value, order) for row in rows for value in row)
    variables = [
        make_array(6, (1, 1), make_element(2, b"\7", order), "other", order),
        make_array(2, (len(rows), 1), content, name, order),
    ]
    head = b"MATLAB 5.0 MAT-file".ljust(124, b" ")
    head += struct.pack(f"{order}H", 0x0100) + (b"IM" if order == "<" else b"MI")
    for variable in variables:
        packed = zlib.compress(variable)
        head += struct.pack(f"{order}II", 15, len(packed)) + packed if compress else variable
    return head


def make_rows(numbers: dict[int, str]) -> list[tuple[str | int, ...]]:
    """Return rows of the devkit's struct array."""
    return [(number, name, "a, b", "what it is", 0, 0) for number, name in numbers.items()]


def make_devkit(meta: bytes, truth: bytes) -> bytes:
    """Return the devkit's archive."""
    folder = "ILSVRC2012_devkit_t12"
    members = {
        f"{folder}/readme.txt": b"read me",
        f"{folder}/data/meta.mat": meta,
        f"{folder}/data/ILSVRC2012_validation_ground_truth.txt": truth,
    }
    return gzip.compress(make_tar(members), mtime=0)


def write_archives(folder: Path) -> Archives:
    """Write the three downloads."""
    folder.mkdir(parents=True, exist_ok=True)
    train, val = make_images()
    archives = Archives(
        folder / "ILSVRC2012_img_train.tar",
        folder / "ILSVRC2012_img_val.tar",
        folder / "ILSVRC2012_devkit_t12.tar.gz",
    )
    archives.train.write_bytes(make_train_tar(train))
    archives.val.write_bytes(make_tar(val))
    truth = "".join(f"{number}\n" for number in GROUND_TRUTH).encode()
    archives.devkit.write_bytes(make_devkit(make_meta(make_rows(NUMBERS)), truth))
    return archives


def write_folders(folder: Path) -> tuple[Path, Path]:
    """Write the same images as class folders."""
    train, val = make_images()
    for name, images in train.items():
        (folder / "train" / name).mkdir(parents=True)
        for file, data in images.items():
            (folder / "train" / name / file).write_bytes(data)
    for (file, data), number in zip(val.items(), GROUND_TRUTH, strict=True):
        place = folder / "val" / NUMBERS[number]
        place.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(data)
    return folder / "train", folder / "val"
