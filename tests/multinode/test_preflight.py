"""What preflight says of four hosts, and of four of which one is off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from harness.preflight import STARTED
from tests.multinode.cluster import NODES, Cluster, SharedKit, change
from tests.multinode.conftest import STATE

pytestmark = pytest.mark.multinode


def preflight(cluster: Cluster, kit: SharedKit, launcher: str) -> tuple[int, dict[str, Any]]:
    command = [kit.software.python, "-m", "harness.preflight", "--json", "--input-seconds", "1"]
    command += ["--results", str(kit.folder / "preflight"), "--system", str(kit.system(launcher))]
    status, text = cluster.run(*command, folder=kit.checkout)
    document = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert isinstance(document, dict)
    return status, document


@pytest.mark.parametrize("launcher", ["mpirun", "srun"])
def test_four_hosts_are_looked_at(cluster: Cluster, shared_kit: SharedKit, launcher: str) -> None:
    status, document = preflight(cluster, shared_kit, launcher)
    checks = {check["name"]: check for check in document["checks"]}
    bad = [check for check in document["checks"] if check["verdict"] == "failed"]
    assert status == 0, bad
    assert all(node in checks[STARTED]["found"] for node in NODES)
    assert any("all-reduce" in name for name in checks)
    assert checks["rank 0's address"]["found"] == "all reach node1"
    assert "Open MPI" in checks["software"]["found"]


@pytest.fixture
def misnamed_node1() -> Iterator[None]:
    """Let node1's name mean 127.0.1.1 on every host, as Debian's installer lets it on its own."""
    file = STATE / "hosts"
    text = file.read_text()
    file.write_text(change(text, ("10.77.0.1 node1", "127.0.1.1 node1")))
    yield
    file.write_text(text)


def test_rank_0_is_reached_though_its_name_misleads(
    cluster: Cluster, shared_kit: SharedKit, misnamed_node1: None
) -> None:
    status, document = preflight(cluster, shared_kit, "mpirun")
    checks = {check["name"]: check for check in document["checks"]}
    assert status == 0, document
    assert checks["rank 0's address"]["found"] == "all reach 10.77.0.1"


@pytest.fixture
def without_node3(cluster: Cluster) -> Iterator[None]:
    """Power one host off, and all on again."""
    cluster.call("kill", "node3")
    yield
    cluster.restart()


def test_a_host_that_is_off_is_named(
    cluster: Cluster, shared_kit: SharedKit, without_node3: None
) -> None:
    status, document = preflight(cluster, shared_kit, "mpirun")
    (bad,) = [check for check in document["checks"] if check["verdict"] == "failed"]
    assert status == 1 and "node3" in bad["found"], bad
