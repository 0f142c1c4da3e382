"""How a trainer's process ends: its status, its one sentence, and that no rank is left waiting."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness import process_group, trainer
from harness.caches import clear_caches
from harness.commands import InputError, Parser
from harness.ranks import Ranks, SharedFault
from harness.systems import System, load_system
from harness.trainer import clear_node_caches, look_before, run_trainer

ROOT = Path(__file__).resolve().parents[2]
ALONE = Ranks(0, 1, 0, 1, 0, ("host",), "single")


def leave(main: Callable[[Sequence[str]], int], monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(sys, "argv", ["trainer", "run"])
    with pytest.raises(SystemExit) as caught:
        run_trainer(main)
    return caught.value.code


def raises(error: BaseException) -> Callable[[Sequence[str]], int]:
    def main(arguments: Sequence[str]) -> int:
        raise error

    return main


@pytest.mark.parametrize("status", [0, 1])
def test_the_status_of_main(
    status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(lambda arguments: status, monkeypatch) == status
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("data: broken"), 2, "error: data: broken"),
        (SharedFault("data: broken (rank 3)"), 2, "error: data: broken (rank 3)"),
        (
            FileExistsError(17, "File exists", "/log"),
            2,
            "error: cannot use /log: is there already and is not replaced: name another",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_one_sentence(
    error: BaseException,
    status: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert leave(raises(error), monkeypatch) == status
    written = capsys.readouterr()
    assert (written.out, written.err) == ("", f"{line}\n")


@pytest.mark.parametrize(
    "defect", [ZeroDivisionError("defect"), ModuleNotFoundError("defect", name="bert.gone")]
)
def test_a_defect_keeps_its_traceback_and_is_no_wrong_usage(
    defect: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(raises(defect), monkeypatch) == 1
    assert f"{type(defect).__name__}: defect" in capsys.readouterr().err


def test_a_library_that_is_not_installed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ModuleNotFoundError("No module named 'nvidia.dali'", name="nvidia.dali")
    assert leave(raises(missing), monkeypatch) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"error: {sys.executable} has no module nvidia.dali: ")
    assert sentence.count("\n") == 1


def test_help_and_a_wrong_call_are_argparses_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = Parser(prog="python -m trainer")

    def parse(arguments: list[str]) -> Callable[[Sequence[str]], int]:
        return lambda _: 0 if parser.parse_args(arguments) else 1

    assert leave(parse(["--help"]), monkeypatch) == 0
    written = capsys.readouterr()
    assert written.out.startswith("usage: python -m trainer") and written.err == ""
    assert leave(parse(["--unknown"]), monkeypatch) == 2
    written = capsys.readouterr()
    assert len(written.err.splitlines()) == 1 and written.out == ""


def test_a_fault_known_to_all_is_told_by_rank_0_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer, "finalize_mpi", lambda: None)
    for rank, told, status in ((0, "error: broken\n", 2), (2, "", 0)):
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", str(rank))
        monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
        assert leave(raises(SharedFault("broken")), monkeypatch) == status
        assert capsys.readouterr().err == told


def test_rank_0_alone_gives_the_status_of_all_and_after_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several nodes that report one at once may hang mpirun."""
    waits: list[float] = []
    monkeypatch.setattr("harness.trainer.time.sleep", waits.append)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    for rank, given, left, waited in (
        (0, 1, 1, [0.3]),
        (2, 1, 0, []),
        (0, 0, 0, []),
        (2, 0, 0, []),
    ):
        waits.clear()
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", str(rank))
        assert leave(lambda _, given=given: given, monkeypatch) == left
        assert waits == waited


@pytest.mark.parametrize("error", [InputError("broken"), KeyboardInterrupt()])
def test_a_fault_of_another_rank_waits_for_rank_0_to_say_it(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("harness.trainer.time.sleep", waits.append)
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    sentence = "error: broken" if isinstance(error, InputError) else "interrupted"
    for rank, told in ((0, f"{sentence}\n"), (2, f"{sentence} (rank 2)\n")):
        monkeypatch.setenv("OMPI_COMM_WORLD_RANK", str(rank))
        assert leave(raises(error), monkeypatch) in (2, 130)
        assert capsys.readouterr().err == told
    assert waits == [trainer.OTHERS_WAIT_SECONDS] and waits[0] > 1


def test_an_unreadable_launcher_still_gives_the_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "first")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    assert leave(raises(SharedFault("broken")), monkeypatch) == 2
    assert capsys.readouterr().err == "error: broken\n"


def test_looking_before_the_clock() -> None:
    assert look_before(ALONE, lambda: 7) == 7

    def refuse() -> None:
        raise InputError("manifest.json is missing")

    with pytest.raises(SharedFault, match=r"^manifest.json is missing$"):
        look_before(ALONE, refuse)
    with pytest.raises(SharedFault, match="cannot use /no/file: no such file"):
        look_before(ALONE, lambda: Path("/no/file").read_text())
    with pytest.raises(ZeroDivisionError):
        look_before(ALONE, lambda: 1 // 0)


def gather_with(others: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Ranks.gather return this rank's value and those of the others."""
    monkeypatch.setattr(
        Ranks, "gather", lambda ranks, value: [None if value is None else value, *others]
    )


def test_one_ranks_fault_stops_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = Ranks(0, 2, 0, 1, 0, ("first", "second"), "openmpi")
    gather_with(["shard missing"], monkeypatch)
    with pytest.raises(SharedFault, match=r"shard missing \(rank 1 on second\)"):
        look_before(ranks, lambda: "all is well here")


def make_system(one_machine: bool) -> System:
    system = load_system(ROOT / "systems" / "demo.toml")
    return replace(system, nodes=replace(system.nodes, one_machine=one_machine))


@pytest.mark.parametrize(
    ("one_machine", "rank", "local_rank", "clears"),
    [(True, 0, 0, True), (True, 2, 0, False), (False, 2, 0, True), (False, 3, 1, False)],
)
def test_one_rank_of_each_node_clears_its_caches(
    one_machine: bool,
    rank: int,
    local_rank: int,
    clears: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "data"
    file.write_bytes(bytes(5000))
    ranks = Ranks(rank, 4, local_rank, 2, rank // 2, ("a", "a", "b", "b"), "openmpi")
    cleared: list[Path] = []

    def clear(method: str, files: list[Path], command: Sequence[str]) -> dict[str, Any]:
        cleared.extend(files)
        return clear_caches(method, files, command)

    monkeypatch.setattr("harness.trainer.clear_caches", clear)
    monkeypatch.setattr(Ranks, "gather", lambda ranks, value: [value])
    found = clear_node_caches(make_system(one_machine), ranks, [file])
    assert cleared == ([file] if clears else [])
    assert list(found["hosts"]) == ([ranks.hosts[rank]] if clears else [])
    if clears:
        record = found["hosts"][ranks.hosts[rank]]
        assert (record["method"], record["files"], record["bytes"]) == ("fadvise", 1, 5000)


# One rank's fault after MPI is up, while the other waits for it: all must end with status 2.
FAULT = """
from harness.commands import InputError
from harness.ranks import find_ranks
from harness.systems import Nodes
from harness.trainer import run_trainer
def main(arguments):
    ranks = find_ranks(Nodes(2, 1, "cpu", True, 1))
    if ranks.rank == 1:
        raise InputError("the data of rank 1 is broken")
    ranks.gather("waits for rank 1")
run_trainer(main)
"""
# The same fault on all ranks, which none knows of the others: said once.
ALL = FAULT.replace("if ranks.rank == 1:", "if True:").replace("of rank 1 ", "")
# The same fault found before the clock starts: all leave by themselves.
AGREED = FAULT.replace("if ranks.rank == 1:\n        raise", "def look():\n        raise").replace(
    'ranks.gather("waits for rank 1")',
    "from harness.trainer import look_before\n"
    "    look_before(ranks, look if ranks.rank == 1 else lambda: None)",
)


@pytest.mark.parametrize(
    ("program", "line"),
    [
        (FAULT, "error: the data of rank 1 is broken (rank 1)"),
        (ALL, "error: the data is broken"),
        (AGREED, "error: the data of rank 1 is broken (rank 1 on "),
    ],
    ids=["alone", "all", "agreed"],
)
def test_all_ranks_end_together(program: str, line: str) -> None:
    mpirun = Path(sys.executable).parent / "mpirun"
    command = [str(mpirun), "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
    command += ["-n", "2", sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 2, done.stderr
    lines = [text for text in done.stderr.splitlines() if text.startswith("error:")]
    assert len(lines) == 1 and lines[0].startswith(line)
    assert "Traceback" not in done.stderr


# A rank that has joined a process group, whose threads live on in the model that refers to it.
JOINED = """
import atexit, os, sys, torch, torch.distributed as dist
from harness.commands import InputError
from harness.trainer import run_trainer
def main(arguments):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    held.append(torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2)))
    print("trained")
    END
held = []
atexit.register(print, "the interpreter is torn down")
run_trainer(main)
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [("return 0", 0), ("return 1", 1), ('raise InputError("broken")', 2), ("raise ValueError", 1)],
)
def test_no_interpreter_is_torn_down_under_the_process_group(end: str, status: int) -> None:
    """Its threads give tensors back to the interpreter, and abort the process if it has gone."""
    command = [sys.executable, "-c", JOINED.replace("END", end)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert (done.returncode, done.stdout) == (status, "trained\n"), done.stderr


def test_graphs_go_before_the_process_group() -> None:
    """NCCL waits for them: the other way round a run that has ended would not return."""
    program = JOINED.replace("END", "return 0").replace(
        'print("trained")',
        "import harness.trainer as trainer\n"
        "    destroy = dist.destroy_process_group\n"
        '    trainer.release_graphs = lambda: print("graphs")\n'
        '    dist.destroy_process_group = lambda: (print("group"), destroy())',
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "graphs\ngroup\n"), done.stderr


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        ("[unbound_buffer.cc:78] Timed out waiting 20000ms for recv operation to complete", 20.0),
        ("Application timeout caused pair closure", 7.0),  # the limit of the group
        ("[pair.cc:553] Connection closed by peer [10.0.0.3]:50818. This is typically", None),
    ],
)
def test_who_gives_up_says_so_whichever_collective_tells_first(
    fault: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several under way at once, gloo lets one time out and drops the others."""
    asked: list[float | None] = []

    def find(gave_up_seconds: float | None, wait_seconds: float) -> process_group.Silence | None:
        asked.append(gave_up_seconds)
        named = ("rank 2 on node3",)
        return process_group.Silence(gave_up_seconds, named) if gave_up_seconds else None

    monkeypatch.setattr(process_group, "_limits", [7.0])
    monkeypatch.setattr(trainer, "find_silent_ranks", find)
    said = trainer._explain_collective(fault)
    assert asked == [seconds]
    if seconds is None:
        assert said == "error: lost the connection to another rank, which ended"
    else:
        assert said and f"gave up after {seconds:g} s" in said and "rank 2 on node3" in said


def test_another_error_is_no_collectives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "find_silent_ranks", lambda *_: pytest.fail("asked"))
    assert trainer._explain_collective("no kernel image is available") is None
