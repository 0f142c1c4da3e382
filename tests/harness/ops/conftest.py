"""Interpretation that rounds as a GPU does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from harness.ops.float8 import E4M3, E5M2


@pytest.fixture(autouse=True)
def rounded_interpretation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Convert fp32 to bf16 to the nearest, ties to even, as every GPU's own instruction does.

    Triton's interpreter cuts the lower half off (triton 3.7, runtime/interpreter.py
    `_convert_float`): twice the error, and all of it towards zero. Tests elsewhere that interpret
    kernels in bf16 have to ask for this fixture.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    tl = pytest.importorskip("triton.language")
    convert = interpreter._convert_float

    def convert_float(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if (source, target) == (tl.float32, tl.bfloat16):
            return round_to_bf16(data)
        if (source, target) == (tl.bfloat16, tl.float32):
            return (data.view(np.uint16).astype(np.uint32) << 16).view(np.uint32)
        return convert(data, source, target, rounding)

    monkeypatch.setattr(interpreter, "_convert_float", convert_float)
    yield


@pytest.fixture
def rounded_float8(rounded_interpretation: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Convert fp32 to FP8 to the nearest, ties to even, as every GPU's own instruction does.

    Triton's interpreter loses the carry of a rounding into the exponent (triton 3.7,
    runtime/interpreter.py `_convert_float`): 127 becomes 64 in e4m3 in place of 128. And search for
    a largest number with 8 programs, not with the hundreds of a GPU, most of them idle here.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    tl = pytest.importorskip("triton.language")
    targets = {tl.float8e4nv: E4M3, tl.float8e5: E5M2}
    convert = interpreter._convert_float

    def convert_float(data: Any, source: Any, target: Any, rounding: Any) -> Any:
        if source == tl.float32 and target in targets:
            exact = torch.from_numpy(np.ascontiguousarray(data, dtype=np.float32))
            return exact.to(targets[target]).view(torch.uint8).numpy()
        return convert(data, source, target, rounding)

    monkeypatch.setattr(interpreter, "_convert_float", convert_float)
    monkeypatch.setattr("harness.ops.float8_triton.count_multiprocessors", lambda device: 2)
    yield


def round_to_bf16(data: Any) -> Any:
    """The upper halves, uint16, of fp32 numbers rounded to the nearest bf16, ties to even."""
    bits = np.ascontiguousarray(data, dtype=np.float32).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(data), np.uint16(0x7FC0), rounded)
