"""ImageNet's archives as they are downloaded, as images for `pack`; nothing is extracted.

Listing reads tar headers from the archive's start to its end. Each image is then read at its
place. Source of the structure: image-net.org's ILSVRC2012_img_train.tar, a tar of 1000 class
archives named after their WordNet ids, and ILSVRC2012_img_val.tar, a tar of images without
folders.
"""

from __future__ import annotations

import re
from pathlib import Path

from harness.commands import InputError
from harness.progress import Progress
from resnet.archives import Archive, Member, list_members
from resnet.devkit import Truth
from resnet.prepare_data_images import VALIDATION_NAME, Image, name_validation_images

CLASS_ARCHIVE = re.compile(r"(n\d{8})\.tar", re.ASCII)
TRAIN_MEND = "download ILSVRC2012_img_train.tar again"
VAL_MEND = "download ILSVRC2012_img_val.tar again"
CLASSES_LIMIT = 100_000


class _ArchiveImages:
    """Images that are stretches of one archive file."""

    def __init__(self, archive: Archive, mend: str) -> None:
        self.archive, self.path, self.mend = archive, archive.path, mend
        self.images: list[Image] = []
        self.progress = Progress(f"listing {self.path.name}", archive.size // 1_000_000, "MB")

    def read(self, image: Image) -> bytes:
        """Read an image's bytes at its place."""
        return self.archive.read(image.place, image.size)

    def place(self, name: str, member: Member) -> Image:
        """Make an image of an archive's member."""
        self.progress.update(member.offset // 1_000_000)
        return Image(name, member.size, self.archive.changed, member.offset)

    def finish(self) -> None:
        """End the listing: what comes now are reads here and there."""
        self.progress.finish(self.archive.size // 1_000_000, f"{len(self.images):,} images")
        self.archive.expect_random_reads()


class TrainArchive(_ArchiveImages):
    """The training images of ILSVRC2012_img_train.tar.

    Raises InputError naming the member for anything but class archives of JPEG files: a name
    that is not a plain class or image name (so none with a path), a class or an image that
    comes twice, and all that list_members finds.
    """

    def __init__(self, archive: Archive) -> None:
        super().__init__(archive, TRAIN_MEND)
        seen: set[str] = set()
        for member in list_members(archive.region(0, archive.size), str(self.path), TRAIN_MEND):
            match = CLASS_ARCHIVE.fullmatch(member.name.removeprefix("./"))
            if match is None or len(seen) == CLASSES_LIMIT:
                raise InputError(
                    f"{self.path}: member {member.name[:200]!r} is not a class archive such as "
                    f"n01440764.tar: name ILSVRC2012_img_train.tar as it was downloaded"
                )
            if match[1] in seen:
                raise InputError(f"{self.path}: class {match[1]} comes twice: {TRAIN_MEND}")
            seen.add(match[1])
            self._list_class(match[1], member)
        if not seen:
            raise InputError(f"{self.path} holds no class archives: {TRAIN_MEND}")
        self.finish()

    def _list_class(self, name: str, outer: Member) -> None:
        where = f"{self.path}: {name}.tar"
        plain = re.compile(rf"{name}_\w{{1,100}}\.JPEG", re.ASCII)
        seen: set[str] = set()
        for member in list_members(
            self.archive.region(outer.offset, outer.size), where, TRAIN_MEND
        ):
            file = member.name.removeprefix("./")
            if not plain.fullmatch(file):
                raise InputError(
                    f"{where}: member {member.name[:200]!r} is not an image of this class such "
                    f"as {name}_1.JPEG: {TRAIN_MEND}"
                )
            if file in seen:
                raise InputError(f"{where}: {file} comes twice: {TRAIN_MEND}")
            seen.add(file)
            self.images.append(self.place(f"{name}/{file}", member))
        if not seen:
            raise InputError(f"{where} holds no images: {TRAIN_MEND}")


class ValArchive(_ArchiveImages):
    """The validation images of ILSVRC2012_img_val.tar, their classes from `truth`.

    Raises InputError naming the member for anything but ILSVRC2012_val_<number>.JPEG, each
    number of the truth once, and all that list_members finds.
    """

    def __init__(self, archive: Archive, truth: Truth) -> None:
        super().__init__(archive, VAL_MEND)
        found: dict[int, Image] = {}
        for member in list_members(archive.region(0, archive.size), str(self.path), VAL_MEND):
            file = member.name.removeprefix("./")
            match = VALIDATION_NAME.fullmatch(file)
            if match is None:
                raise InputError(
                    f"{self.path}: member {member.name[:200]!r} is not a validation image such "
                    f"as ILSVRC2012_val_00000001.JPEG: name ILSVRC2012_img_val.tar as downloaded"
                )
            if int(match[1]) in found:
                raise InputError(f"{self.path}: {file} comes twice: {VAL_MEND}")
            found[int(match[1])] = self.place(file, member)
        self.images = name_validation_images(found, truth, self.path, VAL_MEND)
        self.finish()


def open_archive(path: Path) -> Archive:
    """Open an archive. Raises InputError where there is none."""
    try:
        return Archive(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder: name an archive or folders") from None
