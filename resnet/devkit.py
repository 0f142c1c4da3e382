"""The class of each validation image, from ImageNet's devkit or from a list of WordNet ids.

The devkit numbers the classes in an order of its own: its ground truth holds these numbers,
`meta.mat` says which WordNet id each stands for, and a label is the rank of the WordNet id.
Source: readme.txt of ILSVRC2012_devkit_t12.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.commands import InputError
from resnet.archives import Region, list_members
from resnet.matlab import read_struct

META, GROUND_TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"
FILE_BYTES_LIMIT = 1 << 26
WORDNET_ID = re.compile(r"n\d{8}", re.ASCII)
NUMBER = re.compile(r"[1-9]\d{0,5}", re.ASCII)
AGAIN = "download ILSVRC2012_devkit_t12.tar.gz again"


@dataclass(frozen=True)
class Truth:
    """`wordnet_ids[k - 1]` is the class of ILSVRC2012_val_<k>.JPEG; `path`: where it stands."""

    path: Path
    wordnet_ids: tuple[str, ...]


def read_devkit(path: Path) -> Truth:
    """Read the truth from the devkit, as the archive that is downloaded or as extracted.

    Raises InputError naming file, line or element, and the mend.
    """
    if path.is_dir():
        meta, truth = (_read_file(path / name, path) for name in (META, GROUND_TRUTH))
    elif path.is_file():
        meta, truth = _read_archive(path)
    else:
        raise InputError(f"{path}: no such file or folder: name ILSVRC2012_devkit_t12.tar.gz")
    wordnet_ids = _read_meta(meta, f"{path}: {META}")
    where = f"{path}: {GROUND_TRUTH}"
    found = []
    for number, line in enumerate(_split_lines(truth, where, AGAIN), 1):
        known = wordnet_ids.get(int(line)) if NUMBER.fullmatch(line) else None
        if known is None:
            raise InputError(f"{where}: line {number}: {line[:40]!r} is no class number: {AGAIN}")
        found.append(known)
    return Truth(path, tuple(found))


def read_labels(path: Path) -> Truth:
    """Read the truth from a text file with the WordNet id of each validation image, one a line.

    The lines are in the order of the images' names, as in the list that the reference's record
    builder takes. Raises InputError naming file and line.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file: name a list of WordNet ids") from None
    found = _split_lines(data, str(path), "give a list of WordNet ids")
    for number, line in enumerate(found, 1):
        if not WORDNET_ID.fullmatch(line):
            mend = "one such as n01440764 is wanted"
            if NUMBER.fullmatch(line):
                mend = "the devkit's numbers are not labels: give --devkit instead"
            raise InputError(f"{path}: line {number}: {line[:40]!r} is no WordNet id: {mend}")
    return Truth(path, tuple(found))


def _split_lines(data: bytes, where: str, mend: str) -> list[str]:
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise InputError(f"{where} is not a plain text: {mend}") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise InputError(f"{where} is empty: {mend}")
    return [line.strip() for line in lines]


def _read_meta(data: bytes, where: str) -> dict[int, str]:
    """Return the WordNet id of each class number, those of the classes' ancestors included."""
    try:
        rows = read_struct(data, "synsets", ("ILSVRC2012_ID", "WNID"))
    except ValueError as error:
        raise InputError(f"{where}: {error}: {AGAIN}") from None
    found: dict[int, str] = {}
    names: set[str] = set()
    for row, (number, name) in enumerate(rows, 1):
        plain = isinstance(number, int | float) and number % 1 == 0 and number > 0
        if not plain or not isinstance(name, str) or not WORDNET_ID.fullmatch(name):
            raise InputError(
                f"{where}: synsets({row}) holds {str(number)[:40]!r} and {str(name)[:40]!r} where "
                f"a class number and a WordNet id are wanted: {AGAIN}"
            )
        if int(number) in found or name in names:
            raise InputError(f"{where}: synsets({row}) comes twice ({name}): {AGAIN}")
        found[int(number)] = name
        names.add(name)
    return found


def _read_file(path: Path, folder: Path) -> bytes:
    try:
        if path.stat().st_size > FILE_BYTES_LIMIT:
            raise InputError(f"{path} has more than {FILE_BYTES_LIMIT >> 20} MiB: {AGAIN}")
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{folder} holds no {path.relative_to(folder)}: {AGAIN}") from None


def _read_archive(path: Path) -> tuple[bytes, bytes]:
    """Read both files from the archive, which is unpacked in memory up to a limit."""
    stream = zlib.decompressobj(wbits=31)  # gzip
    packed = _read_file(path, path.parent)
    try:
        data = stream.decompress(packed, FILE_BYTES_LIMIT)
    except zlib.error:
        raise InputError(f"{path} is not a gzip archive, or is damaged: {AGAIN}") from None
    if not stream.eof:
        what = "is cut off" if len(data) < FILE_BYTES_LIMIT else "is too large when unpacked"
        raise InputError(f"{path} {what}: {AGAIN}")
    found: dict[str, bytes] = {}
    region = Region(lambda offset, size: data[offset : offset + size], 0, len(data))
    for member in list_members(region, str(path), AGAIN):
        name = "/".join(PurePosixPath(member.name).parts[-2:])
        if name in found:
            raise InputError(f"{path} holds {name} twice: {AGAIN}")
        if name in (META, GROUND_TRUTH):
            found[name] = data[member.offset : member.offset + member.size]
    for name in (META, GROUND_TRUTH):
        if name not in found:
            raise InputError(f"{path} holds no {name}: {AGAIN}")
    return found[META], found[GROUND_TRUTH]
