"""Writes the same images as class folders, TFRecord, tar shards and RecordIO, for DALI's readers.

Small writers of our own, so that a measurement needs neither TensorFlow nor webdataset. Formats:
tensorflow `core/lib/io/record_writer.h` and `example.proto`; POSIX tar with DALI's `wds2idx`
index (version 1.2); `resnet/shards.py` for RecordIO.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

from bert.crc32c import hash_crc32c, mask_crc
from resnet.shards import frame_image

Images = Sequence[tuple[bytes, int]]
TAR_BLOCK_BYTES = 512


def write_files(folder: Path, images: Images) -> None:
    """One JPEG file an image, in a folder a class, as ImageNet is extracted."""
    for number, (image, label) in enumerate(images):
        place = folder / f"n{label:08d}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:08d}.JPEG").write_bytes(image)


def write_recordio(folder: Path, images: Images) -> None:
    """`images.rec` and `images.idx`."""
    offset, lines = 0, []
    with open(folder / "images.rec", "wb") as file:
        for number, (image, label) in enumerate(images):
            lines.append(f"{number}\t{offset}\n")
            offset += file.write(frame_image(label, number, image))
    (folder / "images.idx").write_text("".join(lines), encoding="ascii")


def write_tfrecord(folder: Path, images: Images) -> None:
    """`images.tfrecord` and `images.tfrecord.idx` (offset and size of each record)."""
    offset, lines = 0, []
    with open(folder / "images.tfrecord", "wb") as file:
        for image, label in images:
            record = frame_record(encode_example(image, label))
            lines.append(f"{offset} {len(record)}\n")
            offset += file.write(record)
    (folder / "images.tfrecord.idx").write_text("".join(lines), encoding="ascii")


def write_webdataset(folder: Path, images: Images) -> None:
    """`images.tar`, members NUMBER.jpg and NUMBER.cls, and `images.tar.idx`."""
    lines = []
    with tarfile.open(folder / "images.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, (image, label) in enumerate(images):
            parts = []
            for suffix, content in (("jpg", image), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                member.size = len(content)
                start = archive.offset + TAR_BLOCK_BYTES
                archive.addfile(member, io.BytesIO(content))
                parts.append(f"{suffix} {start} {len(content)} {member.name}")
            lines.append(" ".join(parts) + "\n")
    header = f"v1.2 {len(lines)}\n"
    (folder / "images.tar.idx").write_text(header + "".join(lines), encoding="ascii")


def frame_record(payload: bytes) -> bytes:
    """A TFRecord: length, its masked checksum, payload, its masked checksum."""
    length = len(payload).to_bytes(8, "little")
    return length + mask_checksum(length) + payload + mask_checksum(payload)


def mask_checksum(content: bytes) -> bytes:
    """A checksum as TensorFlow stores it."""
    return mask_crc(hash_crc32c(content)).to_bytes(4, "little")


def encode_example(image: bytes, label: int) -> bytes:
    """A `tf.train.Example` with `image/encoded` (bytes) and `image/class/label` (int64)."""
    encoded = field(1, field(1, image))
    number = field(3, field(1, variable_length(label)))
    features = [(b"image/encoded", encoded), (b"image/class/label", number)]
    entries = [field(1, field(1, name) + field(2, value)) for name, value in features]
    return field(1, b"".join(entries))


def field(number: int, content: bytes) -> bytes:
    """A protocol buffer's length-delimited field."""
    return variable_length(number << 3 | 2) + variable_length(len(content)) + content


def variable_length(value: int) -> bytes:
    """A protocol buffer's unsigned number, 7 bits a byte."""
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])
