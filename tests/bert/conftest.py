"""What tests of the checkpoint readers share: a writer of small tables."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bert.crc32c import hash_crc32c, mask_crc

MAGIC = 0xDB4775248B80FB57


def write_varint(value: int) -> bytes:
    octets = bytearray()
    while value >= 0x80:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*octets, value])


def write_block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Entries with shared beginnings left out, one restart point."""
    block, last = b"", b""
    for key, value in entries:
        shared = 0
        while shared < min(len(key), len(last)) and key[shared] == last[shared]:
            shared += 1
        for number in (shared, len(key) - shared, len(value)):
            block += write_varint(number)
        block += key[shared:] + value
        last = key
    return block + bytes(4) + (1).to_bytes(4, "little")


def frame_block(block: bytes, kind: int) -> bytes:
    content = block + bytes([kind])
    return content + mask_crc(hash_crc32c(content)).to_bytes(4, "little")


class TableWriter:
    """Writes a table of sorted entries; `compress` and its kind apply to every block."""

    def __init__(self, compress: Callable[[bytes], bytes] = bytes, kind: int = 0) -> None:
        self.compress, self.kind = compress, kind

    def write(self, entries: list[tuple[bytes, bytes]], per_block: int = 4) -> bytes:
        data, index = b"", []
        for first in range(0, len(entries), per_block):
            part = entries[first : first + per_block]
            handle, data = self._append(data, write_block(part))
            index.append((part[-1][0], handle))
        meta, data = self._append(data, write_block([]))
        handle, data = self._append(data, write_block(index))
        return data + (meta + handle).ljust(40, b"\0") + MAGIC.to_bytes(8, "little")

    def _append(self, data: bytes, block: bytes) -> tuple[bytes, bytes]:
        block = self.compress(block)
        handle = write_varint(len(data)) + write_varint(len(block))
        return handle, data + frame_block(block, self.kind)


@pytest.fixture
def table_writer() -> type[TableWriter]:
    return TableWriter
