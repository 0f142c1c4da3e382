"""MLCommons' files: the commands that download them, and whether they are what was shipped."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

from bert.prepare_data_threads import run_tasks
from bert.published_data import PublishedData, PublishedFile
from harness.commands import InputError
from harness.progress import Progress

READ_BYTES = 1 << 22
TOOLS = ("bash", "curl", "wget", "md5sum")  # what MLCommons' script calls, and the script's own
OK, MISSING, WRONG_SIZE, WRONG_MD5 = "ok", "missing", "wrong size", "wrong MD5"
NOT_PUBLISHED = "not published"
GOOD_STATES = (OK, NOT_PUBLISHED)


@dataclass(frozen=True)
class FileState:
    """One file of the download: what it is and what it should be; path: None where it is missing.

    state: ok, missing, wrong size, wrong MD5 or not published (there, but nobody says of it what
    it should be).
    """

    name: str
    state: str
    path: str | None
    bytes: int | None = None
    md5: str | None = None
    published_bytes: int | None = None
    published_md5: str | None = None

    def describe(self) -> str:
        """Say it in a line."""
        words = f"{self.state:14}{self.path or self.name}"
        if self.state == WRONG_SIZE and self.published_bytes is None:
            words += " (empty)"
        elif self.state == WRONG_SIZE:
            words += f" ({self.bytes:,} bytes, not {self.published_bytes:,})"
        elif self.state == WRONG_MD5:
            words += f" ({self.md5}, not {self.published_md5})"
        return words


def list_commands(published: PublishedData, folder: Path) -> list[str]:
    """Return the shell commands that download everything, as MLCommons gives them."""
    place = shlex.quote(str(folder))
    return [f"mkdir -p {place} && cd {place}"] + [
        f"bash <(curl -s {published.script}) {catalogue}" for catalogue in published.catalogues
    ]


def download_files(published: PublishedData, folder: Path) -> None:
    """Run MLCommons' downloader for every catalogue, in the folder.

    Raises InputError saying what is missing where a tool or the network is.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise InputError(f"{', '.join(missing)} not found: install what the downloader needs")
    folder.mkdir(parents=True, exist_ok=True)
    command = ["curl", "--fail", "--silent", "--show-error", "--location", published.script]
    fetched = subprocess.run(command, capture_output=True, check=False)
    if fetched.returncode != 0:
        reason = fetched.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise InputError(
            f"{published.script} cannot be fetched ({reason[-1]}): check the network, or run the "
            "printed commands on a machine that has one"
        )
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "downloader.sh"
        script.write_bytes(fetched.stdout)
        for catalogue in published.catalogues:
            # Standard input stays the user's, for the script may ask; its output is prose.
            command = ["bash", str(script), catalogue]
            status = subprocess.run(command, cwd=folder, stdout=sys.stderr, check=False).returncode
            if status != 0:
                raise InputError(
                    f"the download of {catalogue} ended with status {status}: see its messages "
                    "above, and run the same command again"
                )


def list_wanted(published: PublishedData) -> dict[str, PublishedFile | None]:
    """Return every file that must be there, by its path, and what is published of it."""
    wanted: dict[str, PublishedFile | None] = {
        file.path: file for file in published.files if file.needed
    }
    for number in range(published.text_parts):
        wanted.setdefault(f"results/part-{number:05d}-of-{published.text_parts:05d}", None)
    return dict(sorted(wanted.items()))


def find_files(folder: Path) -> dict[str, list[Path]]:
    """Return the files below a folder by their name, wherever they lie; nothing where it is not.

    Raises OSError where a folder cannot be read.
    """
    found: dict[str, list[Path]] = {}
    seen = set()

    def raise_unless_missing(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for place, folders, names in os.walk(folder, onerror=raise_unless_missing, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()  # a link that leads back
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            if path.is_file():
                found.setdefault(name, []).append(path)
    return found


def choose_file(path: str, found: dict[str, list[Path]], exactly: bool) -> Path | None:
    """Return the file that a published path means: in the folder it names, or else anywhere.

    exactly: in that folder or nowhere.
    """
    folder, _, name = path.rpartition("/")
    there = found.get(name, [])
    beside = [file for file in there if not folder or file.parent.name == folder]
    return next(iter(beside if exactly else beside or there), None)


def check_files(published: PublishedData, folder: Path, workers: int) -> list[FileState]:
    """Compare every file below a folder with what is published: its name, size and MD5.

    Files that are not needed are compared where they are there. Raises OSError where a file cannot
    be read.
    """
    found, wanted = find_files(folder), list_wanted(published)
    names = Counter(file.name for file in published.files)
    chosen = {
        name: choose_file(name, found, exactly=file is not None and names[file.name] > 1)
        for name, file in wanted.items()
    }
    for file in published.files:
        path = None if file.needed else choose_file(file.path, found, exactly=True)
        if path is not None:
            wanted[file.path], chosen[file.path] = file, path
    sizes = [path.stat().st_size for path in chosen.values() if path is not None]
    progress, lock, done = Progress("md5", sum(sizes) // 1000, "kB"), Lock(), [0]

    def report(size: int) -> None:
        with lock:
            done[0] += size
            progress.update(done[0] // 1000)

    tasks = [partial(check_file, name, chosen[name], wanted[name], report) for name in wanted]
    states = dict(run_tasks(tasks, workers))
    progress.end()
    return [states[number] for number in range(len(tasks))]


def check_file(
    name: str,
    path: Path | None,
    published: PublishedFile | None,
    report: Callable[[int], None],
) -> FileState:
    """Compare one file; report gets the bytes as they are read."""
    if path is None:
        wanted = (published.bytes, published.md5) if published else (None, None)
        return FileState(name, MISSING, None, None, None, *wanted)
    size = path.stat().st_size
    if published is None:
        return FileState(name, NOT_PUBLISHED if size else WRONG_SIZE, str(path), size)
    if size != published.bytes:
        report(size)
        return FileState(name, WRONG_SIZE, str(path), size, None, published.bytes, published.md5)
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
            report(len(block))
    state = OK if digest.hexdigest() == published.md5 else WRONG_MD5
    return FileState(
        name, state, str(path), size, digest.hexdigest(), published.bytes, published.md5
    )
