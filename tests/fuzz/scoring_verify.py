"""Fuzzes the examination of a package: `python -m tests.fuzz.scoring_verify`.

Each execution damages a few files of a package that keeps every promise, more often than not with
the manifest's hashes made right again, and examines it. The examination may give a verdict, and
nothing else; a changed byte that the manifest does not know of is never valid. The stock checkers
are left out (every log counts as compliant), and sources are parsed in this process: two hundred
times as many executions.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from scoring.exits import InputError
from scoring.package import call_site_process
from scoring.package.layout import MANIFEST_FILE, FileEntry
from scoring.package.reading import OpenedPackage
from scoring.package.verification import verify_package
from scoring.package.verification_prose import write_verification
from scoring.profile import Profile, load_profile
from scoring.score import Score
from scoring.submission import read_submission
from tests.fuzz.damage import VALUES, damage_bytes, damage_lines
from tests.fuzz.loop import Damaged, Execute, run_fuzzer
from tests.scoring.honest_package import make_honest_package
from tests.scoring.judging import judge_runs

PROSE_LIMIT = 200_000


def score_in_memory(folder: Path, ruleset: str, profile: Profile, use_window: bool) -> Score:
    """Score a folder without the stock checkers."""
    del use_window
    submission = read_submission(folder, profile)
    verdicts = {
        name: judge_runs(name, result.runs, profile.name, submission.system).verdicts[name]
        for name, result in submission.results.items()
    }
    return Score(submission, profile, ruleset, "none", verdicts)


def list_calls(paths: list[str]) -> dict[str, Any]:
    """Parse sources here, without a process of their own."""
    return {path: call_site_process.list_calls(path) for path in paths}


def damage_document(random: Random, content: bytes) -> bytes:
    """Give one value of a JSON document another kind, or take it out."""
    try:
        document = json.loads(content)
    except ValueError:
        return damage_bytes(random, content)
    table = document
    while isinstance(table, dict) and table:
        key = random.choice(list(table))
        if isinstance(table[key], dict) and table[key] and random.random() < 0.7:
            table = table[key]
            continue
        if random.random() < 0.2:
            del table[key]
        else:
            table[key] = random.choice(VALUES)
        break
    return json.dumps(document).encode()


def damage_file(random: Random, name: str, content: bytes) -> bytes:
    """Damage one file of a package as its kind asks for."""
    if name.endswith(".json") and random.random() < 0.8:
        return damage_document(random, content)
    if "/result_" in name and random.random() < 0.8:
        return b"\n".join(damage_lines(random, content.split(b"\n")))
    return damage_bytes(random, content)


def describe(content: bytes) -> FileEntry:
    """Give what a manifest says of a file."""
    return FileEntry(hashlib.sha256(content).hexdigest(), len(content))


class Package:
    """An honest package in memory and on disk, damaged and mended again."""

    def __init__(self, folder: Path, private: Path) -> None:
        (self.folder,) = folder.iterdir()
        self.private = private
        paths = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        self.contents = {
            path.relative_to(self.folder).as_posix(): path.read_bytes() for path in paths
        }
        self.entries = {name: describe(content) for name, content in self.contents.items()}
        # Logs, records and settings are looked at by more than their hash.
        self.looked_at = [
            *(name for name in self.contents if not name.startswith("benchmarks/")),
            *(name for name in self.contents if name.endswith((".toml", "train.py"))),
        ]

    @contextmanager
    def hold(self, changed: dict[str, bytes]) -> Iterator[OpenedPackage]:
        """Have the package with these files changed."""
        for name, content in changed.items():
            self._write(name, content)
        entries = {name: describe(content) for name, content in changed.items()}
        try:
            files = {**self.entries, **entries}
            yield OpenedPackage(
                self.folder.parent, self.private, self.folder, self.folder.name, files
            )
        finally:
            for name in changed:
                self._write(name, self.contents[name])

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.unlink()  # a link to it may be held
        path.write_bytes(content)

    def list_again(self, changed: dict[str, bytes]) -> None:
        """Write the hashes of the changed files into the manifest, if it can still be read."""
        try:
            manifest = json.loads(changed.get(MANIFEST_FILE, self.contents[MANIFEST_FILE]))
            for name, content in changed.items():
                if name != MANIFEST_FILE:
                    manifest["files"][name] = vars(describe(content))
        except (ValueError, TypeError, KeyError):
            return
        changed[MANIFEST_FILE] = json.dumps(manifest).encode()


def examine(package: OpenedPackage, profile: Profile) -> bool:
    """Examine a package; says whether it is valid."""
    verification = verify_package(package, "4.0.0", profile, None)
    json.dumps(verification.describe(), allow_nan=False)
    prose = write_verification(verification)
    assert len(prose) < PROSE_LIMIT
    assert all(line.isprintable() for line in prose.splitlines())
    return verification.valid


@contextmanager
def make_fuzzer(place: Path) -> Iterator[Execute]:
    """Make the function that runs one execution, with `place` for whatever is written."""
    package = Package(make_honest_package(place), place)
    profile = load_profile("lp2bm")

    def execute(random: Random, number: int) -> None:
        del number
        changed: dict[str, bytes] = {}
        for _ in range(random.randrange(1, 4)):
            name = random.choice(package.looked_at)
            changed[name] = damage_file(random, name, changed.get(name, package.contents[name]))
        listed = random.random() < 0.8
        if listed:
            package.list_again(changed)
        same = all(package.contents[name] == content for name, content in changed.items())
        try:
            with package.hold(changed) as damaged:
                valid = examine(damaged, profile)
            assert not valid or listed or same or MANIFEST_FILE in changed
        except InputError as error:
            assert str(error).isprintable()
        except Exception as error:
            raise Damaged(repr(changed).encode()) from error

    with (
        mock.patch("scoring.package.verification.score_folder", score_in_memory),
        mock.patch("scoring.package.call_sites._list_calls", list_calls),
    ):
        yield execute


def main() -> int:
    """Run the fuzzer in a folder in memory, where there is one."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as place,
        make_fuzzer(Path(place)) as execute,
    ):
        return run_fuzzer("Fuzz the examination of a package.", lambda: execute, 5_000)


if __name__ == "__main__":
    sys.exit(main())
