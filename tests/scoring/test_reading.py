"""The reader of packages: plain ones are read alike in every form, hostile ones are refused."""

import ast
import gzip
import io
import os
import socket
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import pytest

from scoring.exits import InputError
from scoring.package.members import Limits
from scoring.package.reading import open_package

ROOT = Path(__file__).resolve().parents[2]
CONTENT = {
    "maker/package.json": b"{}",
    "maker/results/fast4/resnet/result_0.txt": b":::MLLOG {}\n" * 9_000,
    "maker/notes/na\u00efve.txt": b"",
    f"maker/{'deep/' * 20}{'x' * 90}.txt": b"far down",
}
SMALL = Limits(
    archive_bytes=1 << 20, members=12, member_bytes=200_000, total_bytes=300_000,
    ratio=20, ratio_free_bytes=1000,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _own_place(tmp_path_factory, monkeypatch):
    """Give each test a folder of its own for what is unpacked."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("private")))


def read_all(path, limits=None):
    """Give the files of a package by their full names; the private folder must be gone."""
    with open_package(path, *([limits] if limits else [])) as package:
        top = package.submitter_folder
        found = {f"{top}/{name}": package.read(name) for name in package.files}
        private = package.private
        assert package.folder.is_relative_to(private)
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert not private.exists()
    return found


def refuse(path, words, limits=None):
    """Expect one sentence with the package's name and these words, and nothing left behind."""
    with pytest.raises(InputError) as caught, open_package(path, *([limits] if limits else [])):
        pass
    text = str(caught.value)
    assert words in text and str(path) in text
    assert "\n" not in text and text.isprintable()
    assert len(text) < 400
    assert not list(Path(tempfile.gettempdir()).iterdir())


def make_tar(path, members, form=tarfile.PAX_FORMAT, mode="w"):
    """Write a tar archive of TarInfo or names with their contents."""
    with tarfile.open(path, mode, format=form, encoding="utf-8") as archive:
        for member, content in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = info.size or len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def make_info(name, kind, **fields):
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def make_zip(path, members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return path


# -- plain packages -------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tar_archives_are_read(tmp_path, form, mode):
    path = make_tar(tmp_path / "package", CONTENT.items(), form, mode)
    assert read_all(path) == CONTENT


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_archives_are_read(tmp_path, method):
    assert read_all(make_zip(tmp_path / "package", CONTENT.items(), method)) == CONTENT


def write_content(folder):
    for name, content in CONTENT.items():
        path = folder / os.fsdecode(name.encode())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_folders_are_read(tmp_path):
    write_content(tmp_path / "package")
    assert read_all(tmp_path / "package") == CONTENT


READ = """
import sys
from pathlib import Path
from scoring.package.reading import open_package
for path in sys.argv[1:]:
    with open_package(Path(path)) as package:
        print(ascii({name: len(package.read(name)) for name in package.files}))
"""


def test_names_are_utf8_whatever_the_locale(tmp_path):
    write_content(tmp_path / "package")
    make_tar(tmp_path / "a.tar", CONTENT.items())
    make_zip(tmp_path / "a.zip", CONTENT.items())
    variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", READ, *(tmp_path / name for name in ("package", "a.tar", "a.zip"))],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    sizes = {name.removeprefix("maker/"): len(content) for name, content in CONTENT.items()}
    assert [ast.literal_eval(line) for line in done.stdout.splitlines()] == [sizes] * 3


@pytest.mark.skipif(
    sys.getfilesystemencoding() != "utf-8", reason="Python's own writers cannot name the files"
)
def test_archives_with_their_folders_are_read(tmp_path):
    write_content(tmp_path)
    with tarfile.open(tmp_path / "package.tgz", "w:gz") as archive:
        archive.add(tmp_path / "maker", "maker")
    assert read_all(tmp_path / "package.tgz") == CONTENT
    with zipfile.ZipFile(tmp_path / "package.zip", "w") as archive:
        for place in ["maker", *sorted((tmp_path / "maker").rglob("*"))]:
            archive.write(tmp_path / place, (tmp_path / place).relative_to(tmp_path))
    assert read_all(tmp_path / "package.zip") == CONTENT


def test_a_zip_written_to_a_pipe_is_read(tmp_path):
    """Its sizes stand behind each member, since nobody could go back to the headers."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.pieces = []

        def write(self, data):
            self.pieces.append(bytes(data))
            return len(data)

        def writable(self):
            return True

    pipe = Pipe()
    make_zip(pipe, [("maker/a", b"a" * 500), ("maker/b", b"b")])
    (tmp_path / "package").write_bytes(b"".join(pipe.pieces))
    assert read_all(tmp_path / "package") == {"maker/a": b"a" * 500, "maker/b": b"b"}


def test_modes_and_times_are_not_taken(tmp_path):
    info = make_info("maker/a", tarfile.REGTYPE, mode=0o6777, mtime=1, uid=0)
    path = make_tar(tmp_path / "package.tar", [(info, b"text")])
    with open_package(path) as package:
        status = (package.folder / "a").stat()
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_mtime > 1000


def test_archives_within_are_just_files(tmp_path):
    inner = make_zip(tmp_path / "inner.zip", [("../x", b"")]).read_bytes()
    path = make_tar(tmp_path / "package.tar", [("maker/inner.zip", inner)])
    assert read_all(path) == {"maker/inner.zip": inner}


# -- names ----------------------------------------------------------------------------------------

NAMES = [
    ("/etc/passwd", "absolute"),
    ("maker/../../x", "'..'"),
    ("..", "'..'"),
    ("maker/a\\b", "backslash"),
    ("C:/x", "drive letter"),
    ("maker/c:x", "drive letter"),
    ("maker/a\nb", "control characters"),
    ("maker/\x1b[2J", "control characters"),
    ("maker/\u202egnp.txt", "control characters"),
    ("maker//x", "empty part"),
    ("maker/./x", "empty part"),
    ("maker/" + "x" * 256, "longer than 255"),
    ("maker/" + "xy/" * 40 + "x", "deeper than"),
    ("maker/" + "/".join(["x" * 200] * 6), "longer than 1024"),
    ("file", "is a file where"),
]


@pytest.mark.parametrize(("name", "words"), NAMES)
def test_names_that_mean_another_place(tmp_path, name, words):
    refuse(make_tar(tmp_path / "a.tar", [(name, b"x")]), words)
    refuse(make_zip(tmp_path / "a.zip", [(name, b"x")]), words)
    assert not (tmp_path.parent / "x").exists()


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("maker/a", "maker/a", "is there twice"),
        ("maker/README", "maker/readme", "is one name with"),
        ("maker/stra\u00dfe", "maker/STRASSE", "is one name with"),
        ("maker/\u00e9", "maker/e\u0301", "is one name with"),
        ("maker/A/x", "maker/a/y", "is one name with"),
        ("maker/a", "maker/a/b", "needs a folder"),
        ("maker/a/b", "maker/a", "is there twice"),
        ("maker/a", "other/a", "stands beside"),
        ("maker/a", "MAKER/a", "is one name with"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_meet(tmp_path, first, second, words):
    members = [(first, b"1"), (second, b"2")]
    refuse(make_tar(tmp_path / "a.tar", members), words)
    refuse(make_zip(tmp_path / "a.zip", members), words)


def test_names_that_are_not_utf8(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("maker/\u00e9"), io.BytesIO())
    refuse(path, "not UTF-8")
    content = make_zip(tmp_path / "b.zip", [("maker/\u00e9\u00e9", b"")]).read_bytes()
    path = tmp_path / "a.zip"
    path.write_bytes(content.replace("\u00e9".encode(), b"\xe9\xe9"))
    refuse(path, "not UTF-8")
    os.makedirs(os.fsencode(tmp_path) + b"/folder/maker/\xff")
    refuse(tmp_path / "folder", "not UTF-8")


# -- kinds ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (tarfile.SYMTYPE, "symbolic link"),
        (tarfile.LNKTYPE, "hard link"),
        (tarfile.FIFOTYPE, "named pipe"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.BLKTYPE, "device"),
        (tarfile.CONTTYPE, "neither a file nor a folder"),
        (b"V", "neither a file nor a folder"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
    ],
)
def test_other_kinds_in_a_tar_archive(tmp_path, kind, words):
    info = make_info("maker/x", kind, linkname="/etc/passwd")
    refuse(make_tar(tmp_path / "a.tar", [("maker/good", b""), (info, b"")]), words)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (stat.S_IFLNK, "is a link"),
        (stat.S_IFIFO, "a device or a pipe"),
        (stat.S_IFCHR, "a device or a pipe"),
        (stat.S_IFDIR, "folder by its mode"),
    ],
)
def test_other_kinds_in_a_zip_archive(tmp_path, mode, words):
    info = zipfile.ZipInfo("maker/x")
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    refuse(make_zip(tmp_path / "a.zip", [(info, b"/etc/passwd")]), words)


def test_other_kinds_in_a_folder(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "maker"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)  # the name of a socket must be short
    os.symlink("/etc/passwd", "x")
    refuse(tmp_path / "a", "is a link")
    os.unlink("x")
    os.symlink("/etc", "x")
    refuse(tmp_path / "a", "is a link")
    os.unlink("x")
    os.mkfifo("x")
    refuse(tmp_path / "a", "named pipe")
    os.unlink("x")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x")
        refuse(tmp_path / "a", "socket")


def test_what_is_no_package(tmp_path):
    refuse(tmp_path / "nowhere", "No such file")
    os.mkfifo(tmp_path / "pipe")
    refuse(tmp_path / "pipe", "neither a file nor a folder")
    (tmp_path / "empty").write_bytes(b"")
    refuse(tmp_path / "empty", "is no folder, tar, tar.gz or zip")
    (tmp_path / "text.zip").write_bytes(b"text")
    refuse(tmp_path / "text.zip", "is no folder, tar, tar.gz or zip")
    (tmp_path / "text.gz").write_bytes(gzip.compress(b"text"))
    refuse(tmp_path / "text.gz", "holds no tar archive")
    (tmp_path / "folder").mkdir()
    refuse(tmp_path / "folder", "holds no file")
    refuse(make_zip(tmp_path / "none.zip", []), "holds no file")


# -- sizes ----------------------------------------------------------------------------------------


def test_sizes_are_bounded(tmp_path):
    noise = os.urandom(150_000)
    for make, name in ((make_tar, "a.tar"), (make_zip, "a.zip")):
        path = tmp_path / name
        words = "one more than the 12" if name == "a.tar" else "holds 13 members"
        refuse(make(path, [(f"maker/{n}", b"") for n in range(13)]), words, SMALL)
        refuse(make(path, [("maker/a", noise + noise)]), "is larger than", SMALL)
        refuse(make(path, [(f"maker/{n}", noise) for n in range(3)]), "holds more than", SMALL)
    folder = tmp_path / "folder" / "maker"
    folder.mkdir(parents=True)
    for name in ("a", "b", "c"):
        (folder / name).write_bytes(noise)
    refuse(tmp_path / "folder", "holds more than", SMALL)
    (folder / "a").write_bytes(noise + noise)
    refuse(tmp_path / "folder", "is larger than", SMALL)
    for number in range(14):
        (folder / f"n{number}").write_bytes(b"")
    refuse(tmp_path / "folder", "members", SMALL)
    (tmp_path / "huge.zip").write_bytes(b"PK\x03\x04")
    os.truncate(tmp_path / "huge.zip", SMALL.archive_bytes + 1)
    refuse(tmp_path / "huge.zip", "is larger than", SMALL)


def test_bombs_are_refused_early(tmp_path):
    zeros = bytes(190_000)
    refuse(make_tar(tmp_path / "a.tgz", [("maker/a", zeros)], mode="w:gz"), "times its size", SMALL)
    refuse(make_zip(tmp_path / "a.zip", [("maker/a", zeros)]), "times its size", SMALL)
    header = make_info("maker/a", b"g", size=1024).tobuf(tarfile.PAX_FORMAT)
    block = b"1024 comment=" + b"x" * 1010 + b"\n"
    endless = gzip.compress((header + block) * 2000)
    (tmp_path / "b.tgz").write_bytes(endless)
    refuse(tmp_path / "b.tgz", "more than", SMALL)


def test_claimed_sizes_are_refused_without_being_read(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(make_info("maker/a", b"0", size=8**11 - 1).tobuf() + bytes(1024))
    refuse(path, "is larger than")
    path.write_bytes(make_info("maker/a", b"0", size=1 << 40).tobuf(tarfile.GNU_FORMAT))
    refuse(path, "beyond all bounds")
    path.write_bytes(make_info("maker/a", b"x", size=8**11 - 1).tobuf() + bytes(1024))
    refuse(path, "extended header of more than")
    path.write_bytes(make_info("maker/a", b"L", size=8**11 - 1).tobuf() + bytes(1024))
    refuse(path, "extended header of more than")


# -- tar's tricks ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ({"path": "../../x"}, "'..'"),
        ({"path": "maker/x\0y"}, "control characters"),
        ({"size": "5"}, "extended header with size"),
        ({"GNU.sparse.major": "1", "GNU.sparse.name": "maker/y"}, "GNU.sparse"),
        ({"hdrcharset": "BINARY"}, "not UTF-8"),
    ],
)
def test_extended_headers(tmp_path, records, words):
    info = make_info("maker/x", tarfile.REGTYPE, pax_headers=records)
    refuse(make_tar(tmp_path / "a.tar", [(info, b"")]), words)


def test_extended_headers_that_are_harmless(tmp_path):
    records = {"mtime": "1.5", "comment": "any", "path": "maker/y"}
    info = make_info("maker/x", tarfile.REGTYPE, pax_headers=records)
    assert read_all(make_tar(tmp_path / "a.tar", [(info, b"1")])) == {"maker/y": b"1"}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"999 path=maker/y\n", "cannot be read"),
        (b"0 path=maker/y\n", "cannot be read"),
        (b"16 path=maker/y ", "cannot be read"),
        (b"nonsense", "cannot be read"),
        (b"16 path=maker/y\n16 path=maker/z\n", "something twice"),
        (b"16 path=maker/\xff\n", "not UTF-8"),
    ],
)
def test_broken_extended_headers(tmp_path, body, words):
    extension = make_info("maker/x", b"x", size=len(body)).tobuf()
    extension += body + bytes(-len(body) % 512)
    path = tmp_path / "a.tar"
    path.write_bytes(extension + tarfile.TarInfo("maker/x").tobuf() + bytes(1024))
    refuse(path, words)


def test_global_headers_name_nothing(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", pax_headers={"comment": "of git archive"}) as archive:
        archive.addfile(tarfile.TarInfo("maker/x"))
    assert read_all(path) == {"maker/x": b""}
    with tarfile.open(path, "w", pax_headers={"path": "maker/y"}) as archive:
        archive.addfile(tarfile.TarInfo("maker/x"))
    refuse(path, "extended header with path")


def test_two_names_for_one_member(tmp_path):
    records = b"16 path=maker/y\n"
    long_name = b"maker/z\0"
    path = tmp_path / "a.tar"
    path.write_bytes(
        make_info("maker/x", b"x", size=len(records)).tobuf() + records.ljust(512, b"\0")
        + make_info("maker/x", b"L", size=len(long_name)).tobuf() + long_name.ljust(512, b"\0")
        + tarfile.TarInfo("maker/x").tobuf() + bytes(1024)
    )  # fmt: skip
    refuse(path, "has two names")


def sign(block):
    """Give a tar header its checksum anew."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_tar_headers_that_hide_something(tmp_path):
    path = tmp_path / "a.tar"
    plain = tarfile.TarInfo("maker/x").tobuf()
    path.write_bytes(sign(plain[:7] + b"\0../../y" + plain[15:]) + bytes(1024))
    refuse(path, "NUL in its name")
    path.write_bytes(plain[:3] + b"K" + plain[4:] + bytes(1024))
    refuse(path, "checksum")
    path.write_bytes(sign(plain[:257] + b"other  \0" + plain[265:]) + bytes(1024))
    refuse(path, "is no folder, tar")
    path.write_bytes(plain + b"text".ljust(512, b"\0") + bytes(1024))
    refuse(path, "no tar header")
    folder = make_info("maker/x", tarfile.DIRTYPE).tobuf()
    path.write_bytes(sign(folder[:124] + b"00000001000\0" + folder[136:]) + bytes(2048))
    refuse(path, "folder with content")
    path.write_bytes(sign(plain[:124] + b"0000000x000\0" + plain[136:]) + bytes(2048))
    refuse(path, "no number")


def test_cut_or_lengthened_tar_archives(tmp_path):
    content = make_tar(tmp_path / "a", [("maker/x", b"1" * 700)]).read_bytes()
    path = tmp_path / "a.tar"
    for length in (512, 600, 1200, 1536):
        path.write_bytes(content[:length])
        refuse(path, "cut short")
    path.write_bytes(content + b"more")
    refuse(path, "behind the end")
    path.write_bytes(gzip.compress(content)[:-9])
    refuse(path, "cut short")
    path.write_bytes(gzip.compress(content) + b"more")
    refuse(path, "behind the end")
    path.write_bytes(gzip.compress(content) + gzip.compress(content))
    refuse(path, "behind the end")
    damaged = bytearray(gzip.compress(content))
    damaged[-6] ^= 1
    path.write_bytes(damaged)
    refuse(path, "damaged")


# -- zip's tricks ---------------------------------------------------------------------------------

END = struct.Struct("<4s4H2IH")


def test_cut_or_lengthened_zip_archives(tmp_path):
    content = make_zip(tmp_path / "a", [("maker/x", b"1" * 700)]).read_bytes()
    path = tmp_path / "a.zip"
    path.write_bytes(content[:-1])
    refuse(path, "does not end with its directory")
    path.write_bytes(content[:10])
    refuse(path, "cut short")
    path.write_bytes(content + b"more")
    refuse(path, "does not end with its directory")
    path.write_bytes(b"PK\x03\x04" + content)
    refuse(path, "directory that is not where")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("maker/x", b"")
        archive.comment = b"words"
    refuse(path, "does not end with its directory")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        (1, 1, "several disks"),
        (3, 7, "several disks"),
        (5, 20, "not where it says"),
        (6, 1, "not where it says"),
        (6, 0xFFFFFFFF, "not where it says"),
    ],
)
def test_lying_ends_of_a_zip_archive(tmp_path, field, value, words):
    content = make_zip(tmp_path / "a", [("maker/x", b"1" * 700)]).read_bytes()
    fields = list(END.unpack(content[-22:]))
    fields[field] = value
    path = tmp_path / "a.zip"
    path.write_bytes(content[:-22] + END.pack(*fields))
    refuse(path, words)


def change(content, mark, offset, new):
    """Overwrite bytes of the first header with a mark."""
    place = content.index(mark) + offset
    return content[:place] + new + content[place + len(new) :]


@pytest.mark.parametrize(
    ("offset", "new", "words"),
    [
        (8, b"\x01\0", "is encrypted"),
        (8, b"\x40\0", "is encrypted"),
        (8, b"\x02\0", "by its own header"),
        (10, b"\x0c\0", "by deflate"),
        (16, b"\0\0\0\0", "by its own header"),
        (20, b"\x01\0\0\0", "by its own header"),
        (24, b"\xff\xff\xff\xff", "zip64"),
        (42, b"\x01\0\0\0", "does not begin where"),
        (46, b"mbker/x", "by its own header"),
        (34, b"\x01\0", "zip64"),
    ],
)
def test_lying_directories_of_a_zip_archive(tmp_path, offset, new, words):
    content = make_zip(tmp_path / "a", [("maker/x", b"1" * 700)]).read_bytes()
    path = tmp_path / "a.zip"
    path.write_bytes(change(content, b"PK\x01\x02", offset, new))
    refuse(path, words)


@pytest.mark.parametrize("size", [b"\x01\0\0\0", b"\xff\0\0\0"])
def test_sizes_that_lie_in_both_headers(tmp_path, size):
    content = make_zip(tmp_path / "a", [("maker/x", os.urandom(50))]).read_bytes()
    content = change(content, b"PK\x01\x02", 24, size)
    path = tmp_path / "a.zip"
    path.write_bytes(change(content, b"PK\x03\x04", 22, size))
    refuse(path, "another content than its size")


def test_members_of_a_zip_archive_that_overlap(tmp_path):
    """The bomb of one kernel that many directory lines point at."""
    content = make_zip(tmp_path / "a", [("maker/x", b"1" * 700)]).read_bytes()
    start = content.index(b"PK\x01\x02")
    line, end = content[start:-22], list(END.unpack(content[-22:]))
    end[3] = end[4] = 2
    end[5] = 2 * len(line)
    path = tmp_path / "a.zip"
    path.write_bytes(content[:start] + line + line.replace(b"maker/x", b"maker/y") + END.pack(*end))
    refuse(path, "does not begin where")


def test_bytes_between_the_members_of_a_zip_archive(tmp_path):
    first = make_zip(tmp_path / "a", [("maker/x", b"1")]).read_bytes()
    start = first.index(b"PK\x01\x02")
    end = list(END.unpack(first[-22:]))
    end[6] += 4
    path = tmp_path / "a.zip"
    path.write_bytes(first[:start] + b"more" + first[start:-22] + END.pack(*end))
    refuse(path, "belong to no member")


def test_second_names_and_sizes_of_a_zip_archive(tmp_path):
    for kind in (0x0001, 0x7075):
        info = zipfile.ZipInfo("maker/x")
        info.extra = struct.pack("<HH", kind, 8) + bytes(8)
        refuse(make_zip(tmp_path / "a.zip", [(info, b"1")]), "extra field")
    info.extra = b"\x01\x02\xff\0"
    refuse(make_zip(tmp_path / "a.zip", [(info, b"1")]), "extra field")


def test_damaged_content_of_a_zip_archive(tmp_path):
    data = os.urandom(3000)
    content = make_zip(tmp_path / "a", [("maker/x", data)]).read_bytes()
    path = tmp_path / "a.zip"
    path.write_bytes(content.replace(data[1000:1010], bytes(10)))
    refuse(path, "another content")
    content = make_zip(tmp_path / "a", [("maker/x", bytes(3000))]).read_bytes()
    path.write_bytes(change(content, b"PK\x03\x04", 30 + 7, b"\xff\xff\xff"))
    refuse(path, "damaged")


def test_a_zip_member_with_a_tail(tmp_path):
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(b"text") + packer.flush() + b"tail"
    name, checksum = b"maker/x", zlib.crc32(b"text")
    sizes = (checksum, len(packed), 4, len(name), 0)
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0, *sizes) + name + packed
    central = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, *sizes, 0, 0, 0, 0, 0)
    end = END.pack(b"PK\x05\x06", 0, 0, 1, 1, len(central) + len(name), len(local), 0)
    path = tmp_path / "a.zip"
    path.write_bytes(local + central + name + end)
    refuse(path, "behind its packed content")


def test_nothing_is_left_behind_when_the_block_fails(tmp_path):
    path = make_zip(tmp_path / "a.zip", CONTENT.items())
    private = []
    with pytest.raises(RuntimeError), open_package(path) as package:
        private.append(package.private)
        raise RuntimeError
    assert not private[0].exists()
