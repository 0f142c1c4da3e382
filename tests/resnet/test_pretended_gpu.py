"""The shipped steps on tensors that say they are a GPU's: made there, never mixed with others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA's own guard")
def test_every_shipped_step_lives_on_its_gpu_alone() -> None:
    """Constructor, forward pass, update and evaluation; not the backward pass."""
    environment = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.resnet.pretended_gpu"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found) >= 6
    for name, seen in found.items():
        assert seen["mixed"] == [] and seen["devices"] == ["cuda:0"], name
        assert seen["operations"] > 350 and seen["launches"] > 200, name
