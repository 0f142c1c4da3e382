"""Command lines from system files, and that nothing contradictory is started."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.commands import InputError
from harness.containers import check_folders, find_image_fault
from harness.launch import ROOT, SYSTEMS, compose_command, compose_tool, main
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


def contain(
    system: System, runtime: str = "singularity", launcher: str = "srun", **changes: object
) -> System:
    """The demonstration on four GPU nodes in a container that sees its data."""
    nodes = replace(system.nodes, one_machine=False, device="cuda", ranks_per_node=4)
    values = {
        "runtime": runtime,
        "image": "/images/kit.sif",
        "image_sha256": "",
        "binds": ("/data:/opt/lp-mlperf-kit/data:ro",),
        "options": (),
        **changes,
    }
    launch = replace(system.launch, launcher=launcher)
    container = Container(**values)  # type: ignore[arg-type]
    return replace(system, nodes=nodes, launch=launch, container=container)


def test_srun_and_singularity() -> None:
    system = contain(load_system(DEMO), options=("--no-home",))
    system = replace(system, launch=replace(system.launch, options=("--gpus-per-node=4",)))
    line = compose(system)
    assert line.startswith(
        "srun --nodes=4 --ntasks=16 --ntasks-per-node=4 --mpi=pmix --export=ALL --kill-on-bad"
    )
    assert "--gpus-per-node=4 env OMP_NUM_THREADS=1" in line
    assert "singularity exec --nv --pwd /opt/lp-mlperf-kit --bind /data:" in line
    for benchmark in ("resnet", "bert"):
        configs = f"{benchmark}/configs"
        assert f"--bind {ROOT}/{configs}:/opt/lp-mlperf-kit/{configs}:ro" in line
    assert "--bind /r:/r" in line
    inside = "--no-home /images/kit.sif /opt/lp-mlperf-environment/bin/python -m bert.train run"
    assert inside in line


def test_sudo_inside_a_container_is_refused() -> None:
    system = contain(load_system(DEMO))
    command = ("/usr/bin/sudo", "-n", "/site/drop-caches")
    campaign = replace(system.campaign, cache_clear="site_command", cache_clear_command=command)
    with pytest.raises(ValueError, match="where sudo gives no rights"):
        replace(system, campaign=campaign)
    assert replace(load_system(DEMO), campaign=campaign).campaign == campaign


def test_slurm_leaves_the_cores_to_ranks_that_bind_themselves() -> None:
    system = contain(load_system(DEMO))
    assert "--cpu-bind" not in compose(system)  # binding = "none": as the launcher places them
    bound = replace(system, nodes=replace(system.nodes, binding="gpu-local"))
    assert "--ntasks-per-node=4 --cpu-bind=none --mpi=pmix" in compose(bound)


def test_mpirun_with_a_container_is_the_hosts_own() -> None:
    words = compose(contain(load_system(DEMO), launcher="mpirun")).split()
    assert words[0] == "mpirun" and "--oversubscribe" not in words
    assert "ServerAliveInterval=3" in words and "oob_tcp_keepalive_time" in words
    assert words.index("singularity") > words.index("-x")
    assert words[words.index("prte_tmpdir_base") + 1] == "/tmp"
    assert "prte_tmpdir_base" not in compose(load_system(DEMO))


def test_docker_names_what_it_hands_in() -> None:
    line = compose(contain(load_system(DEMO), "docker", "mpirun", image="kit:1"))
    assert (
        "docker run --rm --network host --ipc host --pid host --ulimit memlock=-1 --user " in line
    )
    assert "--gpus all --workdir /opt/lp-mlperf-kit -v /data:/opt/lp-mlperf-kit/data:ro" in line
    for name in ("OMP_NUM_THREADS", "OMPI_COMM_WORLD_RANK", "PMIX_NAMESPACE", "PMIX_SERVER_URI41"):
        assert f" -e {name} " in line
    assert "-v /tmp:/tmp" in line
    assert " kit:1 /opt/lp-mlperf-environment/bin/python -m bert.train run " in line


def test_a_tool_runs_once_and_without_gpus() -> None:
    words = compose_tool(contain(load_system(DEMO)), ["scoring", "score", "/r"], [Path("/r")])
    assert words[:2] == ["singularity", "exec"] and "--nv" not in words
    assert words[-4:] == ["-m", "scoring", "score", "/r"]
    assert compose_tool(load_system(DEMO), ["demo"], []) == [sys.executable, "-m", "demo"]


def test_the_outermost_folder_is_bound_once() -> None:
    words = compose_tool(
        contain(load_system(DEMO)), ["demo"], [Path("/r/x"), Path("/r"), Path("/s")]
    )
    assert "/r:/r" in words and "/s:/s" in words and "/r/x:/r/x" not in words


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"binds": ("/data:/data",)}, "benchmarks.resnet.data .* lies below no bind"),
        ({"binds": ("/d:/opt/lp-mlperf-kit/data/demo/resnet",)}, "benchmarks.bert.data"),
        ({"binds": ("data:/data",)}, "must be /HOST:/INSIDE"),
        ({"binds": ("/data",)}, "must be /HOST:/INSIDE"),
        ({"binds": ("/data:/data:exec",)}, "must be /HOST:/INSIDE"),
        ({"options": ("--cleanenv",)}, "would hide"),
        ({"options": ("-c",)}, "would hide"),
        ({"options": ("--compat",)}, "would hide"),
        ({"options": ("--containall=true",)}, "would hide"),
        ({"image": ""}, "must be given together"),
        ({"image_sha256": "abc"}, "64 hex digits"),
        ({"runtime": "none", "image": ""}, "mean nothing without a 'runtime'"),
        ({"runtime": "docker"}, "take mpirun or singularity"),
        ({"runtime": "docker", "launcher": "mpirun", "image_sha256": "0" * 64}, "NAME@sha256"),
    ],
)
def test_a_container_that_cannot_work_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        contain(load_system(DEMO), **changes)  # type: ignore[arg-type]


def test_hosts_are_for_mpirun() -> None:
    system = load_system(DEMO)
    with pytest.raises(ValueError, match="srun takes the allocation"):
        replace(system, launch=replace(system.launch, launcher="srun", hosts=("localhost",)))


def test_the_image_is_the_one_that_is_named(tmp_path: Path) -> None:
    system, image = load_system(DEMO), tmp_path / "kit.sif"
    assert find_image_fault(system, DEMO) is None
    named = contain(system, image=str(image))
    assert "is not there: build it" in str(find_image_fault(named, DEMO))
    image.write_bytes(b"an image")
    assert find_image_fault(named, DEMO) is None
    digest = hashlib.sha256(b"an image").hexdigest()
    assert find_image_fault(contain(system, image=str(image), image_sha256=digest), DEMO) is None
    other = find_image_fault(contain(system, image=str(image), image_sha256="0" * 64), DEMO)
    assert f"has SHA-256 {digest}, 'image_sha256' says another" in str(other)
    folder = contain(system, image=str(tmp_path), image_sha256="0" * 64)
    assert "is a folder" in str(find_image_fault(folder, DEMO))
    relative = contain(system, image="kit.sif")
    assert "must be an absolute path" in str(find_image_fault(relative, DEMO))


@pytest.mark.parametrize("folder", ["/a:b/c", "/a,b"])
def test_folders_that_cannot_be_bound(folder: str) -> None:
    with pytest.raises(InputError, match="cannot be bound"):
        check_folders([Path(folder)])


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


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 needs tomli for TOML")
def test_the_launch_code_needs_the_standard_library_alone() -> None:
    """With a container the host needs a Python and nothing else; -S leaves out site-packages."""
    program = "import sys; from harness.campaign import main; sys.exit(main(['--dry-run']))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 15


def test_a_run_by_hand_never_overwrites_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text("kept")
    command = [sys.executable, "-m", "harness.launch", "--system", "demo"]
    command += ["--benchmark", "resnet", "--log", str(log)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "is there already" in done.stderr
    assert log.read_text() == "kept"


def test_a_launcher_that_is_not_there_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.launch.compose_command", lambda *_: ["no-such-launcher"])
    monkeypatch.chdir(ROOT)
    words = ["--system", "demo", "--benchmark", "bert", "--log", str(tmp_path / "log.txt")]
    for _ in range(2):
        with pytest.raises(InputError, match="'no-such-launcher' is not on this machine's PATH"):
            main(words)
        # Told as permission, like a folder that may not be searched.
        (tmp_path / "no-such-launcher").write_text("")
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")


def test_a_probe_of_all_ranks_is_started_as_a_run_is(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--system", "demo", "--benchmark", "bert", "--dry-run"]
    assert main([*words, "--probe", "7"]) == 0
    probe = capsys.readouterr().out
    assert main([*words, "--log", "/tmp/x.txt"]) == 0
    run = capsys.readouterr().out
    system = ROOT / "systems" / "demo.toml"
    assert probe.endswith(f"-m bert.train probe --system {system} --steps 7 --json\n")
    assert probe.partition(" -m bert.train ")[0] == run.partition(" -m bert.train ")[0]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ([], "give --log FILE for a run, or --probe STEPS"),
        (["--log", "x", "--probe", "3"], "give --log FILE for a run, or --probe STEPS"),
        (["--probe", "0"], "--probe must be at least 1, is 0"),
        (["--probe", "x"], "invalid int value: 'x'"),
    ],
)
def test_either_a_run_or_a_probe(
    more: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--system", "demo", "--benchmark", "bert", *more])
    assert end.value.code == 2
    assert word in capsys.readouterr().err
