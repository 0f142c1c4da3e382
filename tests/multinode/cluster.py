"""Four virtual hosts on this machine, a plain user on them, and the kit where all nodes see it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT, Kit

USER = 1000
NODES = ("node1", "node2", "node3", "node4")
PACKAGES = ("harness", "resnet", "bert", "scoring", "demo")
LINKS = {"vcbr0", "vc1", "vc2", "vc3", "vc4"}
SMALL_BYTES = 160 << 20


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Look ten times a second until something holds; what did not come is said."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.1)


class Cluster:
    """The hosts, by the tool that makes them (up, down, exec, user, kill, linkdown, linkup)."""

    def __init__(self, tool: Path, shared: Path) -> None:
        self.tool, self.shared = tool, shared
        self.environment = {**os.environ, "CLUSTER_WD": str(shared)}

    def call(self, *words: str) -> None:
        """Run one of the tool's own commands."""
        # Its hosts stay: they must not hold our pipes open.
        subprocess.run(
            [str(self.tool), *words], env=self.environment, stdin=subprocess.DEVNULL, check=True
        )

    def down(self) -> None:
        """Power every host off."""
        self.call("down")
        # Sockets that nobody closed keep a dead host's network, and with it the link's name.
        for link in LINKS.intersection(os.listdir("/sys/class/net")):
            subprocess.run(["ip", "link", "del", link], stderr=subprocess.DEVNULL, check=False)

    def restart(self) -> None:
        """Power every host off and on."""
        self.down()
        self.call("up")

    def start(self, *words: str, node: str = "node1", folder: Path | None = None) -> Started:
        """Start a command as the plain user."""
        environment = {**self.environment, "CLUSTER_WD": str(folder or self.shared)}
        process = subprocess.Popen(
            [str(self.tool), "user", node, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Started(process)

    def run(self, *words: str, folder: Path | None = None, seconds: float = 120) -> tuple[int, str]:
        """Run a command as the plain user; returns its status and what it wrote."""
        return self.start(*words, folder=folder).finish(seconds)

    def list_ranks(self, node: str) -> list[str]:
        """The processes of trainers that are alive on a node; none on a node that is off."""
        done = subprocess.run(
            [str(self.tool), "exec", node, "pgrep", "-af", "bin/python -m resnet.train"],
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return [line for line in done.stdout.splitlines() if " exec " not in line]


@dataclass
class Started:
    """A command that goes on."""

    process: subprocess.Popen[str]

    def finish(self, seconds: float) -> tuple[int, str]:
        """Wait for its end; returns its status and what it wrote."""
        try:
            text, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            text, _ = self.process.communicate()
            raise AssertionError(f"it had not ended after {seconds:g} s:\n{text}") from None
        return self.process.returncode, text


@dataclass(frozen=True)
class SharedKit:
    """The checkout's code, small data and a system file for each launcher, seen by all nodes."""

    folder: Path

    @property
    def checkout(self) -> Path:
        """Where the plain user calls the kit's commands."""
        return self.folder / "checkout"

    @property
    def resnet_config(self) -> Path:
        """The configuration that the tests lengthen and shorten."""
        return self.folder / "small" / "resnet.toml"

    def system(self, launcher: str) -> Path:
        """The system file of a launcher."""
        return self.folder / "small" / f"small-{launcher}.toml"

    def set_length(self, epochs: int) -> None:
        """Let ResNet runs go on for so many epochs."""
        text = self.resnet_config.read_text().splitlines()
        lines = [f"decay_epochs = {epochs}" if "decay_epochs" in line else line for line in text]
        self.resnet_config.write_text("\n".join(lines) + "\n")

    def give_to_user(self) -> None:
        """Make everything the plain user's."""
        subprocess.run(["chown", "-R", f"{USER}:{USER}", str(self.folder)], check=True)


def share_kit(kit: Kit, folder: Path, image: Path) -> SharedKit:
    """Copy the checkout's code and a small kit to a folder that all nodes see."""
    shared = SharedKit(folder)
    shared.checkout.mkdir(parents=True)
    for name in (*PACKAGES, "systems", "scripts", "container"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, shared.checkout / name, ignore=ignore)
    shutil.copy(ROOT / "run_and_time.sh", shared.checkout)
    small = folder / "small"
    shutil.copytree(kit.folder, small)
    (small / "faulty").mkdir()
    (small / "faulty" / "sitecustomize.py").write_text(LEAVE_EARLY.format(folder=small / "faulty"))
    for file in (small / "small.toml", small / "resnet.toml", small / "bert.toml"):
        file.write_text(file.read_text().replace(str(kit.folder), str(small)))
    # It never learns, so a run that is meant to last does not reach its target by luck.
    config = shared.resnet_config.read_text()
    assert "base_learning_rate = 5.0" in config
    shared.resnet_config.write_text(config.replace("rate = 5.0", "rate = 0.0002", 1))
    code = [f"{shared.checkout / name}:/opt/lp-mlperf-kit/{name}:ro" for name in PACKAGES]
    binds = ", ".join(f'"{bind}"' for bind in (f"{folder}:{folder}", *code))
    text = (small / "small.toml").read_text()
    start = text.index("[environment.GLOO_SOCKET_IFNAME]")
    text = text[:start] + text[text.index("[", start + 1) :]
    for old, new in (
        ("one_machine = true", "one_machine = false"),
        ('runtime = "none"', 'runtime = "singularity"'),
        ('image = ""', f'image = "{image}"'),
        ("binds = []", f"binds = [{binds}]"),
        ("timeout_seconds = 120", "timeout_seconds = 20"),
        ("[environment.HF_HUB_OFFLINE]", EXTRA.format(faulty=small / "faulty")),
    ):
        assert old in text, old
        text = text.replace(old, new, 1)
    hosts = ", ".join(f'"{node}"' for node in NODES)
    for launcher, extra in (("mpirun", f"hosts = [{hosts}]"), ("srun", "hosts = []")):
        own = text.replace('name = "small"', f'name = "small-{launcher}"', 1)
        own = own.replace('launcher = "mpirun"', f'launcher = "{launcher}"', 1)
        shared.system(launcher).write_text(own.replace("hosts = []", extra, 1))
    shared.give_to_user()
    return shared


EXTRA = """\
[environment.PMIX_MCA_psec]
value = "native"
reason = "PMIx on the host offers munge for authentication, which the container does not have"

[environment.PYTHONPATH]
value = "{faulty}"
reason = "lets a test make one rank leave early with status 0"

[environment.HF_HUB_OFFLINE]"""

LEAVE_EARLY = """\
import os, threading, time
def leave():
    while not os.path.exists("{folder}/now"):
        time.sleep(0.2)
    os._exit(0)
if (os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("SLURM_PROCID")) == "2":
    threading.Thread(target=leave, daemon=True).start()
"""
