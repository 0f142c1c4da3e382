"""Reads fields of one struct array from a MATLAB 5 file, such as `meta.mat` of ImageNet's devkit.

Every length is held against what is there and the unpacked size has a limit, so that a damaged
or hostile file ends in a sentence. scipy.io.loadmat of scipy 1.17.1, which knows the whole
format, ended in a segmentation fault on files with a few changed bytes.
Source: MathWorks, "MAT-File Format", level 5.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

HEADER_BYTES = 128
UNPACKED_BYTES_LIMIT = 1 << 26
ELEMENTS_LIMIT = 1 << 20
MATRIX, COMPRESSED, UTF8 = 14, 15, 16
CHARACTERS, STRUCT = 4, 2  # classes of an array
NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16", UTF8: "utf-8", 17: "utf-16"}

Value = str | float


class Element(NamedTuple):
    """One data element: its type and its bytes."""

    type: int
    data: memoryview


class _Reader:
    """Takes data elements from the start of a stretch of bytes."""

    def __init__(self, data: memoryview, order: str) -> None:
        self.data, self.order, self.position = data, order, 0

    def is_done(self) -> bool:
        """True where no byte is left."""
        return self.position >= len(self.data)

    def take(self, what: str) -> Element:
        """Take the next element; ValueError naming `what` where it is cut off."""
        start = self.position
        if start + 8 > len(self.data):
            raise ValueError(f"{what} is cut off")
        word, size = struct.unpack_from(f"{self.order}II", self.data, start)
        if word >> 16:  # the short form: type, size and up to 4 bytes in 8
            kind, size, start = word & 0xFFFF, word >> 16, start + 4
            end = self.position + 8
            if size > 4:
                raise ValueError(f"{what} has a short element of {size} bytes")
        else:
            kind, start = word, start + 8
            end = start + size + (0 if kind == COMPRESSED else -size % 8)
        if start + size > len(self.data):
            raise ValueError(f"{what} is cut off")
        self.position = end
        return Element(kind, self.data[start : start + size])

    def open(self, data: memoryview) -> _Reader:
        """Read inside of an element, in the same byte order."""
        return _Reader(data, self.order)

    def integers(self, what: str) -> tuple[int, ...]:
        """Take an element of whole numbers; ValueError for another type."""
        element = self.take(what)
        if NUMBERS.get(element.type, "d") in "fd":
            raise ValueError(f"{what} is not a list of whole numbers")
        return tuple(int(number) for number in self.numbers(element, what))

    def numbers(self, element: Element, what: str) -> tuple[float, ...]:
        """Read an element of numbers; ValueError for another type."""
        code = NUMBERS.get(element.type)
        if code is None or len(element.data) % struct.calcsize(f"={code}"):
            raise ValueError(f"{what} is not a list of numbers")
        count = len(element.data) // struct.calcsize(f"={code}")
        return struct.unpack(f"{self.order}{count}{code}", element.data)

    def text(self, element: Element, what: str) -> str:
        """Read an element of characters; ValueError for another type."""
        encoding = TEXTS.get(element.type)
        if encoding is None:
            raise ValueError(f"{what} is not a text")
        if encoding == "utf-16":
            encoding = "utf-16-le" if self.order == "<" else "utf-16-be"
        return bytes(element.data).decode(encoding)  # UnicodeDecodeError is a ValueError


class _Array(NamedTuple):
    """Head of an array: its class, number of elements and name; `body` reads what follows."""

    kind: int
    elements: int
    name: str
    body: _Reader


def read_struct(data: bytes, variable: str, fields: Sequence[str]) -> list[tuple[Value, ...]]:
    """Read `fields` of every element of a struct array, a text or one number each.

    Raises ValueError with what is wrong: another format, no such variable or field, a field that
    holds something else, more than 64 MiB unpacked, anything cut off.
    """
    if len(data) < HEADER_BYTES or data[126:128] not in (b"IM", b"MI"):
        raise ValueError("not a MATLAB 5 file")
    reader = _Reader(memoryview(data)[HEADER_BYTES:], "<" if data[126:128] == b"IM" else ">")
    for element in _list_elements(reader):
        if element.type != MATRIX:
            continue
        array = _open_array(reader.open(element.data))
        if array.name == variable:
            return list(_read_elements(array, fields))
    raise ValueError(f"no variable {variable!r}")


def _list_elements(reader: _Reader) -> Iterator[Element]:
    left = UNPACKED_BYTES_LIMIT
    while not reader.is_done():
        element = reader.take("a variable")
        if element.type == COMPRESSED:
            unpacked = _unpack(element.data, left)
            left -= len(unpacked)
            element = reader.open(memoryview(unpacked)).take("a compressed variable")
        yield element


def _unpack(data: memoryview, limit: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise ValueError(f"a compressed variable is damaged ({error})") from None
    if len(unpacked) > limit:
        raise ValueError(f"more than {UNPACKED_BYTES_LIMIT >> 20} MiB when unpacked")
    if not stream.eof:
        raise ValueError("a compressed variable is cut off")
    return unpacked


def _open_array(body: _Reader) -> _Array:
    flags, sizes = body.integers("an array's flags"), body.integers("an array's size")
    if not flags or len(sizes) < 2 or min(sizes) < 0:
        raise ValueError("an array's head is damaged")
    name = body.text(body.take("an array's name"), "an array's name")
    return _Array(flags[0] & 0xFF, math.prod(sizes), name, body)


def _read_elements(array: _Array, fields: Sequence[str]) -> Iterator[tuple[Value, ...]]:
    body, name = array.body, array.name
    if array.kind != STRUCT:
        raise ValueError(f"{name!r} is not a struct array")
    lengths = body.integers(f"{name}'s field length")
    if len(lengths) != 1 or not 1 <= lengths[0] <= 64:
        raise ValueError(f"{name}'s field length is damaged")
    names = body.text(body.take(f"{name}'s field names"), f"{name}'s field names")
    step = lengths[0]
    found = [names[k : k + step].partition("\0")[0] for k in range(0, len(names), step)]
    for field in fields:
        if field not in found:
            raise ValueError(f"{name!r} has no field {field!r}")
    if array.elements > ELEMENTS_LIMIT:
        raise ValueError(f"{name!r} has more than {ELEMENTS_LIMIT:,} elements")
    for number in range(1, array.elements + 1):
        values: dict[str, Value] = {}
        for field in found:
            element = body.take(f"{name}({number}).{field}")
            if field in fields:
                values[field] = _read_value(body, element, f"{name}({number}).{field}")
        yield tuple(values[field] for field in fields)


def _read_value(reader: _Reader, element: Element, what: str) -> Value:
    """Read an array that holds one text or one number."""
    if element.type != MATRIX or not len(element.data):
        raise ValueError(f"{what} is empty")
    array = _open_array(reader.open(element.data))
    content = array.body.take(what)
    if array.kind == CHARACTERS:
        return array.body.text(content, what)
    numbers = array.body.numbers(content, what)
    if len(numbers) != 1 or array.elements != 1:
        raise ValueError(f"{what} is not one number")
    return numbers[0]
