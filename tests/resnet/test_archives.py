"""Members of tar archives by their headers: every format tar writes, and every way to be wrong."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from harness.commands import InputError
from resnet.archives import Archive, Member, Region, list_members
from tests.resnet.small_archives import make_tar

FILES = {"a.JPEG": b"a" * 700, "b.JPEG": b"", "c" * 150 + ".JPEG": b"c" * 512}


def list_all(data: bytes, start: int = 0, size: int | None = None) -> list[Member]:
    def read_at(offset: int, count: int) -> bytes:
        assert offset >= 0 and count >= 0
        return data[offset : offset + count]

    region = Region(read_at, start, len(data) - start if size is None else size)
    return list(list_members(region, "x.tar", "get it again"))


def refuse(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        list_all(data)
    assert str(caught.value).startswith("x.tar") and "\n" not in str(caught.value)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_where_the_archive_says(format: int) -> None:
    """Long names too, and in a stretch of a larger file."""
    files = dict(list(FILES.items())[: 2 if format == tarfile.USTAR_FORMAT else 3])
    data = make_tar(files, format=format)
    for before, after in ((b"", b""), (b"x" * 999, b"y" * 4096)):
        whole = before + data + after
        members = list_all(whole, len(before), len(data))
        assert {m.name: whole[m.offset : m.offset + m.size] for m in members} == files


def make_special(kind: bytes, link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("special")
        info.type, info.linkname = kind, link
        archive.addfile(info)
    return buffer.getvalue()


def test_only_files_and_folders_are_members() -> None:
    assert list_all(make_special(tarfile.DIRTYPE)) == []
    assert list_all(make_tar({})) == []
    refuse(make_special(tarfile.SYMTYPE, "/etc/passwd"), "'special' is a link, not a plain file")
    refuse(make_special(tarfile.LNKTYPE, "a"), "'special' is a link")
    refuse(make_special(tarfile.CHRTYPE), "'special' is a device")
    refuse(make_special(tarfile.FIFOTYPE), "'special' is a device")
    refuse(make_special(tarfile.GNUTYPE_SPARSE), "'special' is a sparse file|damaged")


def test_an_archive_that_ends_early_or_late_is_refused() -> None:
    """Cut within a header, a file, the end mark; without an end; with more behind it."""
    data = make_tar(FILES, format=tarfile.GNU_FORMAT)
    end = len(data.rstrip(b"\0"))
    assert end % 512 == 0
    refuse(b"", "is empty")
    refuse(b"no archive" * 100, "not a tar archive")
    for size in (100, 600, 1000, 1537, 2048, 3000, end - 1, end, end + 511):
        refuse(data[:size], "cut off|not a tar archive|damaged")
    assert len(list_all(data[: end + 512])) == 3  # one block of zeros is enough of an end
    refuse(data + make_tar(FILES), "goes on behind its end mark")
    refuse(data + bytes(1 << 20), "goes on behind its end mark")
    refuse(data + b"x", "goes on behind its end mark")


def patch_header(data: bytes, start: int, **fields: bytes) -> bytes:
    """Write fields of a header and make its checksum right."""
    places = {"name": 0, "size": 124, "kind": 156}
    header = bytearray(data[start : start + 512])
    for field, value in fields.items():
        header[places[field] : places[field] + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + 512 :]


def test_sizes_that_lie_are_refused() -> None:
    """Larger than the archive, so that files are swallowed, below 0, and headers without end."""
    data = make_tar({"a.JPEG": b"a" * 700, "b.JPEG": b"b" * 700}, format=tarfile.GNU_FORMAT)
    refuse(
        patch_header(data, 0, size=b"77777777777\0"), "'a.JPEG' is cut off: it has 8,589,934,591"
    )
    refuse(patch_header(data, 0, size=b"00000000001\0"), "damaged header behind 'a.JPEG'")
    below_zero = b"\xff" * 10 + b"\xf0\x00"
    refuse(patch_header(data, 0, size=below_zero), "a size that lies at 'a.JPEG'")
    refuse(patch_header(data, 1536, size=below_zero), "a size that lies at 'b.JPEG'")
    for kind in (b"x", b"g", b"L", b"K"):
        for size in (b"77777777777\0", below_zero, b"00001000000\0"):
            refuse(patch_header(data, 1536, kind=kind, size=size), "longer than 64 KiB|damaged")


def test_a_chain_of_headers_has_an_end() -> None:
    """Ten thousand long names in front of one file: refused, whatever Python would do."""
    link = patch_header(make_tar({"a": b""})[:512], 0, kind=b"L", size=b"00000000000\0")
    refuse(make_tar({"first": b""})[:512] + link * 10_000, "longer than 64 KiB|damaged or cut off")


def test_a_flipped_bit_in_any_header_is_noticed() -> None:
    """tarfile takes a wrong header for the end of the archive; here it is a fault."""
    data = make_tar({"a.JPEG": b"a" * 700, "b.JPEG": b"b" * 700}, format=tarfile.GNU_FORMAT)
    for place in (*range(0, 512, 7), *range(1536, 2048, 7)):
        if place % 512 in range(148, 156):
            continue  # spaces and zeros of the checksum field itself mean the same
        refuse(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], "damaged|not a tar")


def test_no_damage_ends_in_anything_but_a_sentence() -> None:
    whole, generator = make_tar(FILES), np.random.default_rng(1)
    for _ in range(1500):
        data = bytearray(whole)
        for place in generator.integers(0, len(data), generator.integers(1, 4)):
            data[place] = generator.choice((0, 0x30, 0x78, 255))
        start = int(generator.integers(0, len(data) // 512)) * 512
        patched = patch_header(bytes(data), start)
        try:
            list_all(patched[: len(patched) - int(generator.integers(0, 2) * 700)])
        except InputError:
            continue


def test_listing_keeps_nothing(tmp_path: Path) -> None:
    """20,000 members of a file: listed within a megabyte, and none of their bytes is read."""
    path = tmp_path / "many.tar"
    header = make_tar({"a": b""})[:512]
    path.write_bytes(header * 20_000 + bytes(1024))
    with Archive(path) as archive:
        tracemalloc.start()
        count = sum(1 for _ in list_members(archive.region(0, archive.size), "x", "y"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 20_000 and peak < 1 << 20


def test_an_archive_reads_stretches_and_notices_when_it_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(bytes(range(256)) * 8)
    with Archive(path) as archive:
        archive.expect_random_reads()
        assert archive.size == 2048 and archive.read(250, 10) == bytes(
            [*range(250, 256), 0, 1, 2, 3]
        )
        path.write_bytes(b"short")
        with pytest.raises(InputError, match="has become shorter"):
            archive.read(250, 10)
    with pytest.raises(InputError, match="not a plain file"):
        Archive(tmp_path)
