"""Command lines from system files, and that nothing contradictory is started."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.commands import InputError
from harness.launch import ROOT, SYSTEMS, compose_command
from harness.systems import Container, System, find_system_file, load_system

DEMO = SYSTEMS / "demo.toml"


def compose(system: System) -> str:
    return " ".join(compose_command(system, Path("systems/x.toml"), "bert", Path("/r/log.txt")))


def test_the_demonstration() -> None:
    line = compose(load_system(DEMO))
    assert "-n 4" in line and "--oversubscribe" in line and "--bind-to none" in line
    assert "-x OMP_NUM_THREADS=1" in line
    assert line.endswith("-m bert.train run --system systems/x.toml --log /r/log.txt")
    assert "--map-by" not in line


def test_several_hosts() -> None:
    system = load_system(DEMO)
    nodes = replace(system.nodes, one_machine=False, ranks_per_node=8)
    launch = replace(system.launch, hosts=("a", "b", "c", "d"), options=("--quiet",))
    line = compose(replace(system, nodes=nodes, launch=launch))
    assert "-n 32 --bind-to none --map-by ppr:8:node" in line
    assert "--host a:8,b:8,c:8,d:8" in line
    assert "oob_tcp_keepalive_time 8" in line
    assert "--quiet" in line and "--oversubscribe" not in line


def test_srun_and_singularity() -> None:
    system = load_system(DEMO)
    nodes = replace(system.nodes, one_machine=False, device="cuda", ranks_per_node=4)
    launch = replace(system.launch, launcher="srun", options=("--gpus-per-node=4",))
    container = Container("singularity", "kit.sif", ("/data:/data:ro",))
    line = compose(replace(system, nodes=nodes, launch=launch, container=container))
    assert line.startswith("srun --nodes=4 --ntasks-per-node=4 --mpi=pmix --kill-on-bad-exit=1")
    assert "--gpus-per-node=4 env OMP_NUM_THREADS=1" in line
    assert "singularity exec --nv --bind /data:/data:ro kit.sif python -m bert.train" in line


def change_demo(tmp_path: Path, old: str, new: str, name: str = "demo") -> Path:
    text = DEMO.read_text()
    assert old in text
    file = tmp_path / f"{name}.toml"
    file.write_text(text.replace(old, new, 1))
    return file


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('launcher = "mpirun"', 'launcher = "local"', "starts one rank"),
        ('runtime = "none"', 'runtime = "singularity"', "'image' and 'runtime'"),
        ('name = "demo"', 'name = "other"', "must be the file's name"),
        ("runs = 5", "runs = 0", "'runs' must be at least 1"),
        ('status = "research"', 'status = "secret"', "one of 'cloud'"),
        ('organization = "demonstration"', 'organization = " "', "must not be empty"),
        ("count = 4", "count = 0", "'count' must be at least 1"),
        ('profile = "demo"', 'profile = "lp2bm"', "for the demonstration alone"),
        ("[environment.OMP_NUM_THREADS]", '[environment."A=B"]', "no variable name"),
    ],
)
def test_contradictions_are_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_system(change_demo(tmp_path, old, new))


def test_hosts_must_be_as_many_as_nodes() -> None:
    system = load_system(DEMO)
    with pytest.raises(ValueError, match="one host a node"):
        replace(
            system,
            nodes=replace(system.nodes, one_machine=False),
            launch=replace(system.launch, hosts=("a", "b")),
        )


def test_unknown_system_lists_what_there_is() -> None:
    with pytest.raises(InputError, match=r"no system 'nowhere'.*demo"):
        find_system_file("nowhere", SYSTEMS)
    with pytest.raises(InputError, match="no system"):
        find_system_file("../demo", SYSTEMS)


@pytest.mark.parametrize("file", sorted(SYSTEMS.glob("*.toml")), ids=lambda file: file.stem)
def test_every_shipped_system_is_dry_run(file: Path) -> None:
    command = [sys.executable, "-m", "harness.campaign", "--system", file.stem, "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    system = load_system(file)
    runs = system.benchmarks.resnet.runs + system.benchmarks.bert.runs
    assert len(done.stdout.splitlines()) == runs
    assert all(variable.reason for variable in system.environment.values())


def test_dry_run_imports_no_torch() -> None:
    program = (
        "import sys; from harness.campaign import main; main(['--dry-run']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == 0


def test_a_run_by_hand_never_overwrites_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("kept")
    command = [sys.executable, "-m", "harness.launch", "--system", "demo"]
    command += ["--benchmark", "resnet", "--log", str(log)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "is there already" in done.stderr
    assert log.read_text() == "kept"
