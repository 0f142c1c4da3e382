"""Seven faults on four hosts: all ends everywhere, status and record tell it, resume goes on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.processes import list_descendants
from tests.multinode.cluster import NODES, Cluster, SharedKit, Started, wait_until

pytestmark = pytest.mark.multinode
LIMIT_SECONDS = 60.0


@dataclass
class Run:
    """A campaign of one ResNet run, its clock running."""

    cluster: Cluster
    kit: SharedKit
    results: Path
    started: Started

    def rank_process(self, node: str) -> int:
        """The process id, on this machine, of the rank on a node."""
        init = int(Path(f"/run/vcluster/{node}.pid").read_text())
        for pid in list_descendants(init):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue  # it has ended meanwhile
            if words[0].endswith(b"/bin/python") and b"resnet.train" in words:
                return pid
        raise AssertionError(f"no rank on {node}")


def compose(kit: SharedKit, launcher: str, results: Path) -> list[str]:
    options = ["--benchmark", "resnet", "--runs", "1", "--resume", "--results", str(results)]
    return ["./run_and_time.sh", "--system", str(kit.system(launcher)), *options]


def has_clock(folder: Path) -> bool:
    log = folder / "resnet" / ".unfinished_0.txt"
    return log.exists() and '"run_start"' in log.read_text()


def start(cluster: Cluster, kit: SharedKit, launcher: str, results: Path) -> Run:
    kit.set_length(4000)
    (kit.folder / "small" / "faulty" / "now").unlink(missing_ok=True)
    # srun looks for a free cluster; the one before may still be tidying up.
    started = cluster.start(*compose(kit, launcher, results), folder=kit.checkout)
    folder = results / f"small-{launcher}"
    wait_until(lambda: has_clock(folder) or started.process.poll() is not None, 300, "run_start")
    assert started.process.poll() is None, started.finish(1)
    time.sleep(1)
    return Run(cluster, kit, results, started)


def kill_rank(run: Run) -> None:
    os.kill(run.rank_process("node3"), 9)


def leave_early(run: Run) -> None:
    (run.kit.folder / "small" / "faulty" / "now").touch()


def stop_rank(run: Run) -> None:
    os.kill(run.rank_process("node3"), 19)


def power_off(run: Run) -> None:
    run.cluster.call("kill", "node3")


def cut_link(run: Run) -> None:
    run.cluster.call("linkdown", "node3")


@pytest.fixture
def healthy(cluster: Cluster) -> Iterator[None]:
    """Bring all hosts back after a fault."""
    yield
    cluster.restart()


FAULTS: list[tuple[Callable[[Run], None], str, str]] = [
    (kill_rank, "mpirun", r"signal 9|lost the connection"),
    (kill_rank, "srun", r"Killed|signal 9"),
    (leave_early, "mpirun", r"exited|lost the connection|without"),
    (leave_early, "srun", r"lost the connection|task \d: "),
    (stop_rank, "mpirun", r"gave up after 10 s .* rank 2 on node3"),
    (stop_rank, "srun", r"gave up after 10 s .* rank 2 on node3"),
    (power_off, "mpirun", r"lost communication|node3"),
    (power_off, "srun", r"node3|[Nn]ode failure|lost"),
    (cut_link, "mpirun", r"node3|lost communication"),
    (cut_link, "srun", r"node3|gave up after"),
]


@pytest.mark.parametrize(
    ("fault", "launcher", "words"),
    FAULTS,
    ids=[f"{fault.__name__}-{launcher}" for fault, launcher, _ in FAULTS],
)
def test_a_fault_ends_the_run_everywhere_and_stays_on_record(
    cluster: Cluster,
    shared_kit: SharedKit,
    healthy: None,
    fault: Callable[[Run], None],
    launcher: str,
    words: str,
) -> None:
    results = shared_kit.folder / "results"
    failed = results / f"small-{launcher}" / "failed"
    before = len(list(failed.glob("*.json")))
    run = start(cluster, shared_kit, launcher, results)
    struck = time.monotonic()
    fault(run)
    status, text = run.started.finish(LIMIT_SECONDS)
    ended = time.monotonic() - struck
    alive = [node for node in NODES if not (fault is power_off and node == "node3")]
    wait_until(
        lambda: not any(cluster.list_ranks(node) for node in alive),
        LIMIT_SECONDS - ended,
        "the end of all ranks",
    )
    gone = time.monotonic() - struck
    assert status == 1, text
    assert "resnet run 1 of 1 failed: " in text and "Traceback" not in text.split("failed: ")[-1]
    (record,) = sorted(failed.glob("*.json"))[before:]
    reason = json.loads(record.read_text())["reason"]
    assert re.search(words, reason) and "\n" not in reason
    log = record.with_suffix(".txt").read_text()
    assert '"run_start"' in log and "run_stop" not in log
    assert not list((results / f"small-{launcher}" / "resnet").iterdir())
    # For the table in docs/reproducing.md (pytest -s).
    print(f"\n{fault.__name__} {launcher}: launcher {ended:.1f} s, ranks {gone:.1f} s: {reason}")


@pytest.mark.parametrize("launcher", ["mpirun", "srun"])
def test_resume_completes_the_campaign_and_names_what_failed(
    cluster: Cluster, shared_kit: SharedKit, launcher: str
) -> None:
    results = shared_kit.folder / "results"
    failed = sorted((results / f"small-{launcher}" / "failed").glob("*.json"))
    if not failed:
        pytest.skip("no fault was tried before")
    shared_kit.set_length(2)
    status, text = cluster.run(*compose(shared_kit, launcher, results), folder=shared_kit.checkout)
    assert status == 1, text  # one run of five, target missed: no valid result
    assert "resnet run 1 of 1: aborted" in text and text.splitlines()[-1].startswith("score = ")
    assert f"failed attempts on record in {failed[0].parent}: {len(failed)}" in text
    logs = list((results / f"small-{launcher}" / "resnet").iterdir())
    assert [log.name for log in logs] == ["result_0.txt"]
    assert "hosts" in logs[0].read_text() and all(node in logs[0].read_text() for node in NODES)


def look_at_job(cluster: Cluster, kit: SharedKit, job: str) -> str:
    """What Slurm, the batch job itself and the processes say of a job that does not get on."""
    asked = [["scontrol", "show", "job", job], ["sinfo", "-N", "-l"], ["ps", "axf"]]
    said = [cluster.run(*words)[1] for words in asked]
    output = kit.checkout / f"campaign-{job}.out"
    return "\n".join([output.read_text() if output.exists() else "no output", *said])


def test_a_cancelled_batch_job_ends_everywhere(
    cluster: Cluster, shared_kit: SharedKit, healthy: None
) -> None:
    results = shared_kit.folder / "batch"
    shared_kit.set_length(4000)
    script = ["sbatch", "--parsable", "--time=60", "scripts/campaign.sbatch"]
    _, text = cluster.run(
        *script, *compose(shared_kit, "srun", results)[1:], folder=shared_kit.checkout
    )
    job = text.strip()
    folder = results / "small-srun"
    wait_until(
        lambda: has_clock(folder), 300, "run_start", lambda: look_at_job(cluster, shared_kit, job)
    )
    struck = time.monotonic()
    assert cluster.run("scancel", job) == (0, "")
    wait_until(
        lambda: (
            not any(cluster.list_ranks(node) for node in NODES)
            and bool(list((folder / "failed").glob("*.json")))
        ),
        LIMIT_SECONDS,
        "the end of all ranks",
    )
    gone = time.monotonic() - struck
    reason = json.loads((folder / "failed" / "resnet_0_0.json").read_text())["reason"]
    assert re.search("interrupted|CANCELLED", reason)
    assert "run_stop" not in (folder / "failed" / "resnet_0_0.txt").read_text()
    wait_until(
        lambda: "CANCELLED" in cluster.run("scontrol", "show", "job", job)[1], 300, "the end"
    )
    print(f"\nscancel: last rank's end {gone:.1f} s: {reason}")


def test_a_full_folder_ends_the_run_and_what_is_there_stays(
    cluster: Cluster, shared_kit: SharedKit, shared_folder: Path, healthy: None
) -> None:
    tight = shared_folder / "tight"
    run = start(cluster, shared_kit, "mpirun", tight)
    struck = time.monotonic()
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={tight}/ballast", "bs=1M"], capture_output=True, check=False
    )
    status, text = run.started.finish(LIMIT_SECONDS)
    ended = time.monotonic() - struck
    assert status in (1, 2), text
    wait_until(
        lambda: not any(cluster.list_ranks(node) for node in NODES),
        LIMIT_SECONDS - ended,
        "the end of all ranks",
    )
    assert "no space left on the disk" in text
    folder = tight / "small-mpirun"
    assert not list((folder / "resnet").glob("result_*"))
    (tight / "ballast").unlink()
    shared_kit.set_length(2)
    status, resumed = cluster.run(*compose(shared_kit, "mpirun", tight), folder=shared_kit.checkout)
    assert "resnet run 1 of 1: aborted" in resumed, resumed
    assert "failed attempts on record" in resumed
    log = (folder / "failed" / "resnet_0_0.txt").read_text()
    assert '"run_start"' in log and '"success"' not in log
    print(f"\nfull folder: status {status}, end {ended:.1f} s")
