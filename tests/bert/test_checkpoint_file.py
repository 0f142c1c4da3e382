"""The writer of .safetensors: what the library reads of it, and that it writes all or nothing."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from bert.checkpoint_file import write_tensors

STATE = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.arange(6.0).reshape(2, 3).T,
    "scalar": torch.tensor(-0.0),
    "empty": torch.zeros(0, 4),
    'quoted "name" \u00fc': torch.tensor([float("inf"), 1e-45]),
}
SHAPES = {name: tuple(tensor.shape) for name, tensor in STATE.items()}


def test_the_library_reads_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    asked: list[str] = []

    def read(name: str) -> torch.Tensor:
        asked.append(name)
        return STATE[name]

    write_tensors(path, SHAPES, read, {"made_by": "a test"})
    assert asked == list(STATE)
    found = load_file(path)
    assert found.keys() == STATE.keys()
    for name, tensor in STATE.items():
        assert found[name].numpy().tobytes() == tensor.contiguous().numpy().tobytes()
        assert found[name].shape == tensor.shape
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "made_by": "a test"}
    again = tmp_path / "b.safetensors"
    write_tensors(again, SHAPES, STATE.__getitem__, {"made_by": "a test"})
    assert again.read_bytes() == path.read_bytes()


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    read: list[weakref.ref[torch.Tensor]] = []

    def make(name: str) -> torch.Tensor:
        assert not [reference for reference in read if reference() is not None]
        tensor = torch.zeros(SHAPES[name])
        read.append(weakref.ref(tensor))
        return tensor

    write_tensors(tmp_path / "a.safetensors", SHAPES, make)
    assert len(read) == len(SHAPES)


def test_an_earlier_file_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"earlier")

    def fail(name: str) -> torch.Tensor:
        if name == "scalar":
            raise OSError("the disk is gone")
        return STATE[name]

    with pytest.raises(OSError, match="the disk is gone"):
        write_tensors(path, SHAPES, fail)
    for wrong in ({"a": torch.zeros(3, 3)}, {"a": torch.zeros(3, 2, dtype=torch.float64)}):
        with pytest.raises(ValueError, match=r"^a is "):
            write_tensors(path, SHAPES, {**STATE, **wrong}.__getitem__)
    assert path.read_bytes() == b"earlier" and list(tmp_path.iterdir()) == [path]
