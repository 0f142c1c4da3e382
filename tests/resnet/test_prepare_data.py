"""Packing and verifying a small data set, through the command line where that is what counts."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.commands import InputError
from resnet import prepare_data, prepare_data_pack
from resnet.prepare_data import pack_folders
from resnet.prepare_data_folders import ClassFolders
from resnet.prepare_data_headers import parse_header
from resnet.prepare_data_images import Image as SourceImage
from resnet.prepare_data_pack import shuffle_images
from resnet.shards import frame_image, parse_manifest, read_records

ROOT = Path(__file__).resolve().parents[2]
CLASSES = ("n02", "n10", "n01")
COUNTS = {"train": (5, 7, 9), "val": (2, 3, 1)}


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Return an image file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_folders(folder: Path) -> tuple[Path, Path]:
    """Make class folders of small random JPEG files, of uneven class sizes."""
    generator = np.random.default_rng(3)
    for split, counts in COUNTS.items():
        for name, count in zip(CLASSES, counts, strict=True):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                shape = (*generator.integers(8, 40, 2), 3)
                image = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
                (folder / split / name / f"{name}_{number}.JPEG").write_bytes(encode(image))
    return folder / "train", folder / "val"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return make_folders(tmp_path / "images")


def read_all(folder: Path) -> dict[str, bytes]:
    """Read every file of a packed data set, its journal included."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def list_records(folder: Path, split: str) -> list[tuple[int, int, bytes]]:
    """Read (number, label, image) of every record of a split."""
    records = []
    for shard in parse_manifest(folder).split(split).shards:
        with open(folder / shard.file, "rb") as file:
            records += [(item.number, item.label, item.image) for item in read_records(file)]
    return records


def test_packing_keeps_every_byte_and_labels_by_sorted_name(folders, tmp_path: Path) -> None:
    """Each original file appears once, unchanged, under the rank of its folder's name."""
    manifest = pack_folders(*folders, tmp_path / "out", shards=3, seed=1)
    assert manifest.classes == ("n01", "n02", "n10")
    for folder, split in zip(folders, ("train", "val"), strict=True):
        expected = sorted(
            (label, path.read_bytes())
            for label, name in enumerate(manifest.classes)
            for path in (folder / name).iterdir()
        )
        records = list_records(tmp_path / "out", split)
        assert sorted(record[1:] for record in records) == expected
        assert [record[0] for record in records] == list(range(len(expected)))
    assert [shard.images for shard in manifest.train.shards] == [7, 7, 7]
    sizes = [Image.open(path).size for path in folders[0].rglob("*.JPEG")]
    decoded = sum(shard.decoded_bytes for shard in manifest.train.shards)
    assert decoded == sum(3 * width * height for width, height in sizes)


def test_the_list_names_every_record(folders, tmp_path: Path) -> None:
    """The line of a record's number gives its label and the file it came from."""
    manifest = pack_folders(*folders, tmp_path / "out", shards=2, seed=1)
    lines = (tmp_path / "out" / manifest.train.names.file).read_text().splitlines()
    for line, (number, label, image) in zip(
        lines, list_records(tmp_path / "out", "train"), strict=True
    ):
        listed_number, listed_label, name = line.split("\t")
        assert (int(listed_number), int(listed_label)) == (number, label)
        assert (folders[0] / name).read_bytes() == image


def test_the_order_is_shuffled_and_depends_on_the_seed_alone(folders, tmp_path: Path) -> None:
    """Two packs agree byte for byte; another seed gives another order of the same images."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        pack_folders(*folders, tmp_path / name, shards=3, seed=seed)
    assert read_all(tmp_path / "a") == read_all(tmp_path / "b")
    first, other = (list_records(tmp_path / name, "train") for name in ("a", "c"))
    assert [record[2] for record in first] != [record[2] for record in other]
    assert {record[2] for record in first} == {record[2] for record in other}


def test_the_shuffle_mixes_classes_evenly() -> None:
    """Over 20,000 images of two classes, no window of 1,000 strays from one half of each."""
    images = [SourceImage(f"n{k // 10_000}/{k}.JPEG", 1, 1, k) for k in range(20_000)]
    labels = np.array([int(image.name[1]) for image in shuffle_images(images, "train", 5)])
    shares = labels.reshape(20, 1000).mean(axis=1)
    assert np.all(np.abs(shares - 0.5) < 5 * np.sqrt(0.25 / 1000))


def test_an_interrupted_pack_resumes_to_the_same_bytes(
    folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second shard: the first is kept, no half file stands, the end is the same."""
    pack_folders(*folders, tmp_path / "whole", shards=3, seed=1)
    read, calls = ClassFolders.read, []

    def fail_later(self, image):  # type: ignore[no-untyped-def]
        calls.append(image)
        if len(calls) > 10:
            raise OSError(28, "No space left on device")
        return read(self, image)

    monkeypatch.setattr(prepare_data_pack, "WINDOW_BYTES", 1)
    monkeypatch.setattr(ClassFolders, "read", fail_later)
    with pytest.raises(OSError):
        pack_folders(*folders, tmp_path / "out", shards=3, seed=1)
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == [".pack", "train-00000-of-00003.rec"]
    monkeypatch.setattr(ClassFolders, "read", read)
    first = (tmp_path / "out" / "train-00000-of-00003.rec").stat()
    pack_folders(*folders, tmp_path / "out", shards=3, seed=1)
    assert (tmp_path / "out" / "train-00000-of-00003.rec").stat().st_ino == first.st_ino
    assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")


def test_a_killed_pack_resumes_to_the_same_bytes(folders, tmp_path: Path) -> None:
    """SIGKILL leaves a temporary file at worst; the next run removes it and finishes."""
    pack_folders(*folders, tmp_path / "whole", shards=3, seed=1)
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "whole", out)
    for name in ("manifest.json", "train-00002-of-00003.rec", "train.idx", "train.lst"):
        (out / name).unlink()
    (out / ".train-00002-of-00003.rec.999.part").write_bytes(b"half")
    pack_folders(*folders, out, shards=3, seed=1)
    assert read_all(out) == read_all(tmp_path / "whole")


def test_a_kill_during_a_real_pack_is_survived(tmp_path: Path) -> None:
    """The command itself, killed by SIGKILL while it waits for an image, then run again."""
    train, val = make_folders(tmp_path / "images")
    pack_folders(train, val, tmp_path / "whole", shards=4, seed=1)
    command = [sys.executable, "-c", KILLED_PACK, train, val, tmp_path / "out"]
    process = subprocess.Popen([str(word) for word in command], cwd=ROOT)
    deadline = time.monotonic() + 600
    while not list((tmp_path / "out").glob(".train*.part")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "manifest.json").exists()
    pack_folders(train, val, tmp_path / "out", shards=4, seed=1)
    assert read_all(tmp_path / "out") == read_all(tmp_path / "whole")


KILLED_PACK = """
import sys, time
from pathlib import Path
from resnet.prepare_data import pack_folders
from resnet.prepare_data_folders import ClassFolders
read = ClassFolders.read
def read_or_wait(self, image):
    if image.name == "n01/n01_0.JPEG":
        time.sleep(600)
    return read(self, image)
ClassFolders.read = read_or_wait
pack_folders(*map(Path, sys.argv[1:]), shards=4, seed=1)
"""


def test_a_changed_image_is_packed_anew(folders, tmp_path: Path) -> None:
    """Same size, other bytes: the time of change tells, and the new bytes arrive."""
    pack_folders(*folders, tmp_path / "out", shards=3, seed=1)
    path = folders[0] / "n02" / "n02_1.JPEG"
    changed = bytearray(path.read_bytes())
    changed[-3] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(1, 1))
    pack_folders(*folders, tmp_path / "out", shards=3, seed=1)
    assert bytes(changed) in [record[2] for record in list_records(tmp_path / "out", "train")]
    pack_folders(*folders, tmp_path / "fresh", shards=3, seed=1)
    assert read_all(tmp_path / "out") == read_all(tmp_path / "fresh")


def test_another_shard_count_leaves_nothing_of_the_old(folders, tmp_path: Path) -> None:
    """Packing again with fewer shards gives what a fresh folder would get."""
    pack_folders(*folders, tmp_path / "out", shards=5, seed=1)
    pack_folders(*folders, tmp_path / "out", shards=2, seed=1)
    pack_folders(*folders, tmp_path / "fresh", shards=2, seed=1)
    assert read_all(tmp_path / "out") == read_all(tmp_path / "fresh")


def test_unusable_folders_are_one_sentence(folders, tmp_path: Path) -> None:
    """Unequal classes, strangers among the images, broken images, missing folders."""
    train, val = folders

    def refuse(words: str, shards: int = 2) -> None:
        with pytest.raises(InputError, match=words) as caught:
            pack_folders(train, val, tmp_path / "out", shards=shards, seed=1)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out" / "manifest.json").exists()

    refuse("more than the 21 images", shards=22)
    shutil.copytree(train / "n01", train / "n99")
    refuse("n99 stands in .*train but not in .*val")
    shutil.rmtree(train / "n99")
    (val / "n01" / "notes.txt").write_text("x")
    refuse(r"notes\.txt' is not a \.JPEG file")
    (val / "n01" / "notes.txt").unlink()
    (val / "n01" / "n01_0.JPEG").write_bytes(b"not an image")
    refuse(r"n01_0\.JPEG is not an image \(neither JPEG nor PNG\)")
    (val / "n01" / "n01_0.JPEG").unlink()
    refuse("n01 holds no images")
    shutil.rmtree(val)
    refuse("val: no such file or folder")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python -m resnet.prepare_data`."""
    command = [sys.executable, "-m", "resnet.prepare_data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_commands_pack_and_verify(folders, tmp_path: Path) -> None:
    """Status 0 for a good data set, 2 and one sentence for none, 2 for a wrong call."""
    out = tmp_path / "out"
    packed = run("pack", "--train", folders[0], "--val", folders[1], "--output", out, "--shards", 2)
    assert packed.returncode == 0, packed.stderr
    assert "21 training and 6 validation images, 3 classes" in packed.stdout
    verified = run("verify", out, "--decode")
    assert verified.returncode == 0 and "no faults" in verified.stdout
    for wrong in (run("verify", tmp_path / "none"), run("pack", "--train", folders[0])):
        assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1, wrong.stderr


def verify(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    """Run verify in this process; return its status and what it printed."""
    status = prepare_data.main(["verify", str(folder), *options])
    return status, capsys.readouterr().out


def test_verify_finds_every_kind_of_damage(folders, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    """A flipped byte, a cut shard, a missing one, a wrong index: a line each, status 1."""
    pack_folders(*folders, tmp_path / "good", shards=2, seed=1)
    assert verify(tmp_path / "good", capsys)[0] == 0

    def damage(name: str, change) -> str:  # type: ignore[no-untyped-def]
        folder = tmp_path / "bad"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "good", folder)
        path = folder / name
        data = change(path.read_bytes())
        path.unlink() if data is None else path.write_bytes(data)
        status, text = verify(folder, capsys)
        assert status == 1 and name in text, text
        return text

    shard = "train-00001-of-00002.rec"
    assert "SHA-256" in damage(shard, lambda data: data[:-9] + b"\0" + data[-8:])
    assert "cut off" in damage(shard, lambda data: data[:-9])
    assert "is missing" in damage(shard, lambda data: None)
    assert "not where the index says" in damage(
        "val.idx", lambda data: data.replace(b"1\t", b"1\t9", 1)
    )
    assert "lines for" in damage("val.lst", lambda data: data[: data.index(b"\n") + 1])


def forge(folder: Path, images: list[tuple[int, bytes]]) -> None:
    """Rewrite the validation split with other records, all sums and sizes made right."""
    import hashlib

    manifest_path = folder / "manifest.json"
    table = json.loads(manifest_path.read_text())
    records = [frame_image(label, k, data) for k, (label, data) in enumerate(images)]
    offsets = np.cumsum([0, *map(len, records)])
    contents = {
        table["val"]["shards"][0]["file"]: b"".join(records),
        "val.idx": b"".join(b"%d\t%d\n" % (k, offsets[k]) for k in range(len(records))),
        "val.lst": b"".join(
            b"%d\t%d\tname%d\n" % (k, min(label, 2), k) for k, (label, _) in enumerate(images)
        ),
    }
    table["val"]["images"] = table["val"]["shards"][0]["images"] = len(images)
    for item in (table["val"]["shards"][0], table["val"]["index"], table["val"]["names"]):
        data = contents[item["file"]]
        (folder / item["file"]).write_bytes(data)
        item.update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest_path.write_text(json.dumps(table))


def test_verify_reads_labels_and_headers_under_right_checksums(
    folders, tmp_path: Path, capsys
) -> None:  # type: ignore[no-untyped-def]
    """What packing would never write, but another writer may."""
    pack_folders(*folders, tmp_path / "out", shards=2, seed=1)
    good = encode(Image.new("RGB", (16, 16)))
    forge(tmp_path / "out", [(0, good), (7, good), (2, b"\xff\xd8garbage")])
    status, text = verify(tmp_path / "out", capsys)
    assert status == 1
    assert "record 1 (name1) has the label 7" in text
    assert "record 2 (name2) is not an image: no JPEG marker" in text
    assert "class n02 has no image" in text
    assert f"its images decode to {2 * 3 * 16 * 16:,} bytes, the manifest says" in text


def test_only_decoding_finds_damage_inside_an_image(folders, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    """A JPEG cut off before packing has a good header and a good checksum."""
    path = folders[0] / "n10" / "n10_4.JPEG"
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    pack_folders(*folders, tmp_path / "out", shards=2, seed=1)
    assert verify(tmp_path / "out", capsys)[0] == 0
    status, text = verify(tmp_path / "out", capsys, "--decode")
    assert status == 1 and "n10/n10_4.JPEG) cannot be decoded" in text


def test_imagenet_counts_are_demanded_on_request(folders, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    """Three classes of random images are not ImageNet."""
    pack_folders(*folders, tmp_path / "out", shards=2, seed=1)
    status, text = verify(tmp_path / "out", capsys, "--imagenet")
    assert status == 1
    for words in ("3 classes from n01", "1,281,167", "50,000", "ImageNet has 50"):
        assert words in text


def test_headers_of_all_kinds_are_read() -> None:
    """Gray, colour and CMYK, baseline and progressive, EXIF before the frame, PNG named JPEG."""
    image = Image.new("RGB", (37, 21))
    exif = Image.Exif()
    exif[0x112] = 6
    for mode, components in (("L", 1), ("RGB", 3), ("CMYK", 4)):
        for progressive in (False, True):
            data = encode(image.convert(mode), progressive=progressive, exif=exif)
            assert parse_header(data) == ("jpeg", 37, 21, components)
    assert parse_header(encode(image, "PNG")) == ("png", 37, 21, 3)
    good = encode(image)
    for bad in (b"", b"GIF89a", good[:30], good[:2] + good[30:], encode(image, "PNG")[:20]):
        with pytest.raises(ValueError):
            parse_header(bad)
