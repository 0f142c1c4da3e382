"""Four virtual hosts on this machine, a plain user on them, and the kit where all nodes see it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.processes import list_descendants
from harness.systems import IMAGE_KIT
from tests.conftest import ROOT, Kit

USER = 1000
NODES = ("node1", "node2", "node3", "node4")
PACKAGES = ("harness", "resnet", "bert", "scoring", "demo")
LINKS = {"vcbr0", "vc1", "vc2", "vc3", "vc4"}
SMALL_BYTES = 160 << 20
TOOL_SECONDS = 300
COLLECTIVE_TIMEOUT_SECONDS = 10


def wait_until(
    condition: Callable[[], bool], seconds: float, what: str, look: Callable[[], str] = str
) -> None:
    """Look ten times a second until something holds; else say what did not come, and `look`."""
    deadline = time.monotonic() + seconds
    while not condition():
        late = time.monotonic() >= deadline
        assert not late, f"{what} did not come within {seconds:g} s\n{look()}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Software:
    """What the ranks run in: an image, or this checkout's environment, seen by all hosts."""

    image: Path | None

    @property
    def folders(self) -> list[Path]:
        """What the hosts must see beside the shared folder."""
        return [] if self.image else [Path(sys.prefix).resolve(), Path(sys.base_prefix)]

    @property
    def prefix(self) -> list[str]:
        """What comes before a command, so that the kit finds the Python that made .venv."""
        path = f"PATH={sys.base_prefix}/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return [] if self.image else ["env", path]

    @property
    def python(self) -> str:
        """The Python that the user calls: with an image the host's own is enough."""
        return "python3" if self.image else str(Path(sys.prefix).resolve() / "bin" / "python")

    def bind_code(self, checkout: Path) -> tuple[str, ...]:
        """The binds that lay a checkout's code over the image's."""
        return tuple(f"{checkout / name}:{IMAGE_KIT / name}:ro" for name in PACKAGES)


def compare_sources(image_files: dict[str, str]) -> list[str]:
    """Name the checkout's sources that an image does not have as they are here.

    image_files: SHA-256 by path, of the image's manifest.
    """
    here = {
        file.relative_to(ROOT).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for name in PACKAGES
        for file in sorted((ROOT / name).rglob("*"))
        if file.is_file() and "__pycache__" not in file.parts
    }
    return [name for name, digest in here.items() if image_files.get(name) != digest]


def read_manifest(text: str) -> dict[str, str]:
    """The files of an image's manifest, SHA-256 by path."""
    files = json.loads(text)["files"]
    assert isinstance(files, dict) and files
    return files


class Cluster:
    """The hosts, by the tool that makes them (up, down, exec, user, kill, linkdown, linkup).

    shared: the folder from which a plain user calls commands, below seen, which all hosts see.
    """

    def __init__(self, tool: Path, shared: Path, seen: Path, software: Software) -> None:
        self.tool, self.shared = tool, shared
        self.folders, self.prefix = software.folders, software.prefix
        share = " ".join(map(str, (seen, *self.folders)))
        self.environment = {**os.environ, "CLUSTER_WD": str(shared), "CLUSTER_SHARE": share}

    def up(self) -> None:
        """Power every host on."""
        self.call("up")
        for folder in self.folders:  # a plain user may pass through what leads there
            for parent in [*folder.parents][:-1]:
                self.call("exec", "node1", "chmod", "o+x", str(parent))

    def call(self, *words: str) -> None:
        """Run one of the tool's own commands."""
        # Its hosts stay: they must not hold our pipes open.
        subprocess.run(
            [str(self.tool), *words],
            env=self.environment, stdin=subprocess.DEVNULL, check=True, timeout=TOOL_SECONDS,
        )  # fmt: skip

    def down(self) -> None:
        """Power every host off."""
        self.call("down")
        # Sockets that nobody closed keep a dead host's network, and with it the link's name.
        for link in LINKS.intersection(os.listdir("/sys/class/net")):
            subprocess.run(["ip", "link", "del", link], stderr=subprocess.DEVNULL, check=False)

    def restart(self) -> None:
        """Power every host off and on."""
        self.down()
        self.up()

    def start(self, *words: str, node: str = "node1", folder: Path | None = None) -> Started:
        """Start a command as the plain user."""
        environment = {**self.environment, "CLUSTER_WD": str(folder or self.shared)}
        process = subprocess.Popen(
            [str(self.tool), "user", node, *self.prefix, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return Started(process)

    def run(self, *words: str, folder: Path | None = None, seconds: float = 600) -> tuple[int, str]:
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
            # All that it started on the hosts: each may hold the pipe open.
            for pid in [*list_descendants(self.process.pid), self.process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            text, _ = self.process.communicate()
            raise AssertionError(f"it had not ended after {seconds:g} s:\n{text}") from None
        return self.process.returncode, text


@dataclass(frozen=True)
class SharedKit:
    """The checkout's code, small data and a system file for each launcher, seen by all nodes."""

    folder: Path
    software: Software
    code: tuple[str, ...]  # binds that lay this checkout's code over the image's

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


def share_kit(kit: Kit, folder: Path, software: Software, bind_code: bool) -> SharedKit:
    """Copy the checkout's code and a small kit to a folder that all nodes see."""
    checkout = folder / "checkout"
    shared = SharedKit(folder, software, software.bind_code(checkout) if bind_code else ())
    shared.checkout.mkdir(parents=True)
    for name in (*PACKAGES, "systems", "scripts", "container"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, shared.checkout / name, ignore=ignore)
    shutil.copy(ROOT / "run_and_time.sh", shared.checkout)
    if software.image is None:
        (shared.checkout / ".venv").symlink_to(Path(sys.prefix).resolve())
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
    binds = [str(folder), *shared.code]
    text = spread_over_hosts((small / "small.toml").read_text(), software, binds)
    text = change(
        text,
        ("timeout_seconds = 120", f"timeout_seconds = {COLLECTIVE_TIMEOUT_SECONDS}"),
        ("[environment.HF_HUB_OFFLINE]", EXTRA.format(faulty=small / "faulty")),
    )
    hosts = ", ".join(f'"{node}"' for node in NODES)
    for launcher, extra in (("mpirun", f"hosts = [{hosts}]"), ("srun", "hosts = []")):
        shared.system(launcher).write_text(
            change(
                text,
                ('name = "small"', f'name = "small-{launcher}"'),
                ('launcher = "mpirun"', f'launcher = "{launcher}"'),
                ("hosts = []", extra),
            )
        )
    shared.give_to_user()
    return shared


def spread_over_hosts(system: str, software: Software, binds: Iterable[str]) -> str:
    """Turn a system file of one machine into one of four hosts, in the image if there is one.

    binds: as in a system file, or one path for a folder at the same path inside.
    """
    start = system.index("[environment.GLOO_SOCKET_IFNAME]")
    system = system[:start] + system[system.index("[", start + 1) :]
    system = change(system, ("one_machine = true", "one_machine = false"))
    if software.image is None:
        return system
    listed = ", ".join(f'"{bind if ":" in bind else f"{bind}:{bind}"}"' for bind in binds)
    return change(
        system,
        ('runtime = "none"', 'runtime = "singularity"'),
        ('image = ""', f'image = "{software.image}"'),
        ("binds = []", f"binds = [{listed}]"),
    )


def change(text: str, *pairs: tuple[str, str]) -> str:
    """Replace texts, each of which must be there."""
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new, 1)
    return text


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
