"""Headers of JPEG and PNG files: enough to tell an image from something else, without decoding."""

from __future__ import annotations

import struct
from typing import NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
LONE_MARKERS = frozenset((0x01, *range(0xD0, 0xD8)))


class ImageHeader(NamedTuple):
    """Format ("jpeg" or "png"), size in pixels, and components a pixel (1 gray, 3, 4 CMYK)."""

    format: str
    width: int
    height: int
    components: int


def count_decoded_bytes(data: bytes) -> int:
    """Bytes of an image decoded to RGB, by its header; 0 where it is no image."""
    try:
        header = parse_header(data)
    except ValueError:
        return 0
    return 3 * header.width * header.height


def parse_header(data: bytes) -> ImageHeader:
    """Find an image's size and components. Source: ITU-T T.81 annex B, PNG specification 11.2.2.

    ImageNet names one PNG file .JPEG, so both formats are images here. Raises ValueError with
    what is wrong.
    """
    if data.startswith(PNG_SIGNATURE):
        return _parse_png(data)
    if not data.startswith(b"\xff\xd8"):
        raise ValueError("neither JPEG nor PNG" if data else "empty")
    position = 2
    while position + 4 <= len(data):
        if data[position] != 0xFF:
            raise ValueError(f"no JPEG marker at byte {position}")
        marker = data[position + 1]
        if marker == 0xFF or marker in LONE_MARKERS:
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in FRAME_MARKERS:
            return _parse_frame(data[position + 4 : position + 2 + length])
        if marker in (0xD9, 0xDA) or length < 2:
            break
        position += 2 + length
    raise ValueError("no JPEG frame header")


def _parse_frame(segment: bytes) -> ImageHeader:
    if len(segment) < 6:
        raise ValueError("JPEG frame header cut off")
    _, height, width, components = struct.unpack_from(">BHHB", segment)
    if not height or not width or components not in (1, 3, 4):
        raise ValueError(f"JPEG of {width}x{height} pixels with {components} components")
    return ImageHeader("jpeg", width, height, components)


def _parse_png(data: bytes) -> ImageHeader:
    if len(data) < 26 or data[12:16] != b"IHDR":
        raise ValueError("PNG header cut off")
    width, height, _, colour = struct.unpack_from(">IIBB", data, 16)
    components = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour, 0)
    if not height or not width or not components:
        raise ValueError(f"PNG of {width}x{height} pixels with colour type {colour}")
    return ImageHeader("png", width, height, components)
