"""Reader of LevelDB's sorted tables, the form of a TensorFlow checkpoint's index.

Nothing in the file is believed: every length and offset is checked against what is there, every
block against its checksum. Source of the format: LevelDB doc/table_format.md, Snappy
format_description.txt.
"""

from __future__ import annotations

from collections.abc import Iterator

from bert.crc32c import hash_crc32c, mask_crc

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # compression, masked CRC-32C
PLAIN, SNAPPY = 0, 1
LARGEST_BLOCK_BYTES = 1 << 26


class TableError(ValueError):
    """The bytes are not a sound table; the message says where."""


def read_varint(data: bytes, place: int) -> tuple[int, int]:
    """Read a variable-length number; returns it and the place behind it. Raises TableError."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise TableError("a number is cut off")
        octet = data[place]
        place += 1
        value |= (octet & 0x7F) << shift
        if octet < 0x80:
            if value >= 1 << 64:
                raise TableError("a number has more than 64 bits")
            return value, place
    raise TableError("a number has more than 64 bits")


def take(data: bytes, place: int, count: int) -> tuple[bytes, int]:
    """Return `count` bytes from `place` on and the place behind them. Raises TableError."""
    if count > len(data) - place:
        raise TableError("a length reaches beyond the end")
    return data[place : place + count], place + count


def decompress_snappy(data: bytes) -> bytes:
    """Undo Snappy's compression of one block. Raises TableError."""
    size, place = read_varint(data, 0)
    if size > LARGEST_BLOCK_BYTES:
        raise TableError(f"a block claims {size} bytes")
    output = bytearray()
    while place < len(data):
        tag = data[place]
        place += 1
        if tag & 3 == 0:
            length = tag >> 2
            if length >= 60:
                width = length - 59
                number, place = take(data, place, width)
                length = int.from_bytes(number, "little")
            piece, place = take(data, place, length + 1)
            output += piece
        else:
            if tag & 3 == 1:
                length, high, width = (tag >> 2 & 7) + 4, tag >> 5, 1
            else:
                length, high, width = (tag >> 2) + 1, 0, 2 if tag & 3 == 2 else 4
            number, place = take(data, place, width)
            offset = high << 8 | int.from_bytes(number, "little")
            if not 0 < offset <= len(output):
                raise TableError("a copy reaches before the beginning")
            # A copy may overlap what it writes: then it repeats the last `offset` bytes.
            piece = bytes(output[-offset:][:length])
            output += (piece * (length // len(piece) + 1))[:length]
        if len(output) > size:
            raise TableError("a block is longer than it claims")
    if len(output) != size:
        raise TableError("a block is shorter than it claims")
    return bytes(output)


def read_block(data: bytes, offset: int, size: int) -> bytes:
    """Return a block's content, checked and decompressed. Raises TableError."""
    if offset + size + TRAILER_BYTES > len(data) - FOOTER_BYTES:
        raise TableError(f"a block of {size} bytes at {offset} lies outside the file")
    content = data[offset : offset + size + 1]
    stored = data[offset + size + 1 : offset + size + TRAILER_BYTES]
    if mask_crc(hash_crc32c(content)) != int.from_bytes(stored, "little"):
        raise TableError(f"the block at {offset} does not match its checksum")
    if content[-1] == PLAIN:
        return content[:-1]
    if content[-1] == SNAPPY:
        return decompress_snappy(content[:-1])
    raise TableError(f"the block at {offset} has the unknown compression {content[-1]}")


def iterate_block(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block, keys made whole again. Raises TableError."""
    if len(block) < 4:
        raise TableError("a block is cut off")
    end = len(block) - 4 * (int.from_bytes(block[-4:], "little") + 1)
    if end < 0:
        raise TableError("a block's restart points reach beyond it")
    entries, place, key = block[:end], 0, b""
    while place < end:
        shared, place = read_varint(entries, place)
        fresh, place = read_varint(entries, place)
        value_size, place = read_varint(entries, place)
        if shared > len(key):
            raise TableError("a key shares more than its forerunner has")
        tail, place = take(entries, place, fresh)
        value, place = take(entries, place, value_size)
        key = key[:shared] + tail
        yield key, value


def read_handle(data: bytes, place: int) -> tuple[int, int, int]:
    """Read where a block lies: offset, size, and the place behind. Raises TableError."""
    offset, place = read_varint(data, place)
    size, place = read_varint(data, place)
    return offset, size, place


def read_table(data: bytes) -> dict[bytes, bytes]:
    """Return all keys and values of a table, in its order, which is the keys'.

    Raises TableError where anything is wrong, a key out of order or twice included.
    """
    footer = data[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise TableError("it does not end as a table does")
    place = read_handle(footer, 0)[2]
    offset, size, _ = read_handle(footer, place)
    table: dict[bytes, bytes] = {}
    last: bytes | None = None
    for _, handle in iterate_block(read_block(data, offset, size)):
        offset, size, _ = read_handle(handle, 0)
        for key, value in iterate_block(read_block(data, offset, size)):
            if last is not None and key <= last:
                raise TableError(f"the key {key[:80]!r} is out of order")
            table[key] = value
            last = key
    return table
