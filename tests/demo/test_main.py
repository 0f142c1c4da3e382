"""`python -m demo`: made once, made anew when its sources change, half-made never taken for made.

Also that the demonstration's profile of scoring says what this folder and the configurations make.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from pathlib import Path

import pytest

import demo.__main__ as demo_main
from bert.checkpoint import read_checkpoint
from bert.config import Config as BertConfig
from bert.shards import read_manifest as read_bert_manifest
from harness.commands import InputError
from harness.config import load_config
from harness.systems import load_system
from resnet.config import EVALUATION_PERIOD_EPOCHS
from resnet.config import Config as ResnetConfig
from resnet.shards import read_manifest as read_resnet_manifest
from tests.conftest import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SMALL = {
    "CLASSES": 3,
    "TRAIN_IMAGES": 24,
    "VAL_IMAGES": 12,
    "DOCUMENTS_PER_PART": 6,
    "EVALUATION_DOCUMENTS": 6,
    "EVALUATION_SAMPLES": 20,
    "FIRST_PHASE_UPDATES": 1,
}


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(demo_main, name, value)


def make(output: Path, *options: str) -> None:
    assert demo_main.main(["--output", str(output), *options]) == 0


def list_files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder: when it was written, and what it holds."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data, made once for the tests that only look at it."""
    output = tmp_path_factory.mktemp("made") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(demo_main, name, value)
        make(output)
    return output


def test_what_is_made_is_what_the_trainers_read(made: Path) -> None:
    images = read_resnet_manifest(made / "resnet")
    assert (images.train.images, images.val.images) == (24, 12)
    config = load_config(ROOT / "bert" / "configs" / "demo.toml", BertConfig)
    training = read_bert_manifest(made / "bert" / "train")
    evaluation = read_bert_manifest(made / "bert" / "eval")
    assert len(training.shards) == demo_main.TEXT_PARTS and evaluation.examples == 20
    for manifest in (training, evaluation):
        assert manifest.max_seq_length == config.input.max_sequence_length
        assert manifest.max_predictions_per_seq == config.input.max_predictions_per_sequence
        assert manifest.vocabulary_size == config.model.vocabulary_size
    assert read_checkpoint(made / "bert" / "initial.safetensors", config.model)
    assert sorted(path.name for path in (made / "bert").iterdir()) == [
        "eval", "initial.safetensors", "train",
    ]  # fmt: skip
    assert [path.name for path in made.parent.iterdir()] == ["demo"]


def test_the_second_time_it_says_so_and_touches_nothing(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list_files(made)
    make(made)
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", f"{made} is there and up to date\n")
    assert list_files(made) == before


def test_one_call_at_a_time_makes_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held: list[str] = []

    def hold() -> None:
        with demo_main.hold(tmp_path):
            held.append("other")

    other = threading.Thread(target=hold)
    with demo_main.hold(tmp_path):
        other.start()
        said = ""
        while "another call is making data" not in said:
            time.sleep(0.01)
            said += capsys.readouterr().err
        held.append("first")
    other.join()
    assert held == ["first", "other"]


def test_messages_name_the_folder_that_will_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("demo"))
    written = capsys.readouterr()
    assert written.out.startswith("demo/resnet: 24 training and 12 validation images")
    for name in ("train", "eval_all", "eval"):
        assert f" examples in demo/bert/{name}\n" in written.err
    for text in written:
        assert ".part" not in text and str(tmp_path) not in text


@pytest.mark.parametrize("kind", [InputError, OSError])
def test_errors_name_the_folder_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    note_makers(monkeypatch)

    def fail(folder: Path) -> None:
        if kind is InputError:
            raise InputError(f"{folder / 'bert'} is odd")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder / "bert")

    monkeypatch.setattr(demo_main, "make_bert_data", fail)
    with pytest.raises(kind) as caught:
        make(tmp_path / "demo")
    assert f"{tmp_path / 'demo' / 'bert'}" in str(caught.value)


def note_makers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the two makers by ones that only write a file each."""
    calls: list[str] = []

    def stand_in(name: str) -> object:
        def write(folder: Path) -> None:
            calls.append(name)
            (folder / name).mkdir()
            (folder / name / "data").write_text(f"{name} {len(calls)}")

        return write

    monkeypatch.setattr(demo_main, "make_resnet_data", stand_in("resnet"))
    monkeypatch.setattr(demo_main, "make_bert_data", stand_in("bert"))
    return calls


def test_force_and_changed_sources_make_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = note_makers(monkeypatch)
    output = tmp_path / "deep" / "demo"
    make(output)
    make(output)
    assert calls == ["resnet", "bert"]
    make(output, "--force")
    assert len(calls) == 4 and (output / "bert" / "data").read_text() == "bert 4"
    monkeypatch.setattr(demo_main, "hash_sources", lambda: "other sources")
    make(output)
    make(output)
    assert len(calls) == 6
    assert [path.name for path in output.parent.iterdir()] == ["demo"]


def test_the_hash_is_of_every_source_and_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = demo_main.hash_sources()
    assert first == demo_main.hash_sources()
    config = tmp_path / "demo.toml"
    config.write_text(demo_main.CONFIG.read_text() + "# another\n")
    monkeypatch.setattr(demo_main, "CONFIG", config)
    assert demo_main.hash_sources() != first


@pytest.mark.parametrize("error", [InputError("no space"), KeyboardInterrupt()])
def test_half_made_data_is_not_taken_for_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    calls = note_makers(monkeypatch)
    output = tmp_path / "demo"

    def fail(folder: Path) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(demo_main, "make_bert_data", fail)
        with pytest.raises(type(error)):
            make(output)
    assert not output.exists()
    make(output)
    assert calls == ["resnet", "resnet", "bert"] and (output / "made_by").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]
    before = list_files(output)
    with monkeypatch.context() as patch:
        patch.setattr(demo_main, "make_bert_data", fail)
        with pytest.raises(type(error)):
            make(output, "--force")
    assert list_files(output) == before


@pytest.mark.parametrize("damage", ["missing", "short", "more"])
def test_data_that_was_damaged_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    calls = note_makers(monkeypatch)
    output = tmp_path / "demo"
    make(output)
    file = output / "bert" / "data"
    if damage == "missing":
        file.unlink()
    else:
        file.write_text("b" if damage == "short" else "bert 2 and more")
    make(output)
    assert len(calls) == 4
    make(output)
    assert len(calls) == 4


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_folder_of_someone_else_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, force: list[str]
) -> None:
    calls = note_makers(monkeypatch)
    precious = tmp_path / "home" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(InputError, match="was not made by python -m demo"):
        make(precious.parent, *force)
    with pytest.raises(InputError, match="was not made by python -m demo"):
        make(precious, *force)
    monkeypatch.chdir(precious.parent)
    with pytest.raises(InputError, match="was not made by python -m demo"):
        make(Path("."), *force)
    loop = tmp_path / "home" / "loop"
    loop.symlink_to(loop)
    with pytest.raises(InputError, match="was not made by python -m demo"):
        make(loop, *force)
    assert precious.read_text() == "years of work" and calls == []
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_an_empty_folder_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = note_makers(monkeypatch)
    make(tmp_path)
    assert calls == ["resnet", "bert"] and (tmp_path / "made_by").is_file()


def test_a_vocabulary_of_another_size_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "demo.toml"
    text = demo_main.CONFIG.read_text()
    assert "vocabulary_size = 161" in text
    config.write_text(text.replace("vocabulary_size = 161", "vocabulary_size = 160"))
    monkeypatch.setattr(demo_main, "CONFIG", config)
    with pytest.raises(InputError, match=r"model\.vocabulary_size must be 161"):
        demo_main.make_bert_data(tmp_path)


def test_a_failing_command_of_the_kit_is_ours() -> None:
    seen: list[object] = []

    def command(arguments: object) -> int:
        seen.append(arguments)
        return 1

    with pytest.raises(InputError, match="failed at: pack"):
        demo_main.run(command, "pack", "--shards", 4, Path("x"))
    assert seen == [["pack", "--shards", "4", "x"]]


def test_the_profile_of_scoring_is_what_is_made_and_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """scoring knows nothing of the kit, so its figures stand twice: here they are compared."""
    monkeypatch.undo()  # the real sizes
    profile = tomllib.loads((ROOT / "scoring" / "profiles" / "demo.toml").read_text("utf-8"))
    system = load_system(ROOT / "systems" / "demo.toml")
    benchmarks = system.benchmarks
    resnet = load_config(ROOT / benchmarks.resnet.config, ResnetConfig)
    bert = load_config(ROOT / benchmarks.bert.config, BertConfig)
    assert system.campaign.profile == "demo" and profile["demonstration"] is True
    assert profile["nodes"] == system.nodes.count
    assert profile["resnet"]["train_samples"] == demo_main.TRAIN_IMAGES
    assert profile["resnet"]["eval_samples"] == demo_main.VAL_IMAGES
    assert profile["resnet"]["evaluation_interval_epochs"] == EVALUATION_PERIOD_EPOCHS
    assert profile["bert"]["eval_samples"] == demo_main.EVALUATION_SAMPLES
    assert profile["bert"]["train_samples"] == 0
    assert profile["bert"]["evaluation_interval_samples"] == bert.evaluation.interval_samples
    assert resnet.model.classes == demo_main.CLASSES
    for config in (resnet, bert):
        assert config.batch.check_world_size(system.nodes.world_size) is None
    output = Path("data/demo")
    assert (Path(benchmarks.resnet.data), Path(benchmarks.bert.data)) == (
        output / "resnet", output / "bert",
    )  # fmt: skip
    assert Path(benchmarks.bert.initial_checkpoint) == output / "bert" / "initial.safetensors"
    assert system.campaign.make_data == ("demo",)
