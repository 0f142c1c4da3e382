"""The package's layout: names allowed, and a manifest that is read strictly."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from scoring.exits import InputError
from scoring.package.layout import (
    FileEntry,
    Image,
    Manifest,
    ManifestError,
    get_format,
    get_log_number,
    is_package_path,
    is_system_name,
    make_folder_name,
    parse_manifest,
    write_manifest,
)

DIGEST = "0123456789abcdef" * 4
MANIFEST = Manifest(
    kit="0.1.0",
    profile="lp2bm",
    ruleset="4.0.0",
    window=False,
    submitter="Maker & Sons",
    system="fast4",
    system_file="systems/fast4.toml",
    configurations={"resnet": "resnet/configs/h100_4x4.toml", "bert": "bert/configs/h100_4x4.toml"},
    image=Image("", "", None),
    source_sha256={"resnet": DIGEST, "bert": DIGEST},
    files={"score.json": FileEntry(DIGEST, 12), "README.md": FileEntry(DIGEST, 0)},
)


def test_a_manifest_is_read_back_as_written():
    content = write_manifest(MANIFEST)
    assert parse_manifest(content) == MANIFEST
    assert parse_manifest(write_manifest(parse_manifest(content))) == MANIFEST
    with_image = replace(MANIFEST, image=Image("/images/kit.sif", f"sha256:{DIGEST}", DIGEST))
    assert parse_manifest(write_manifest(with_image)) == with_image


def test_the_order_of_files_does_not_change_the_bytes():
    turned = dict(reversed(MANIFEST.files.items()))
    assert write_manifest(replace(MANIFEST, files=turned)) == write_manifest(MANIFEST)


def alter(path, value):
    document = json.loads(write_manifest(MANIFEST))
    place = document
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["schema"], 2, "'schema' is 2"),
        (["schema"], True, "'schema' is true"),
        (["window"], None, '"window" is missing'),
        (["other"], 1, '"other" is unknown'),
        (["kit"], 1, '"kit" must be text'),
        (["window"], 0, "'window' must be true or false"),
        (["system"], "../x", "no system's name"),
        (["system_file"], "/etc/passwd", "no path that a package may hold"),
        (["configurations"], [], '"configurations" must be an object'),
        (["configurations", "bert"], None, '"configurations.bert" is missing'),
        (["configurations", "bert"], "a/../b", "no path"),
        (["source_sha256", "resnet"], DIGEST.upper(), "must be a SHA-256"),
        (["image"], "none", '"image" must be an object'),
        (["image", "digest"], 0, '"image.digest" must be text'),
        (["image", "manifest_sha256"], "", "must be a SHA-256"),
        (["files"], [], "'files' must be an object"),
        (["files", "score.json"], [], '"files.score.json" must be an object'),
        (["files", "score.json", "bytes"], -1, "must be a whole number"),
        (["files", "score.json", "bytes"], True, "must be a whole number"),
        (["files", "score.json", "sha256"], "abc", "must be a SHA-256"),
        (["files", "package.json"], {"sha256": DIGEST, "bytes": 1}, "its own hash"),
        (["files", "../x"], {"sha256": DIGEST, "bytes": 1}, "no path"),
        (["files", "a\n\x1b[31m"], {"sha256": DIGEST, "bytes": 1}, "no path"),
    ],
)
def test_a_wrong_manifest_is_one_printable_sentence(path, value, words):
    with pytest.raises(ManifestError) as raised:
        parse_manifest(alter(path, value))
    assert words in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"[]", b'{"schema": 1, "schema": 1}', b"[" * 100_000])
def test_what_is_no_json_object(content):
    with pytest.raises(ManifestError):
        parse_manifest(content)


@pytest.mark.parametrize(
    ("path", "good"),
    [
        ("a/b.txt", True),
        ("harness/__init__.py", True),
        ("a+b/c-d_e.f", True),
        ("", False),
        ("/a", False),
        ("a/", False),
        ("a//b", False),
        ("a/../b", False),
        (".git/config", False),
        ("a b", False),
        ("a\\b", False),
        ("-rf", False),
        ("a\n", False),
        ("é", False),
        ("a/" * 119 + "a", True),
        ("a/" * 120 + "a", False),
    ],
)
def test_paths(path, good):
    assert is_package_path(path) == good


def test_names_of_systems_and_logs():
    assert is_system_name("example-4x4-h100")
    assert not any(map(is_system_name, ("", ".", "..", "a/b", "a b", "a\n", "x" * 65)))
    assert get_log_number("result_10.txt") == 10
    for name in ("result_.txt", "result_01.txt", "result_1.txt\n", "result_-1.txt", "x.txt"):
        assert get_log_number(name) is None


def test_folder_of_a_submitter():
    assert make_folder_name("Maker") == "Maker"
    assert make_folder_name("Maker & Sons, Inc.") == "Maker_Sons_Inc."
    assert make_folder_name("../../etc") == "etc"
    assert make_folder_name("<b>x</b>") == "b_x_b"
    assert is_package_path(make_folder_name("x" * 500))
    for name in ("a\nb", "a\x1b[31m", "\u2028x", "", "///", "日本"):
        with pytest.raises(InputError) as raised:
            make_folder_name(name)
        assert str(raised.value).isprintable()


def test_form_by_name():
    forms = {"p": "folder", "p.v1": "folder", "p.tar": "tar", "p.TGZ": "tar.gz", "p.zip": "zip"}
    assert {name: get_format(Path(name)) for name in forms} == forms
    assert get_format(Path("a.tar.gz")) == "tar.gz"
    for name in ("p.tar.zst", "p.7z", "p.tar.bz2", "p.gz"):
        with pytest.raises(InputError, match=r"folder, \.tar"):
            get_format(Path(name))
