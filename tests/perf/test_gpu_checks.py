"""Everything a GPU is asked for: each command is there, is varied as it says, and is told of."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import bert.config
import resnet.config
from harness.commands import InputError
from harness.config import load_config
from harness.ops.table import TABLE
from harness.processes import adopt_orphans
from perf import gpu_checks
from perf.gpu_check_list import CHECKS, Check
from perf.gpu_checks import fill_in, main, run_check, summarize

DOCUMENT = '{"samples_per_second": 7950.4, "step_seconds": {"median": 0.05}}'


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A machine that torch finds a GPU of some name on."""

    def name(gpu: str) -> None:
        machine = {"gpu": gpu, "torch": "2", "cuda": "13", "cudnn": "9"}
        monkeypatch.setattr(gpu_checks, "describe_machine", lambda: machine)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    name("One")
    return name


@pytest.fixture
def checks(tmp_path: Path) -> list[Check]:
    """One that is good, one that fails, and one that runs longer than it may."""
    (tmp_path / "good.json").write_text(DOCUMENT)
    sleep = ("timeit", "-n", "1", "-r", "1", "-s", "import time", "time.sleep(600)")
    return [
        Check("good", "how fast", ("json.tool", str(tmp_path / "good.json"))),
        Check("bad", "how | fast", ("json.tool", str(tmp_path / "none.json"))),
        Check("slow", "how fast", sleep),
    ]


def read_command_lines() -> Iterator[bytes]:
    """What every living process was started with."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()


# -- the list ----------------------------------------------------------------------------------


def test_names_are_told_apart() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_check_is_a_command_of_the_page_with_a_configuration_that_may_be(
    check: Check, tmp_path: Path
) -> None:
    page = (gpu_checks.ROOT / "docs" / "performance.md").read_text()
    assert f"python -m {check.arguments[0]}" in page
    arguments = fill_in(check, tmp_path, tmp_path / "data")
    assert not any("{" in argument for argument in arguments)
    if "--config" in arguments:
        path = Path(arguments[arguments.index("--config") + 1])
        assert path.is_relative_to(tmp_path) == bool(check.changes)
        benchmark = "bert" if "bert" in check.arguments[0] + check.name else "resnet"
        kind = bert.config.Config if benchmark == "bert" else resnet.config.Config
        config = load_config(gpu_checks.ROOT / path, kind)
        for (section, key), value in check.changes.items():
            table = getattr(config, section)
            assert (table[key] if section == "operations" else getattr(table, key)) == value
            assert section != "operations" or value in TABLE[key]


def test_the_list_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--only", "resnet 1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:24].strip() for line in lines] == ["resnet 102", "resnet 102 eager"]


# -- running it --------------------------------------------------------------------------------


def test_all_are_done_and_told_and_only_the_failed_again(
    pretended_gpu: object,
    checks: list[Check],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, chosen = tmp_path / "figures", checks[:2]
    assert main([str(folder)], chosen) == 1
    printed = capsys.readouterr()
    assert "good                     7,950 samples/s, 50.00 ms a step\n" in printed.out
    assert "FAILED: it ended with status 2 and gave no document: see checks.log" in printed.out
    assert "[1/2] good: how fast" in printed.err
    assert "No such file" in (folder / "checks.log").read_text()
    page = (folder / "checks.md").read_text()
    assert "One, torch 2, CUDA 13" in page and "| bad | how \\| fast | FAILED" in page
    (tmp_path / "none.json").write_text('{"share_of_run": 0.0123}')
    assert main([str(folder)], chosen) == 0
    printed = capsys.readouterr()
    assert "bad                      1.23% of a run" in printed.out
    assert "[2/2]" in printed.err and "[1/2]" not in printed.err
    found = json.loads((folder / "checks.json").read_text())["checks"]
    assert found["good"]["document"] == json.loads(DOCUMENT)
    assert len(found["good"]["source_sha256"]) == 64


def test_there_is_no_time_for_all(
    pretended_gpu: object, checks: list[Check], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = [checks[2], checks[0]]
    assert main([str(tmp_path / "figures"), "--minutes", "0.02"], order) == 1
    printed = capsys.readouterr().out
    assert (
        "FAILED: it was ended at its time limit" in printed
        and "good                     not done" in printed
    )


def test_a_command_that_is_too_slow_is_ended_with_all_it_started(tmp_path: Path) -> None:
    seconds = f"600.{os.getpid()}"
    child = f"import subprocess; subprocess.run(['sleep', '{seconds}'])"
    script = f"import subprocess,sys; subprocess.run([sys.executable, '-c', {child!r}])"
    adopt_orphans()
    found = run_check(["timeit", "-n", "1", "-r", "1", script], tmp_path / "log", 2.0)
    assert "was ended at its time limit" in found["fault"] and found["status"] is None
    end = time.monotonic() + 60  # the kernel takes its time on a busy machine
    while (there := f"sleep\0{seconds}".encode() in b"".join(read_command_lines())) and (
        time.monotonic() < end
    ):
        time.sleep(0.05)
    assert not there


def test_another_machines_figures_are_not_gone_on_with(
    pretended_gpu: Callable[[str], None],
    checks: list[Check],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "figures"
    assert main([str(folder)], checks[:1]) == 0
    pretended_gpu("Another")
    with pytest.raises(InputError, match="another gpu, One and not Another: name another folder"):
        main([str(folder)], checks[:1])
    (folder / "checks.json").write_text('{"machine": 3}')
    with pytest.raises(InputError, match=r"checks\.json: no record of this command"):
        main([str(folder)], checks[:1])


def test_without_a_gpu_nothing_is_made(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InputError, match="finds no GPU"):
        main([str(tmp_path / "figures")])
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name the folder"),
        (["x", "--minutes", "0"], "--minutes must be more than 0"),
        (["x", "--only", "rocket"], "--only rocket: no check's name begins so"),
        (["x", "--only", "resnet input"], "no check's name begins so"),
    ],
)
def test_wrong_calls_are_one_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        main(arguments)


def test_what_was_found_is_one_line() -> None:
    def tell(document: dict[str, object], status: int = 0) -> str:
        return summarize({"status": status, "document": document})

    assert tell({"microseconds_per_image": 62.5, "convolutions": []}) == (
        "62.5 us an image, 16,000 images/s"
    )
    row = {"quantity": "change", "form": "no graphs, fp32", "distance": 0.02, "good": False}
    assert tell({"forms": [row]}, 1) == (
        "NOT GOOD (status 1): fp32 within 2.0e-02; too far: change no graphs, fp32"
    )
    rows = [
        {"operation": "lamb", "provider": "torch", "seconds": 1.0},
        {"operation": "lamb", "provider": "apex", "fault": "x"},
    ]
    assert tell({"providers": rows, "microseconds_per_image": {"torch": 7.0}}) == (
        "1 measured, torch 7.0 us an image; failed: lamb by apex"
    )
    memory = {"samples_per_second": 10.0, "peak_memory_bytes": 20e9}
    assert tell(memory) == "10 samples/s, 20.0 GB at most"
    assert summarize(None) == "not done"
