"""The image's manifest: every package, every file with its hash; one image, one manifest."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from harness.provenance import hash_image_manifest

ROOT = Path(__file__).resolve().parents[2]


def write(kit: Path, environment: Path, device: str = "cpu") -> dict[str, object]:
    folder = environment / "manifest"
    folder.mkdir(parents=True, exist_ok=True)
    program = str(ROOT / "container" / "manifest.py")
    subprocess.run(
        [sys.executable, program, str(kit), str(folder)],
        env={**os.environ, "DEVICE": device},
        check=True,
    )
    document = json.loads((folder / "manifest.json").read_text())
    assert isinstance(document, dict)
    return document


def test_packages_and_files(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    (kit / "harness").mkdir(parents=True)
    (kit / "harness" / "a.py").write_bytes(b"1")
    (kit / "README.md").write_bytes(b"2")
    document = write(kit, tmp_path / "environment")
    assert document["files"] == {
        "README.md": hashlib.sha256(b"2").hexdigest(),
        "harness/a.py": hashlib.sha256(b"1").hexdigest(),
    }
    packages = document["packages"]
    assert isinstance(packages, dict)
    assert packages["numpy"] == metadata.version("numpy")
    listed = (tmp_path / "environment" / "manifest" / "packages.txt").read_text().splitlines()
    assert listed == [f"{name}=={version}" for name, version in packages.items()]
    assert "apex" not in document


def test_a_cuda_image_says_whose_apex_it_has(tmp_path: Path) -> None:
    (tmp_path / "kit").mkdir()
    record = {"origin": "built", "commit": "0123", "extensions": ["bnp"]}
    (tmp_path / "environment" / "manifest").mkdir(parents=True)
    file = tmp_path / "environment" / "manifest" / "apex.json"
    file.write_text(json.dumps(record))
    assert write(tmp_path / "kit", tmp_path / "environment", "cuda")["apex"] == record
    file.unlink()
    with pytest.raises(subprocess.CalledProcessError):
        write(tmp_path / "kit", tmp_path / "environment", "cuda")


def test_the_same_image_has_the_same_manifest_and_another_has_not(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    kit.mkdir()
    (kit / "a.py").write_bytes(b"1")
    write(kit, tmp_path / "first")
    write(kit, tmp_path / "second")
    (kit / "a.py").write_bytes(b"2")
    write(kit, tmp_path / "third")
    first, second, third = (
        hash_image_manifest(tmp_path / name) for name in ("first", "second", "third")
    )
    assert first == second and first is not None
    assert third not in (first, None)
    assert hash_image_manifest(tmp_path) is None
