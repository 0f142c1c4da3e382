"""Packing ImageNet's downloads as they come: the same bytes as from folders, and no surprises."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from harness.commands import InputError
from resnet import prepare_data, prepare_data_pack
from resnet.archives import Archive
from resnet.devkit import read_devkit
from resnet.prepare_data_archives import TrainArchive, ValArchive
from resnet.shards import parse_manifest, read_records
from tests.conftest import unpack_tar
from tests.resnet.small_archives import (
    CLASSES,
    GROUND_TRUTH,
    NUMBERS,
    Archives,
    encode_image,
    make_devkit,
    make_images,
    make_meta,
    make_rows,
    make_tar,
    make_train_tar,
    write_archives,
    write_folders,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def archives(tmp_path: Path) -> Archives:
    return write_archives(tmp_path / "downloads")


def pack(output: Path, train: Path, val: Path, *options: object, shards: int = 4) -> Path:
    """Run pack in this process; return the folder it wrote."""
    arguments = ["--train", train, "--val", val, "--output", output, "--shards", shards]
    command = ["pack", *map(str, arguments), "--seed", "5", *map(str, options)]
    assert prepare_data.main(command) == 0
    return output


def read_made(folder: Path, journal: bool = False) -> dict[str, bytes]:
    """Read the files of a packed data set; its journal, which knows the sources, if asked for."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if journal or path.parent == folder
    }


def list_records(folder: Path, split: str) -> list[tuple[int, bytes]]:
    """Read (label, image) of every record of a split."""
    records = []
    for shard in parse_manifest(folder).split(split).shards:
        with open(folder / shard.file, "rb") as file:
            records += [(record.label, record.image) for record in read_records(file)]
    return records


def test_archives_give_every_byte_under_the_rank_of_its_wordnet_id(
    archives: Archives, tmp_path: Path
) -> None:
    """Training by class archive; validation from the devkit's number over the id to the rank."""
    out = pack(tmp_path / "out", archives.train, archives.val, "--devkit", archives.devkit)
    train, val = make_images()
    ranks = {name: rank for rank, name in enumerate(sorted(CLASSES))}
    expected = [(ranks[name], data) for name in CLASSES for data in train[name].values()]
    assert sorted(list_records(out, "train")) == sorted(expected)
    truth = [ranks[NUMBERS[number]] for number in GROUND_TRUTH]
    assert sorted(list_records(out, "val")) == sorted(zip(truth, val.values(), strict=True))
    assert truth != [number - 1 for number in GROUND_TRUTH]
    assert [label for label, _ in list_records(out, "train")] != sorted(
        label for label, _ in expected
    )
    assert prepare_data.main(["verify", str(out), "--decode", "--workers", "3"]) == 0


def test_all_sources_give_the_same_files(archives: Archives, tmp_path: Path) -> None:
    """Archives, class folders, flat validation images, an extracted devkit, a list of ids."""
    train, val = write_folders(tmp_path / "folders")
    flat, labels = tmp_path / "flat", tmp_path / "labels.txt"
    unpack_tar(archives.val, flat)
    unpack_tar(archives.devkit, tmp_path)
    devkit = tmp_path / "ILSVRC2012_devkit_t12"
    labels.write_text("".join(f"{NUMBERS[number]}\n" for number in GROUND_TRUTH))
    whole = pack(tmp_path / "0", archives.train, archives.val, "--devkit", archives.devkit)
    for name, arguments in enumerate(
        [
            (train, val),
            (archives.train, val),
            (train, val, "--devkit", archives.devkit),
            (train, flat, "--devkit", devkit),
            (archives.train, archives.val, "--val-labels", labels),
        ],
        1,
    ):
        assert read_made(pack(tmp_path / str(name), *arguments)) == read_made(whole)


def test_a_thousand_classes_are_imagenets(tmp_path: Path) -> None:
    """Labels 0 and 999 are n01440764 and n15075141, or it is not ImageNet of 2012."""
    between = [f"n{number:08d}" for number in range(2_000_000, 2_000_998)]
    image, image_of = encode_image(np.random.default_rng(1)), {}

    def pack_classes(first: str, last: str, output: Path) -> Path:
        names = [last, *between, first]
        image_of.update(train={name: {f"{name}_1.JPEG": image} for name in names})
        train, val, devkit = (tmp_path / name for name in ("train.tar", "val.tar", "devkit.tar.gz"))
        train.write_bytes(make_train_tar(image_of["train"]))
        val.write_bytes(make_tar({f"ILSVRC2012_val_{k:08d}.JPEG": image for k in range(1, 1001)}))
        rows = make_rows(dict(enumerate(names, 1)))
        truth = "".join(f"{k}\n" for k in range(1, 1001)).encode()
        devkit.write_bytes(make_devkit(make_meta(rows), truth))
        return pack(output, train, val, "--devkit", devkit)

    out = pack_classes("n01440764", "n15075141", tmp_path / "good")
    lines = (out / "val.lst").read_text().splitlines()
    labels = {name.split("/")[0]: label for _, label, name in (line.split("\t") for line in lines)}
    assert labels["n01440764"] == "0" and labels["n15075141"] == "999"
    with pytest.raises(InputError, match="go from n01440764 to n15075142 where ILSVRC 2012's"):
        pack_classes("n01440764", "n15075142", tmp_path / "other")


def test_a_data_set_with_imagenets_classes_is_held_to_its_counts(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    """The claim alone is enough; 1000 other classes claim nothing."""
    classes = ["n01440764", *(f"n{number:08d}" for number in range(2_000_000, 2_000_998))]
    image = encode_image(np.random.default_rng(1))
    for last, status in (("n15075141", 1), ("c", 0)):
        for split in ("train", "val"):
            for name in [*classes, last]:
                place = tmp_path / last / split / (name if status else f"c{name}")
                place.mkdir(parents=True)
                (place / "1.JPEG").write_bytes(image)
        out = pack(tmp_path / f"{last}-out", tmp_path / last / "train", tmp_path / last / "val")
        assert prepare_data.main(["verify", str(out)]) == status
        text = capsys.readouterr().out
        assert ("ImageNet has 1,281,167" in text and "ImageNet has 50" in text) == bool(status)


def test_png_and_cmyk_files_are_packed_and_noted(
    archives: Archives, tmp_path: Path, capsys
) -> None:  # type: ignore[no-untyped-def]
    """As in ImageNet: one PNG named .JPEG, some CMYK; a note each, no fault, every byte kept."""
    train, _ = make_images()
    generator, name = np.random.default_rng(2), CLASSES[0]
    odd = [encode_image(generator, kind="PNG"), encode_image(generator, "CMYK")]
    train[name] |= {f"{name}_9{k}.JPEG": data for k, data in enumerate(odd)}
    archives.train.write_bytes(make_train_tar(train))
    out = pack(tmp_path / "out", archives.train, archives.val, "--devkit", archives.devkit)
    capsys.readouterr()
    assert prepare_data.main(["verify", str(out), "--decode"]) == 0
    lines = capsys.readouterr().out.splitlines()
    notes = [line for line in lines if line.startswith("note: ")]
    assert len(notes) == 2 and lines[-1].endswith("no faults")
    assert any(f"{name}_90.JPEG) is a PNG file" in note for note in notes)
    assert any(f"{name}_91.JPEG) is a CMYK image" in note for note in notes)
    assert set(odd) <= {data for _, data in list_records(out, "train")}


def join_tars(first: bytes, second: bytes) -> bytes:
    """Return one archive with the members of both, which `tar --append` would not refuse."""
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        member = archive.getmembers()[-1]
    return first[: member.offset_data + member.size + -member.size % 512] + second


def change_train(archives: Archives, change) -> str:  # type: ignore[no-untyped-def]
    """Write a training archive of other members; return what pack says."""
    train, _ = make_images()
    members = {f"{name}.tar": make_tar(images) for name, images in train.items()}
    archives.train.write_bytes(change(members))
    return refuse_pack(archives)


def refuse_pack(archives: Archives, **others: Path) -> str:
    """Return the sentence that pack refuses with; nothing must be left half-written."""
    output = archives.train.parent / "out"
    archives = archives._replace(**others)
    with pytest.raises(InputError) as caught:
        pack(output, archives.train, archives.val, "--devkit", archives.devkit)
    assert "\n" not in str(caught.value) and not list(output.glob(".*.part"))
    assert not (output / "manifest.json").exists()
    return str(caught.value)


def test_hostile_training_archives_are_one_sentence(archives: Archives) -> None:
    """Paths, links inside, strangers, classes and images twice, nothing at all."""
    name = CLASSES[0]
    image = next(iter(make_images()[0][name].values()))

    def with_class(data: bytes) -> str:
        return change_train(archives, lambda members: make_tar({**members, f"{name}.tar": data}))

    for path in (f"../{name}.tar", f"/{name}.tar", f"a/{name}.tar", "notes.txt", "n1.tar"):
        stranger = {path: b""}
        text = change_train(archives, lambda members, more=stranger: make_tar({**members, **more}))
        assert f"member '{path}' is not a class archive" in text and str(archives.train) in text
    for path in (f"../{name}_1.JPEG", f"/{name}_1.JPEG", f"{name}_1.txt", "n99999999_1.JPEG"):
        text = with_class(make_tar({path: image}))
        assert (
            f"{archives.train}: {name}.tar: member '{path}' is not an image of this class" in text
        )
    one = make_tar({f"{name}_1.JPEG": image})
    assert f"{name}_1.JPEG comes twice" in with_class(join_tars(one, one))
    assert f"{name}.tar holds no images" in with_class(make_tar({}))
    assert f"{name}.tar is empty" in with_class(b"")
    assert f"{name}.tar is not a tar archive" in with_class(image)
    assert f"{name}.tar is damaged or cut off" in with_class(one[: len(one.rstrip(b"\0"))])
    text = with_class(make_tar({f"{name}_1.JPEG": b"no image"}))
    assert f"{name}/{name}_1.JPEG is not an image (neither JPEG nor PNG): download" in text
    assert "is not an image (empty)" in with_class(make_tar({f"{name}_1.JPEG": b""}))
    twice = make_tar({f"{name}.tar": one})
    text = change_train(archives, lambda members: join_tars(twice, make_tar(members)))
    assert f"class {name} comes twice" in text
    assert "holds no class archives" in change_train(archives, lambda members: make_tar({}))
    whole = make_train_tar(make_images()[0])
    assert "cut off" in change_train(archives, lambda members: whole[: len(whole) // 2])
    assert "no such file" in refuse_pack(archives, train=archives.train.parent / "none.tar")


def test_hostile_validation_archives_are_one_sentence(archives: Archives) -> None:
    """A number too few or too many, strangers, images twice, classes that training lacks."""
    _, val = make_images()
    name = "ILSVRC2012_val_00000003.JPEG"

    def with_members(members: dict[str, bytes]) -> str:
        archives.val.write_bytes(make_tar(members))
        return refuse_pack(archives)

    assert f"has no {name}" in with_members({k: v for k, v in val.items() if k != name})
    for number in (0, 8, 99_999_999):
        text = with_members({**val, f"ILSVRC2012_val_{number:08d}.JPEG": val[name]})
        assert f"has an image {number} where" in text
    for path in (f"../{name}", f"/tmp/{name}", "ILSVRC2012_val_3.JPEG"):
        assert "is not a validation image" in with_members({**val, path: val[name]})
    archives.val.write_bytes(join_tars(make_tar({name: val[name]}), make_tar(val)))
    assert f"{name} comes twice" in refuse_pack(archives)
    archives.val.write_bytes(make_tar(val))
    others = make_meta(make_rows({**NUMBERS, 2: "n09999999"}))
    truth = "".join(f"{number}\n" for number in GROUND_TRUTH).encode()
    archives.devkit.write_bytes(make_devkit(others, truth))
    assert "class n01440764 stands in" in refuse_pack(archives)


def test_validation_needs_classes_and_believes_no_wrong_folder(
    archives: Archives, tmp_path: Path
) -> None:
    train, val = write_folders(tmp_path / "folders")
    flat = tmp_path / "flat"
    unpack_tar(archives.val, flat)
    for place in (archives.val, flat):
        with pytest.raises(InputError, match="add --devkit"):
            pack(tmp_path / "out", archives.train, place)
    (flat / "notes.JPEG").write_bytes(b"x")
    with pytest.raises(InputError, match=r"'notes\.JPEG' is not a validation image"):
        pack(tmp_path / "out", train, flat, "--devkit", archives.devkit)
    name = "ILSVRC2012_val_00000001.JPEG"
    (val / NUMBERS[3] / name).rename(val / NUMBERS[1] / name)
    with pytest.raises(InputError, match=f"n03000001/{name} is of class n02110341, says"):
        pack(tmp_path / "out", train, val, "--devkit", archives.devkit)
    (val / NUMBERS[1] / name).rename(val / NUMBERS[1] / "other.JPEG")
    with pytest.raises(InputError, match=r"n03000001/other\.JPEG is not in"):
        pack(tmp_path / "out", train, val, "--devkit", archives.devkit)


# Waits where so many shards stand and the next is being written.
WAITING_PACK = """
import sys, time
from pathlib import Path
from resnet import prepare_data
from resnet.archives import Archive
out, wanted, *arguments = sys.argv[1:]
read = Archive.read
def count(pattern):
    return len(list(Path(out).glob(pattern)))
def read_or_wait(self, offset, size):
    if count("*.rec") >= int(wanted) and count(".*.rec.*.part"):
        time.sleep(600)
    return read(self, offset, size)
Archive.read = read_or_wait
sys.exit(prepare_data.main(arguments))
"""


def test_a_pack_killed_again_and_again_ends_in_the_same_bytes(
    archives: Archives, tmp_path: Path
) -> None:
    """SIGKILL whenever one more shard stands and the next is being written; then undisturbed."""
    whole = pack(
        tmp_path / "whole", archives.train, archives.val, "--devkit", archives.devkit, shards=6
    )
    out = tmp_path / "out"
    command = [
        "pack", "--train", archives.train, "--val", archives.val, "--devkit", archives.devkit,
        "--output", out, "--shards", 6, "--seed", 5,
    ]  # fmt: skip
    for wanted in range(1, 6):
        process = subprocess.Popen(
            [sys.executable, "-c", WAITING_PACK, str(out), str(wanted), *map(str, command)],
            cwd=ROOT,
        )
        deadline = time.monotonic() + 600
        while len(list(out.glob("*.rec"))) < wanted or not list(out.glob(".*.rec.*.part")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "manifest.json").exists()
    kept = (out / "train-00000-of-00006.rec").stat().st_ino
    pack(out, archives.train, archives.val, "--devkit", archives.devkit, shards=6)
    assert (out / "train-00000-of-00006.rec").stat().st_ino == kept
    assert read_made(out, journal=True) == read_made(whole, journal=True)


def test_a_changed_archive_is_packed_anew(archives: Archives, tmp_path: Path) -> None:
    """Another time of change: nothing of the earlier shards is trusted."""
    out = pack(tmp_path / "out", archives.train, archives.val, "--devkit", archives.devkit)
    train, _ = make_images()
    name = CLASSES[1]
    file = next(iter(train[name]))
    train[name][file] = train[name][file][:-3] + b"\1" + train[name][file][-2:]
    archives.train.write_bytes(make_train_tar(train))
    os.utime(archives.train, ns=(1, 1))
    pack(out, archives.train, archives.val, "--devkit", archives.devkit)
    assert train[name][file] in [data for _, data in list_records(out, "train")]


def test_images_are_read_in_the_order_of_their_places(
    archives: Archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a window: what spares a disk its long ways does not change the result."""
    whole = pack(tmp_path / "whole", archives.train, archives.val, "--devkit", archives.devkit)
    read, places = Archive.read, []

    def note(self, offset, size):  # type: ignore[no-untyped-def]
        places.append(offset)
        return read(self, offset, size)

    monkeypatch.setattr(Archive, "read", note)
    monkeypatch.setattr(prepare_data_pack, "READERS", 1)
    out = pack(
        tmp_path / "out", archives.train, archives.val, "--devkit", archives.devkit, shards=1
    )
    assert places[:21] == sorted(places[:21]) and places[21:] == sorted(places[21:])
    monkeypatch.setattr(prepare_data_pack, "WINDOW_BYTES", 1)
    del places[:]
    other = pack(tmp_path / "other", archives.train, archives.val, "--devkit", archives.devkit)
    assert places[:21] != sorted(places[:21])
    assert read_made(other) == read_made(whole) and read_made(out) != read_made(whole)


def test_memory_is_two_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 MB of images through windows of 1 MB: a few MB at once, whatever the archive's size."""
    name = "n01440764"
    image = encode_image(np.random.default_rng(1)) + bytes(200_000)
    images = {f"{name}_{k}.JPEG": image for k in range(200)}
    train, val, labels = (tmp_path / file for file in ("train.tar", "val.tar", "labels.txt"))
    train.write_bytes(make_train_tar({name: images}))
    val.write_bytes(make_tar({"ILSVRC2012_val_00000001.JPEG": image}))
    labels.write_text(f"{name}\n")
    del images
    monkeypatch.setattr(prepare_data_pack, "WINDOW_BYTES", 1 << 20)
    tracemalloc.start()
    pack(tmp_path / "out", train, val, "--val-labels", labels, shards=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert train.stat().st_size > 40_000_000 > 10 * peak


def test_a_disk_that_is_too_small_is_said_before_the_work(
    archives: Archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert "GB free and needs" in refuse_pack(archives)


def test_archives_list_their_images(archives: Archives) -> None:
    """Places and sizes point at the members' bytes in the outermost file."""
    train, val = make_images()
    with Archive(archives.train) as archive:
        images = TrainArchive(archive).images
        found = {image.name: archive.read(image.place, image.size) for image in images}
    assert found == {f"{n}/{file}": d for n, files in train.items() for file, d in files.items()}
    with Archive(archives.val) as archive:
        images = ValArchive(archive, read_devkit(archives.devkit)).images
        found = {image.name: archive.read(image.place, image.size) for image in images}
    names = [f"{NUMBERS[n]}/{file}" for n, file in zip(GROUND_TRUTH, val, strict=True)]
    assert found == dict(zip(names, val.values(), strict=True))


def test_the_command_says_a_wrong_archive_in_one_line(archives: Archives, tmp_path: Path) -> None:
    """Status 2, one sentence on stderr beside the progress, no traceback, nothing written."""
    archives.train.write_bytes(b"x" * 2000)
    command = ["--train", archives.train, "--val", archives.val, "--output", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-m", "resnet.prepare_data", "pack", *map(str, command)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("error: ") and "--devkit" in done.stderr
    command += ["--devkit", archives.devkit]
    done = subprocess.run(
        [sys.executable, "-m", "resnet.prepare_data", "pack", *map(str, command)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    errors = [line for line in done.stderr.splitlines() if not line.startswith("listing ")]
    assert done.returncode == 2 and len(errors) == 1 and "is not a tar archive" in errors[0]
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_made_is_said_before_the_listing(
    archives: Archives, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archives.train.write_bytes(b"no tar archive, as listing would notice")
    file = tmp_path / "file"
    file.write_bytes(b"kept")
    for output in (file, file / "out"):
        with pytest.raises(InputError, match=f"--output {output}: {file} is a file: name another"):
            pack(output, archives.train, archives.val, "--devkit", archives.devkit)
    assert file.read_bytes() == b"kept"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):
        pack(tmp_path / "out", tmp_path / "loop", archives.val, "--devkit", archives.devkit)
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(InputError, match=f"may not write to {tmp_path}: name another"):
        pack(tmp_path / "a" / "b", archives.train, archives.val, "--devkit", archives.devkit)
    assert not (tmp_path / "a").exists()


def test_the_journal_is_not_the_data_set(archives: Archives, tmp_path: Path) -> None:
    """A journal that says nothing useful costs time, not correctness."""
    out = pack(tmp_path / "out", archives.train, archives.val, "--devkit", archives.devkit)
    made = read_made(out)
    for path in (out / ".pack").glob("*.json"):
        path.write_text(json.dumps({"inputs": 1}))
    pack(out, archives.train, archives.val, "--devkit", archives.devkit)
    assert read_made(out) == made
