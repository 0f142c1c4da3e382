"""Ten calls of create and ten of shuffle, killed at random moments: the same bytes in the end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bert.small_data import ROOT


def test_killed_calls_are_continued_to_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bert.killed_calls", str(tmp_path), "--kills", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["create: 10 calls killed", "shuffle: 10 calls killed"]
