"""The download: MLCommons' commands, run with tools of ours here, and what is there checked."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from bert import prepare_data
from bert.prepare_data import main
from bert.prepare_data_download import (
    MISSING,
    NOT_PUBLISHED,
    OK,
    WRONG_MD5,
    WRONG_SIZE,
    check_files,
    download_files,
    list_commands,
)
from bert.published_data import PublishedData, PublishedFile, read_published_data
from harness.commands import InputError

CATALOGUES = ("https://no.where/one.uri", "https://no.where/two.uri")
CONTENTS = {
    "vocab.txt": b"words",
    "tf1_ckpt/model.index": b"index",
    "results/eval.txt": b"evaluation",
    "results/part-00000-of-00003": b"part",
}
OTHER = {"tf2_ckpt/model.index": b"other index"}


def publish(path: str, content: bytes, needed: bool) -> PublishedFile:
    return PublishedFile(path, len(content), hashlib.md5(content).hexdigest(), needed, "us")


@pytest.fixture
def published() -> PublishedData:
    files = [publish(path, content, True) for path, content in CONTENTS.items()]
    files += [publish(path, content, False) for path, content in OTHER.items()]
    return PublishedData({}, "https://no.where/script.sh", CATALOGUES, 3, tuple(files), (), ())


def write_all(folder: Path) -> None:
    more = {f"results/part-0000{number}-of-00003": b"unknown" for number in (1, 2)}
    for path, content in {**CONTENTS, **more}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def list_states(published: PublishedData, folder: Path) -> dict[str, str]:
    return {state.name: state.state for state in check_files(published, folder, 2)}


def test_the_real_table_names_every_file_that_is_needed(tmp_path: Path) -> None:
    states = list_states(read_published_data(), tmp_path / "nothing")
    assert set(states.values()) == {MISSING}
    parts = [name for name in states if name.startswith("results/")]
    assert len(parts) == 502 and "results/part-00499-of-00500" in parts
    assert sorted(set(states) - set(parts)) == [
        "bert_config.json",
        "tf1_ckpt/model.ckpt-28252.data-00000-of-00001",
        "tf1_ckpt/model.ckpt-28252.index",
        "tf1_ckpt/model.ckpt-28252.meta",
        "vocab.txt",
    ]


def test_files_are_compared(published: PublishedData, tmp_path: Path) -> None:
    write_all(tmp_path)
    good = dict.fromkeys(CONTENTS, OK)
    unknown = {f"results/part-0000{number}-of-00003": NOT_PUBLISHED for number in (1, 2)}
    assert list_states(published, tmp_path) == {**good, **unknown}
    (tmp_path / "vocab.txt").write_bytes(b"wordz")
    (tmp_path / "results/eval.txt").write_bytes(b"evaluation, longer")
    (tmp_path / "results/part-00001-of-00003").write_bytes(b"")
    (tmp_path / "results/part-00002-of-00003").unlink()
    states = {state.name: state for state in check_files(published, tmp_path, 1)}
    lines = {name: state.describe() for name, state in states.items()}
    assert states["vocab.txt"].state == WRONG_MD5
    assert hashlib.md5(b"wordz").hexdigest() in lines["vocab.txt"]
    assert states["results/eval.txt"].state == WRONG_SIZE
    assert "(18 bytes, not 10)" in lines["results/eval.txt"]
    assert "(empty)" in lines["results/part-00001-of-00003"]
    assert lines["results/part-00002-of-00003"].split() == [MISSING, "results/part-00002-of-00003"]


def test_folders_may_have_other_names(published: PublishedData, tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / "results").rename(tmp_path / "results4")
    assert list_states(published, tmp_path)["results/eval.txt"] == OK
    # Two checkpoints have files of one name: there the folder decides.
    (tmp_path / "tf1_ckpt").rename(tmp_path / "tf2_ckpt")
    states = list_states(published, tmp_path)
    assert states["tf1_ckpt/model.index"] == MISSING
    assert states["tf2_ckpt/model.index"] == WRONG_SIZE


def test_links_that_lead_back_and_pipes_do_no_harm(
    published: PublishedData, tmp_path: Path
) -> None:
    write_all(tmp_path / "real")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "data" / "vocab.txt")
    assert list_states(published, tmp_path / "data")["vocab.txt"] == OK


def install_tools(
    folder: Path, monkeypatch: pytest.MonkeyPatch, curl: str, names: tuple[str, ...]
) -> None:
    """Put a curl of ours and empty tools on the path, and nothing else but a shell."""
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\nexit 0\n")
    (folder / "curl").write_text(f"#!/bin/sh\n{curl}\n")
    for tool in folder.iterdir():
        tool.chmod(0o755)
    (folder / "bash").unlink(missing_ok=True)
    (folder / "bash").symlink_to("/bin/bash")
    monkeypatch.setenv("PATH", str(folder))


def test_the_downloader_is_run_in_the_folder_for_each_catalogue(
    published: PublishedData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    script = r'printf "%s\n" "echo \"\$1\" >> called; echo prose"'
    install_tools(tmp_path / "bin", monkeypatch, script, ("wget", "md5sum"))
    download_files(published, tmp_path / "data")
    assert (tmp_path / "data" / "called").read_text().split() == list(CATALOGUES)
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err.count("prose") == 2


@pytest.mark.parametrize(
    ("curl", "names", "sentence"),
    [
        ("exit 0", ("wget",), "md5sum not found"),
        ("echo curl: no host >&2; exit 6", ("wget", "md5sum"), "no host.*check the network"),
        ("echo exit 3", ("wget", "md5sum"), "one.uri ended with status 3"),
    ],
)
def test_what_is_missing_is_one_sentence(
    published: PublishedData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    curl: str,
    names: tuple[str, ...],
    sentence: str,
) -> None:
    install_tools(tmp_path / "bin", monkeypatch, curl, names)
    with pytest.raises(InputError, match=sentence) as caught:
        download_files(published, tmp_path / "data")
    assert "\n" not in str(caught.value)


def test_the_command_prints_and_runs_nothing(
    published: PublishedData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(prepare_data, "read_published_data", lambda: published)
    folder = tmp_path / "a folder"
    assert main(["download", str(folder)]) == 1
    assert not folder.exists()
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == list_commands(published, folder)
    assert lines[0] == f"mkdir -p '{folder}' && cd '{folder}'"
    assert lines[1].startswith("bash <(curl -s https://no.where/script.sh) https://")
    assert lines[-1] == "not complete: 0 of 6 files are good"
    write_all(folder)
    assert main(["download", str(folder), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["complete"] is True and len(content["files"]) == 6
    assert {file["state"] for file in content["files"]} == {OK, NOT_PUBLISHED}
