"""Reader of LevelDB's sorted tables, the form of a TensorFlow checkpoint's index.

Nothing in the file is believed: every length and offset is checked against what is there, every
block against its checksum, and what the blocks unfold to against bounds that no BERT comes near, so
that a few crafted bytes can claim neither memory nor time. Source of the format: LevelDB
doc/table_format.md, Snappy format_description.txt.
"""

from __future__ import annotations

from collections.abc import Iterator

from bert.crc32c import hash_crc32c, mask_crc

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # compression, masked CRC-32C
PLAIN, SNAPPY = 0, 1
# A checkpoint of BERT-large, optimizer slots included, has 1,197 entries and 90 KB of them.
LARGEST_TABLE_BYTES = 1 << 24  # of all blocks, decompressed; of all keys and values likewise
MOST_ENTRIES = 1 << 16
LONGEST_KEY_BYTES = 1 << 10


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
    if size > LARGEST_TABLE_BYTES:
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
    entries, place, key, count = block[:end], 0, b"", 0
    while place < end:
        shared, place = read_varint(entries, place)
        fresh, place = read_varint(entries, place)
        value_size, place = read_varint(entries, place)
        if shared > len(key):
            raise TableError("a key shares more than its forerunner has")
        tail, place = take(entries, place, fresh)
        value, place = take(entries, place, value_size)
        # A key that shares all of its forerunner and adds a byte would make the keys' lengths
        # grow with every entry, and their sum with the square.
        count += 1
        if shared + fresh > LONGEST_KEY_BYTES or count > MOST_ENTRIES:
            raise TableError("its keys are longer or more than any checkpoint's of BERT")
        key = key[:shared] + tail
        yield key, value


def read_handle(data: bytes, place: int) -> tuple[int, int, int]:
    """Read where a block lies: offset, size, and the place behind. Raises TableError."""
    offset, place = read_varint(data, place)
    size, place = read_varint(data, place)
    return offset, size, place


def iterate_entries(data: bytes, index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of the blocks that an index names. Raises TableError."""
    unread, decompressed_bytes = 0, 0
    for _, handle in iterate_block(index):
        offset, size, _ = read_handle(handle, 0)
        if offset < unread:
            raise TableError(f"the block at {offset} overlaps the one before it")
        unread = offset + size + TRAILER_BYTES
        block = read_block(data, offset, size)
        decompressed_bytes += len(block)
        if decompressed_bytes > LARGEST_TABLE_BYTES:
            raise TableError(f"its blocks hold more than {LARGEST_TABLE_BYTES} bytes")
        yield from iterate_block(block)


def read_table(data: bytes) -> dict[bytes, bytes]:
    """Return all keys and values of a table, in its order, which is the keys'.

    Raises TableError where anything is wrong, a key out of order or twice included.
    """
    footer = data[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or int.from_bytes(footer[-8:], "little") != MAGIC:
        raise TableError("it does not end as a table does")
    place = read_handle(footer, 0)[2]
    offset, size, _ = read_handle(footer, place)
    index = read_block(data, offset, size)
    table: dict[bytes, bytes] = {}
    last: bytes | None = None
    total_bytes = 0
    for key, value in iterate_entries(data, index):
        if last is not None and key <= last:
            raise TableError(f"the key {key[:80]!r} is out of order")
        # Keys share beginnings: together they may be longer than the blocks that hold them.
        total_bytes += len(key) + len(value)
        if total_bytes > LARGEST_TABLE_BYTES or len(table) == MOST_ENTRIES:
            raise TableError("it holds more than any checkpoint of BERT does")
        table[key] = value
        last = key
    return table
