"""The table reader: what is written is read, plain and compressed; hostile bytes are refused."""

from __future__ import annotations

import random
from typing import Any

import pytest

from bert import leveldb_table
from bert.crc32c import hash_crc32c, mask_crc
from bert.leveldb_table import (
    PLAIN,
    SNAPPY,
    TableError,
    decompress_snappy,
    iterate_block,
    read_table,
    read_varint,
)
from tests.bert.checkpoint_files import frame_table
from tests.bert.conftest import write_block, write_varint

ENTRIES = [(f"bert/layer_{i:03d}/kernel".encode(), bytes([i]) * (i % 40)) for i in range(90)]


def compress_as_literals(block: bytes) -> bytes:
    """Snappy's simplest form: the length, then stretches of at most 60 bytes as they are."""
    size, output = len(block), bytearray()
    while size >= 0x80:
        output.append(size & 0x7F | 0x80)
        size >>= 7
    output.append(size)
    for first in range(0, len(block), 60):
        piece = block[first : first + 60]
        output += bytes([(len(piece) - 1) << 2]) + piece
    return bytes(output)


@pytest.mark.parametrize("per_block", [1, 4, 90])
@pytest.mark.parametrize(("compress", "kind"), [(bytes, PLAIN), (compress_as_literals, SNAPPY)])
def test_round_trip(table_writer: Any, compress: Any, kind: int, per_block: int) -> None:
    data = table_writer(compress, kind).write(ENTRIES, per_block)
    assert list(read_table(data).items()) == ENTRIES


@pytest.mark.parametrize(
    ("stream", "output"),
    [
        ("00", b""),
        ("05 10 68656c6c6f", b"hello"),
        # A literal of 4 bytes, then 4 + 3 copied from 4 back with one byte of offset.
        ("0b 0c 61626364 0d 04", b"abcdabcdabc"),
        # The same with two bytes and with four bytes of offset.
        ("0b 0c 61626364 1a 0400", b"abcdabcdabc"),
        ("0b 0c 61626364 1b 04000000", b"abcdabcdabc"),
        # A copy from one back repeats one byte.
        ("09 00 7a 1e 0100", b"zzzzzzzzz"),
        # Literals with one and two bytes of length.
        ("3d f0 3c" + "78" * 61, b"x" * 61),
        ("ac02 f4 2b01" + "79" * 300, b"y" * 300),
        # The high bits of a one-byte offset: 256 back.
        ("8402 f0 ff" + bytes(range(256)).hex() + "21 00", bytes([*range(256), *range(4)])),
    ],
)
def test_snappy_streams(stream: str, output: bytes) -> None:
    assert decompress_snappy(bytes.fromhex(stream)) == output


@pytest.mark.parametrize(
    "stream",
    [
        "",
        "ff",
        "ff ff ff ff 7f",  # claims 32 GiB
        "05 10 6865",  # a literal cut off
        "05 f4 ff",  # a length cut off
        "04 0d 04",  # a copy before the beginning
        "08 0c 61626364 0d 05",  # a copy from further back than there is
        "08 0c 61626364 1a 0000",  # a copy from nowhere
        "04 10 68656c6c6f",  # longer than it claims
        "06 10 68656c6c6f",  # shorter than it claims
        "ff ff ff 1f " + "00 78" + " fe 0100" * 3,  # claims more than it makes
    ],
)
def test_snappy_streams_that_are_none(stream: str) -> None:
    with pytest.raises(TableError):
        decompress_snappy(bytes.fromhex(stream))


def test_numbers() -> None:
    assert read_varint(b"\x7f", 0) == (127, 1)
    assert read_varint(b"\x00\xac\x02", 1) == (300, 3)
    assert read_varint(b"\xff" * 9 + b"\x01", 0) == (2**64 - 1, 10)
    for content in (b"", b"\x80", b"\xff" * 9 + b"\x02", b"\xff" * 11):
        with pytest.raises(TableError):
            read_varint(content, 0)


def test_every_flipped_byte_is_refused_or_without_effect(table_writer: Any) -> None:
    data = table_writer().write(ENTRIES[:12])
    whole = read_table(data)
    unnoticed = 0
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 0x41
        try:
            table = read_table(bytes(changed))
        except TableError:
            continue
        assert table == whole
        unnoticed += 1
    # Only the metaindex, which nobody reads, and the footer's padding may change.
    assert unnoticed <= 13 + 40


def test_every_cut_is_refused(table_writer: Any) -> None:
    data = table_writer().write(ENTRIES[:10])
    for length in range(len(data)):
        with pytest.raises(TableError):
            read_table(data[:length])


def test_order_and_repetition_are_refused(table_writer: Any) -> None:
    for entries in ([(b"b", b""), (b"a", b"")], [(b"a", b"1"), (b"a", b"2")]):
        with pytest.raises(TableError, match="out of order"):
            read_table(table_writer().write(entries))


def test_unknown_compression_is_refused(table_writer: Any) -> None:
    with pytest.raises(TableError, match="unknown compression 7"):
        read_table(table_writer(bytes, 7).write(ENTRIES))


def test_hostile_blocks_with_right_checksums_never_fail_otherwise(table_writer: Any) -> None:
    rng = random.Random(5)
    data = table_writer().write(ENTRIES[:8], 8)
    block_bytes = next(size for size in range(1, len(data)) if is_framed(data[: size + 4]))
    outcomes = set()
    for _ in range(400):
        block = bytearray(data[:block_bytes])
        for _ in range(rng.randint(1, 3)):
            block[rng.randrange(len(block) - 1)] = rng.choice((0, 1, 127, 128, 255))
        crc = mask_crc(hash_crc32c(bytes(block))).to_bytes(4, "little")
        try:
            read_table(bytes(block) + crc + data[block_bytes + 4 :])
            outcomes.add("read")
        except TableError:
            outcomes.add("refused")
    assert "refused" in outcomes


def is_framed(data: bytes) -> bool:
    """Whether the bytes are a block with its trailer."""
    return mask_crc(hash_crc32c(data[:-4])) == int.from_bytes(data[-4:], "little")


@pytest.mark.parametrize("block", [b"", b"abc", b"\xff\xff\xff\xff", bytes(4) + b"\x09\0\0\0"])
def test_blocks_without_room_for_their_restart_points(block: bytes) -> None:
    with pytest.raises(TableError):
        list(iterate_block(block))


def test_a_block_read_again_and_again_is_refused() -> None:
    block = write_block(ENTRIES[:2])
    assert read_table(frame_table([block], [(0, len(block))])) == dict(ENTRIES[:2])
    empty = write_block([])
    for handles in ([(0, len(empty))] * 2, [(0, len(empty)), (1, len(empty))]):
        with pytest.raises(TableError, match="overlaps the one before"):
            read_table(frame_table([empty], handles))


@pytest.mark.parametrize("offset", [1, 10_000, (1 << 64) - 1])
def test_a_block_outside_the_file_is_refused(offset: int) -> None:
    block = write_block(ENTRIES[:2])
    for handle in ((offset, 10_000), (0, (1 << 64) - 1)):
        with pytest.raises(TableError, match="lies outside the file"):
            read_table(frame_table([block], [handle]))


def test_keys_that_grow_with_every_entry_are_refused() -> None:
    """Four bytes an entry, yet the n-th key has n: together they would have the square."""
    entry = b"".join(
        write_varint(number) + b"\x01\x00a" for number in range(leveldb_table.LONGEST_KEY_BYTES + 1)
    )
    with pytest.raises(TableError, match="longer or more"):
        list(iterate_block(entry + bytes(4) + (1).to_bytes(4, "little")))


def test_what_blocks_unfold_to_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(blocks: list[bytes], kind: int = PLAIN) -> dict[bytes, bytes]:
        places = [sum(len(b) + 5 for b in blocks[:i]) for i in range(len(blocks))]
        handles = [(place, len(b)) for place, b in zip(places, blocks, strict=True)]
        return read_table(frame_table(blocks, handles, kind))

    blocks = [write_block(ENTRIES[first : first + 5]) for first in (0, 5, 10)]
    assert read(blocks) == dict(ENTRIES[:15])
    held = sum(len(key) + len(value) for key, value in ENTRIES[:15])
    monkeypatch.setattr(leveldb_table, "LARGEST_TABLE_BYTES", held - 1)
    with pytest.raises(TableError, match="more than any checkpoint"):
        read(blocks)
    empty = [compress_as_literals(write_block([]))] * 3
    monkeypatch.setattr(leveldb_table, "LARGEST_TABLE_BYTES", 23)
    with pytest.raises(TableError, match="hold more than 23 bytes"):
        read(empty, SNAPPY)
    monkeypatch.undo()
    monkeypatch.setattr(leveldb_table, "MOST_ENTRIES", 14)
    with pytest.raises(TableError, match="more than any checkpoint"):
        read(blocks)
