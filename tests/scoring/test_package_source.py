"""The source that a package delivers, and the hash that ties it to the logs."""

import os
import subprocess

import pytest

from scoring.exits import InputError
from scoring.package.source import ROOT, hash_sources, is_delivered, read_source
from tests.scoring.package_campaign import KIT, write_files


@pytest.fixture
def kit(tmp_path):
    """Write a small kit."""
    write_files(tmp_path / "kit", KIT)
    return tmp_path / "kit"


def test_what_is_delivered_and_what_is_not(kit):
    write_files(kit, {"docs/talk.pptx": "", "tests/.cache/x.py": "", "scripts/test": "#!/bin/sh"})
    source = read_source(kit)
    hidden = {".gitignore", ".dockerignore"}
    made = {"bert/__pycache__/train.cpython-311.pyc", "data/images.bin"}
    assert set(source.files) == set(KIT) - hidden - made | {
        *("Dockerfile.dockerignore", "scripts/test")
    }
    assert source.left_out == ("docs/talk.pptx",)
    assert source.version == "1.2.3"


def test_hash_is_the_one_that_the_logs_carry():
    from harness.provenance import hash_sources as hash_as_logged

    files = read_source(ROOT).files
    for benchmark in ("resnet", "bert"):
        folders = ("harness", benchmark)
        assert hash_sources(files, folders) == hash_as_logged(ROOT, folders)


def test_hash_depends_on_names_and_contents_as_the_logged_one_does(kit):
    from harness.provenance import hash_sources as hash_as_logged

    write_files(kit, {"harness/ops/a.py": "1", "harness/ops-b.py": "", "harness/x.md": ""})
    files = read_source(kit).files
    digest = hash_sources(files, ("harness",))
    assert digest == hash_as_logged(kit, ("harness",))
    assert digest == hash_sources({**files, "harness/x.md": b"2"}, ("harness",))
    assert digest != hash_sources({**files, "harness/ops.py": b"2"}, ("harness",))


def test_every_file_of_this_kit_is_delivered():
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not listed:
        pytest.skip("not in a git checkout: nothing says which files belong to the kit")
    there = {path for path in listed if (ROOT / path).exists() and not path.startswith(".")}
    delivered = set(read_source(ROOT).files)
    assert there <= delivered
    assert not any("__pycache__" in path or path.startswith("results/") for path in delivered)
    assert all(map(is_delivered, delivered))


@pytest.mark.parametrize(
    "name", ["harness/.hidden.py", "resnet/two words.py", "bert/configs/\x1b[2J.toml"]
)
def test_hashed_sources_that_cannot_be_delivered(kit, name):
    write_files(kit, {name: ""})
    with pytest.raises(InputError, match="cannot hold that name") as raised:
        read_source(kit)
    assert str(raised.value).isprintable()


def test_links_and_pipes(kit, tmp_path):
    (kit / "docs").symlink_to(tmp_path)
    with pytest.raises(InputError, match='"docs" is a link'):
        read_source(kit)
    (kit / "docs").unlink()
    (kit / "harness/more.py").symlink_to(kit / "harness/ops.py")
    with pytest.raises(InputError, match=r'"harness/more\.py" is a link'):
        read_source(kit)
    (kit / "harness/more.py").unlink()
    os.mkfifo(kit / "harness/pipe.py")
    with pytest.raises(InputError, match="no regular file"):
        read_source(kit)


def test_a_kit_without_licence(kit):
    (kit / "LICENSE").unlink()
    with pytest.raises(InputError, match=r"holds no LICENSE: .*--source"):
        read_source(kit)


def test_a_folder_that_is_no_kit(kit, tmp_path):
    for wrong in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"holds no harness: .*--source"):
            read_source(wrong)
    for text in ("", "[project]\nversion = 1\n", "[project", "project = 1"):
        (kit / "pyproject.toml").write_text(text)
        with pytest.raises(InputError, match="no version"):
            assert read_source(kit).version
