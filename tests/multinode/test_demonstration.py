"""The whole demonstration on four hosts, as its user makes it: nothing but the image, then scored.

Takes many minutes: only where an image is named (LP_IMAGE) or built (LP_BUILD_IMAGE=1).
"""

from __future__ import annotations

import json
import shutil

import pytest

from tests.conftest import ROOT
from tests.multinode.cluster import NODES, Cluster, SharedKit, change, spread_over_hosts

pytestmark = pytest.mark.multinode
MINUTES = 30


@pytest.mark.parametrize("launcher", ["srun", "mpirun"])
def test_a_plain_user_makes_the_whole_demonstration_from_the_image(
    cluster: Cluster, shared_kit: SharedKit, launcher: str
) -> None:
    if shared_kit.software.image is None:
        pytest.skip("the whole demonstration takes many minutes: name an image (LP_IMAGE)")
    folder = shared_kit.folder / f"demonstration-{launcher}"
    folder.mkdir()
    (folder / "hosts").write_text("".join(f"{node} slots=1\n" for node in NODES))
    # In Slurm's allocation, or by a list of hosts over ssh.
    options = f'options = ["--hostfile", "{folder}/hosts"]' if launcher == "mpirun" else None
    system = spread_over_hosts(
        (ROOT / "systems" / "demo.toml").read_text(),
        shared_kit.software,
        [str(folder), *shared_kit.code],
    )
    system = change(
        system,
        ('name = "demo"', f'name = "demo-{launcher}"'),
        ('launcher = "mpirun"', f'launcher = "{launcher}"'),
        ("options = []", options or "options = []"),
        ('make_data = ["demo"]', f'make_data = ["demo --output {folder}/data"]'),
        ("[environment.HF_HUB_OFFLINE]", f"{PMIX}[environment.HF_HUB_OFFLINE]"),
    ).replace('"data/demo/', f'"{folder}/data/')
    file = folder / f"demo-{launcher}.toml"
    file.write_text(system)
    shared_kit.give_to_user()
    command = ["./run_and_time.sh", "--system", str(file), "--results", str(folder / "results")]
    if launcher == "srun":
        command = ["salloc", "--quiet", "--nodes=4", *command]
    status, text = cluster.run(*command, folder=shared_kit.checkout, seconds=60 * MINUTES)
    print(f"\n{text}")
    assert status == 0, text
    results = folder / "results" / f"demo-{launcher}"
    for benchmark, runs in (("resnet", 5), ("bert", 10)):
        logs = sorted((results / benchmark).iterdir())
        assert [log.name for log in logs] == [f"result_{n}.txt" for n in range(runs)]
        for log in logs:
            words = log.read_text()
            assert all(f'"{node}"' in words for node in NODES) and "image_manifest_sha256" in words
    score = json.loads((results / "score.json").read_text())
    assert score["valid"] is True and score["score"] > 0
    assert text.splitlines()[-1].startswith("score = 7.19/R + 9.05/B = ")
    assert not (results / "failed").exists()
    shutil.rmtree(folder)


PMIX = """\
[environment.PMIX_MCA_psec]
value = "native"
reason = "PMIx on the host offers munge for authentication, which the container does not have"

"""
