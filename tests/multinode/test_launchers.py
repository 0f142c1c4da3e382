"""The user's way on four hosts, and the wirings that would make every rank believe it is alone."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from harness.launch import compose_command
from harness.systems import load_system
from tests.multinode.cluster import NODES, Cluster, SharedKit

pytestmark = pytest.mark.multinode


@pytest.mark.parametrize("launcher", ["mpirun", "srun"])
def test_a_plain_user_makes_and_scores_a_campaign(
    cluster: Cluster, shared_kit: SharedKit, launcher: str
) -> None:
    shared_kit.set_length(2)
    results = shared_kit.folder / "campaign"
    command = ["./run_and_time.sh", "--system", str(shared_kit.system(launcher)), "--runs", "1"]
    status, text = cluster.run(*command, "--results", str(results), folder=shared_kit.checkout)
    assert status == 1, text  # one run of each, targets missed: scored as not valid
    assert text.splitlines()[-1] == "score = 7.19/R + 9.05/B = none"
    folder = results / f"small-{launcher}"
    for benchmark in ("resnet", "bert"):
        log = (folder / benchmark / "result_0.txt").read_text()
        assert '"run_stop"' in log and all(f'"{node}"' in log for node in NODES)
        assert ("image_manifest_sha256" in log) == (shared_kit.software.image is not None)
    score = json.loads((folder / "score.json").read_text())
    assert score["benchmarks"].keys() == {"resnet", "bert"} and score["valid"] is False
    assert (folder / "report.html").stat().st_size > 1000
    assert not (folder / "failed").exists()
    if shared_kit.software.image:
        assert not (shared_kit.checkout / ".venv").exists()  # nothing but the image was needed


# The wiring, the launcher, what is changed in its command line, and what the sentence must say.
SINGLETONS = {
    "srun-without-pmi": ("srun", ("--mpi=pmix", "--mpi=none"), "--mpi=pmix"),
    "srun-pmi2": ("srun", ("--mpi=pmix", "--mpi=pmi2"), "--mpi=pmix"),
    "cleaned-environment": (
        "mpirun",
        ("singularity exec", "env APPTAINER_CLEANENV=1 singularity exec"),
        "APPTAINER_CLEANENV",
    ),
    "no-pmix-server": (
        "mpirun",
        ("singularity exec", "env -u PMIX_NAMESPACE -u PMIX_RANK singularity exec"),
        "OMPI_* and PMIX_*",
    ),
}


@pytest.mark.parametrize("wiring", SINGLETONS)
def test_silent_singletons_are_found(
    cluster: Cluster, shared_kit: SharedKit, tmp_path: Path, wiring: str
) -> None:
    launcher, (old, new), words = SINGLETONS[wiring]
    if "singularity" in old and shared_kit.software.image is None:
        pytest.skip("a container loses these variables: name an image (LP_IMAGE)")
    file = shared_kit.system(launcher)
    folder = shared_kit.folder / "singletons"
    folder.mkdir(exist_ok=True)
    shared_kit.give_to_user()
    log = folder / f"{wiring}.txt"
    line = shlex.join(compose_command(load_system(file), file, "resnet", log))
    assert old in line
    status, text = cluster.run("sh", "-c", line.replace(old, new, 1), folder=shared_kit.checkout)
    assert status != 0, text
    assert words in text and "Traceback" not in text, text
    assert not log.exists()
