"""The preflight command, on four ranks of this machine: its table, its verdict, its status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import preflight
from harness.commands import InputError
from harness.launch import SYSTEMS
from harness.preflight import Listener, main
from harness.preflight_checks import END, Check, write_check
from tests.conftest import Kit

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness.preflight", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )


def test_good_and_bad_are_told_apart_on_four_ranks(kit: Kit) -> None:
    kit.change(
        kit.system, ('binding = "none"', 'binding = "gpu-local"'), ("bert = 0.0", "bert = 1e6")
    )
    (shard, *_) = sorted((kit.resnet_data).glob("*.rec"))
    shard.write_bytes(shard.read_bytes()[:-4])
    done = run("--system", str(kit.system), "--json", "--input-seconds", "0")
    assert done.returncode == 1, done.stdout + done.stderr
    document = json.loads(done.stdout)
    checks = {check["name"]: check for check in document["checks"]}
    failed = {name for name, check in checks.items() if check["verdict"] == "failed"}
    # What this machine may lack: four cores, free memory, room.
    failed -= {"binding", "memory available", "/dev/shm free", "temporary folder free"}
    failed.discard("results folder")
    bert = next(name for name in checks if name.startswith("all-reduce, 67.2 MB"))
    assert failed == {"resnet data", bert}
    assert shard.name in checks["resnet data"]["found"] and checks["resnet data"]["mend"]
    assert checks["ranks started"]["found"].startswith("4 by openmpi")
    assert checks["bert data"]["verdict"] == checks["process group"]["verdict"] == "ok"
    assert checks["GPU name"]["verdict"] == "not applicable"
    assert not document["good"] and "Traceback" not in done.stderr


def test_ranks_that_cannot_start_are_a_failed_check_with_their_sentence(
    kit: Kit, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    compose = preflight.compose_ranks

    def start_three(*given: Any) -> list[str]:
        command = compose(*given)
        command[command.index("-n") + 1] = "3"
        return command

    monkeypatch.setattr(preflight, "compose_ranks", start_three)
    assert main(["--system", str(kit.system), "--json"]) == 1
    check = json.loads(capsys.readouterr().out)["checks"][-1]
    assert (check["name"], check["verdict"]) == ("ranks started", "failed")
    assert "3 rank(s) were started, the system file says 4 node(s)" in check["found"]


def test_the_ranks_are_started_as_a_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--system", "example-4x8-h200", "--dry-run"]) == 0
    line = capsys.readouterr().out
    assert line.startswith(
        "srun --nodes=4 --ntasks=32 --ntasks-per-node=8 --cpu-bind=none --mpi=pmix"
    )
    assert "singularity exec --nv" in line and " -m harness.preflight ranks --system " in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--system", "nowhere"], "no system 'nowhere'"),
        (["--system", "demo", "--resnet-probe", "/no/such.json"], "/no/such.json"),
        (["--system", "demo", "--input-seconds", "-1"], "not between 0 and 3600"),
        (["--system", "demo", "--input-seconds", "nan"], "not between 0 and 3600"),
        ([], "--system"),
    ],
)
def test_a_wrong_call_is_one_sentence_and_status_2(arguments: list[str], words: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert words in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_launcher_that_is_not_there(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "compose_ranks", lambda *given: ["/no/such/launcher"])
    with pytest.raises(InputError, match="launcher '/no/such/launcher' is not on"):
        main(["--system", str(kit.system)])


def test_the_listener_keeps_checks_and_the_sentence_of_a_fault(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listener = Listener()
    check = Check("a", "ok", "b")
    for line in (write_check(check), "", "warning: c", "error: d", "e", "f", "g"):
        listener(line)
    assert listener.checks == [check] and not listener.ended
    assert listener.explain() == "error: d"
    listener(END)
    assert listener.ended and capsys.readouterr().out == ""
    assert Listener().explain() == "nothing was said"
    with pytest.raises(InputError, match="rank 0 wrote what is no check"):
        listener("preflight-check: {}")


def test_the_host_needs_nothing_but_python() -> None:
    program = (
        "import sys; from harness.preflight import main; "
        "main(['--system', 'demo', '--dry-run']); "
        "sys.exit(bool({'torch', 'numpy', 'mpi4py'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=SYSTEMS.parent, check=False)
    assert done.returncode == 0
