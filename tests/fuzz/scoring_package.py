"""Fuzzes the package reader: `python -m tests.fuzz.scoring_package`.

Each execution makes a small archive, often with a damaged manifest or a hostile name in it, damages
the archive itself, and opens it. The reader may give its files or one sentence, and nothing else;
it may write nowhere but into its own folder, which is gone afterwards.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from scoring.exits import InputError
from scoring.findings import make_printable
from scoring.package.layout import ManifestError, parse_manifest
from scoring.package.members import Limits
from scoring.package.reading import OpenedPackage, open_package
from tests.fuzz.damage import PIECES, VALUES, damage_bytes
from tests.fuzz.loop import Damaged, Execute, run_fuzzer

LIMITS = Limits(
    archive_bytes=1 << 20,
    members=200,
    member_bytes=1 << 18,
    total_bytes=1 << 20,
    ratio=50,
    ratio_free_bytes=1 << 18,
)
MANIFEST = {
    "schema": 1,
    "kit": "0.1.0",
    "profile": "lp2bm",
    "ruleset": "4.0.0",
    "window": False,
    "submitter": "maker",
    "system": "fast4",
    "system_file": "benchmarks/resnet/implementations/fast4/systems/fast4.toml",
    "configurations": {"resnet": "a.toml", "bert": "b.toml"},
    "image": {"reference": "", "digest": "", "manifest_sha256": None},
    "source_sha256": {"resnet": "0" * 64, "bert": "1" * 64},
    "files": {"README.md": {"sha256": "2" * 64, "bytes": 6}},
}
NAMES = (
    *(
        "../x",
        "/etc/x",
        "maker",
        "maker/",
        "maker/../../x",
        "maker//x",
        "maker/./x",
        "C:/x",
        "maker\\x",
    ),
    *("maker/README.md", "maker/readme.md", "maker/results", "other/x", "", ".", "maker/a\nb"),
    *("maker/\u0041\u030a", "maker/\u00c5", "maker/" + "n" * 120, "maker/" + "d/" * 40 + "x"),
)
KINDS = (
    *(tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE),
    *(tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE, tarfile.CONTTYPE, b"K", b"V", b"\xff"),
)
FORMATS = (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)
BLOCK_BYTES = 512
CHECKSUM = slice(148, 156)


def make_manifest(random: Random) -> bytes:
    """Write a manifest, more often than not with one value of another kind or damaged bytes."""
    manifest = json.loads(json.dumps(MANIFEST))
    if random.random() < 0.6:
        table = manifest
        while isinstance(table, dict) and table:
            key = random.choice(list(table))
            if not isinstance(table[key], dict) or random.random() < 0.4:
                table[key] = random.choice(VALUES)
                break
            table = table[key]
    content = json.dumps(manifest).encode()
    return damage_bytes(random, content) if random.random() < 0.3 else content


def make_files(random: Random) -> dict[str, bytes]:
    """Make the files of a package, some with a hostile name."""
    files = {
        "maker/package.json": make_manifest(random),
        "maker/README.md": b"# one\n",
        "maker/results/fast4/resnet/result_0.txt": b":::MLLOG {}\n" * random.randrange(60),
    }
    if random.random() < 0.3:
        files[random.choice(NAMES)] = random.choice(PIECES)
    return files


def make_tar(random: Random, files: dict[str, bytes]) -> bytes:
    """Write a tar archive, now and then with a member of another kind."""
    target = io.BytesIO()
    odd = random.choice(list(files)) if random.random() < 0.2 else None
    # The ustar format has no room for long names.
    formats = FORMATS if all(len(name) < 90 for name in files) else FORMATS[1:]
    with tarfile.open(fileobj=target, mode="w", format=random.choice(formats)) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            if name == odd:
                member.type = random.choice(KINDS)
                member.linkname = random.choice(NAMES)[:90]
            archive.addfile(member, io.BytesIO(content))
    return target.getvalue()


def damage_header(random: Random, content: bytes) -> bytes:
    """Overwrite a piece of one header of a tar archive and make its checksum right again."""
    blocks = [
        place
        for place in range(0, len(content), BLOCK_BYTES)
        if content[place + 257 : place + 262] == b"ustar"
    ]
    if not blocks:
        return damage_bytes(random, content)
    place = random.choice(blocks)
    header = bytearray(content[place : place + BLOCK_BYTES])
    start = random.choice((0, 100, 108, 124, 136, 156, 157, 257, 263, 345)) + random.randrange(3)
    piece = random.choice((*PIECES[:12], b"7" * 11, b"\x80" + b"\xff" * 11, b"-1\0", b"x", b"g"))
    header[start : start + len(piece)] = piece[: BLOCK_BYTES - start]
    header[CHECKSUM] = b" " * 8
    header[CHECKSUM] = b"%06o\0 " % sum(header)
    return content[:place] + bytes(header) + content[place + BLOCK_BYTES :]


def make_zip(random: Random, files: dict[str, bytes]) -> bytes:
    """Write a zip archive, packed or not."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in files.items():
            method = random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            member = zipfile.ZipInfo(name or "x")
            member.external_attr = random.choice((0, 0o100644 << 16, 0o120777 << 16, 0x10))
            archive.writestr(member, content, method)
    return target.getvalue()


def damage_number(random: Random, content: bytes) -> bytes:
    """Overwrite two or four bytes behind a mark of a zip archive: a size, count or offset."""
    marks = [i for i in range(len(content) - 46) if content[i : i + 2] == b"PK"]
    if not marks:
        return damage_bytes(random, content)
    place = random.choice(marks) + random.randrange(4, 44)
    width = random.choice((2, 4))
    number = random.choice((0, 1, 8, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, random.randrange(1 << 16)))
    piece = (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return content[:place] + piece + content[place + width :]


def make_archive(random: Random) -> bytes:
    """Make an archive of any form, damaged somewhere or not at all."""
    files = make_files(random)
    if random.random() < 0.35:
        content = make_zip(random, files)
        for _ in range(random.randrange(3)):
            content = random.choice((damage_number, damage_bytes))(random, content)
        return content
    content = make_tar(random, files)
    for _ in range(random.randrange(3)):
        content = random.choice((damage_header, damage_bytes))(random, content)
    if random.random() < 0.4:
        content = gzip.compress(content, compresslevel=1, mtime=0)
        if random.random() < 0.3:
            content = damage_bytes(random, content)
    return content


def check_package(package: OpenedPackage) -> None:
    """Check that the files said to be there are, as plain files below the package's own folder."""
    found = {
        os.path.relpath(os.path.join(folder, name), package.folder)
        for folder, _, names in os.walk(package.folder)
        for name in names
    }
    assert found == set(package.files)
    for name, entry in package.files.items():
        path = package.folder / name
        assert not path.is_symlink()
        assert path.stat().st_size == entry.bytes
    if "package.json" in package.files:
        try:
            parse_manifest(package.read("package.json"))
        except ManifestError as error:
            assert str(error)


@contextmanager
def make_fuzzer(folder: Path) -> Iterator[Execute]:
    """Make the function that runs one execution, with `folder` for whatever is written."""
    archive = folder / "input"
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)

    def execute(random: Random, number: int) -> None:
        del number
        content = make_archive(random)
        archive.write_bytes(content)
        try:
            try:
                with open_package(archive, LIMITS) as package:
                    check_package(package)
            except InputError as error:
                assert make_printable(str(error)) == str(error)
                assert len(str(error)) < 1000
            assert os.listdir(folder) == ["input"]
        except Exception as error:
            raise Damaged(content) from error

    try:
        yield execute
    finally:
        tempfile.tempdir = before


def main() -> int:
    """Run the fuzzer in a folder in memory, where there is one."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place,
        make_fuzzer(Path(place)) as execute,
    ):
        return run_fuzzer("Fuzz the package reader.", lambda: execute, 20_000)


if __name__ == "__main__":
    sys.exit(main())
