"""The weights of a checkpoint, under our names and in our shapes, each read when asked for.

Three forms: a TensorFlow checkpoint by its prefix, our .safetensors, and the folder or file of
transformers' BertForPreTraining. Opening one compares all names, shapes and types with the model's
before any number is read.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bert.checkpoint_names import belongs_to_optimizer, name_in_tensorflow, name_in_transformers
from bert.model import BertForPretraining, Operations
from bert.model_config import ModelConfig
from bert.tensorflow_checkpoint import TensorflowCheckpoint, printable
from harness.commands import InputError
from harness.ops import resolve_operations

WEIGHTS_FILE = "model.safetensors"  # in a folder of transformers
# Only transformers' names begin with these words.
TRANSFORMERS_BEGINNINGS = ("bert.", "cls.")
LARGEST_HEADER_BYTES = 1 << 22  # BERT-large's has 48 KB
MOST_NAMED = 20

Shape = tuple[int, ...]


class Stored(NamedTuple):
    """What a file says of a tensor: its shape, and its type in the file's own words."""

    shape: Shape
    dtype: str


class Place(NamedTuple):
    """Where one of our tensors is found: the name in the file, and whether it lies transposed."""

    name: str
    transposed: bool


class StoredTensors(Protocol):
    """An open file of tensors: what it holds, and its word for fp32."""

    path: Path
    tensors: Mapping[str, Stored]
    fp32: str

    def read(self, name: str) -> Tensor:
        """Read one tensor as it lies. Raises InputError where it is damaged."""


class TensorflowTensors:
    """The variables of a TensorFlow checkpoint; those of its optimizer are passed over."""

    fp32 = "<f4"

    def __init__(self, prefix: Path, trained: frozenset[str]) -> None:
        self.path = prefix
        self._checkpoint = TensorflowCheckpoint(prefix)
        variables = self._checkpoint.variables
        known = trained | variables.keys()
        self.tensors: Mapping[str, Stored] = {
            name: Stored(variable.shape, variable.dtype)
            for name, variable in variables.items()
            if not belongs_to_optimizer(name, known)
        }

    def read(self, name: str) -> Tensor:
        """Read one variable, checked against its checksum."""
        return torch.from_numpy(self._checkpoint.read(name))


class SafetensorsTensors:
    """The tensors of a .safetensors file, mapped: a tensor takes memory once it is touched."""

    fp32 = "F32"

    def __init__(self, path: Path) -> None:
        self.path = path
        # Opened here because the library's own complaint would not name the file.
        with open(path, "rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        try:
            if header_bytes > LARGEST_HEADER_BYTES:
                raise SafetensorError(f"a header of {header_bytes} bytes")
            self._file: Any = safe_open(path, "pt")
            parts = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
            self.tensors: Mapping[str, Stored] = {
                name: Stored(tuple(part.get_shape()), str(part.get_dtype()))
                for name, part in parts.items()
            }
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path} is not a sound .safetensors file ({printable(str(error))}): make it anew "
                "with python -m bert.checkpoint convert"
            ) from None

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        tensor: Tensor = self._file.get_tensor(name)
        return tensor


@dataclass(frozen=True)
class Weights:
    """A checkpoint that fits the model. shapes: of our tensors, in the model's order."""

    stored: StoredTensors
    shapes: Mapping[str, Shape]
    places: Mapping[str, Place]

    def read(self, name: str) -> Tensor:
        """Read one of our tensors: fp32, in our shape, contiguous.

        Raises InputError where it does not match its checksum or is not finite.
        """
        place = self.places[name]
        values = self.stored.read(place.name)
        if not torch.isfinite(values).all():
            raise InputError(
                f"{self.stored.path}: {place.name} holds numbers that are not finite: give a "
                "checkpoint that has not diverged"
            )
        return values.T.contiguous() if place.transposed else values

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def plain_operations() -> Operations:
    """Return the operations in plain PyTorch, which define what every other must compute."""
    names = Operations.__dataclass_fields__
    return resolve_operations(Operations, dict.fromkeys(names, "torch"))


def build_shapes(config: ModelConfig) -> BertForPretraining:
    """Build the trainer's model without numbers: shapes alone."""
    with torch.device("meta"):
        return BertForPretraining(config, plain_operations())


@functools.lru_cache(maxsize=8)
def list_shapes(config: ModelConfig) -> Mapping[str, Shape]:
    """Return the shape of every weight of the model under our name, 398 of BERT-large."""
    return {name: tuple(p.shape) for name, p in build_shapes(config).named_parameters()}


def open_weights(path: Path | str, config: ModelConfig) -> Weights:
    """Open a checkpoint of any of the three forms for a model of this size.

    Raises InputError naming every tensor that is missing, too many, mis-shaped or not fp32, or
    what else is wrong with the files; OSError where one cannot be read.
    """
    path = Path(path)
    if (path / WEIGHTS_FILE).is_file():
        path /= WEIGHTS_FILE
    if path.suffix == ".safetensors":
        return open_safetensors_weights(path, config)
    return open_tensorflow_weights(path, config)


def open_tensorflow_weights(prefix: Path | str, config: ModelConfig) -> Weights:
    """Open a TensorFlow checkpoint's trained variables. Raises as open_weights does."""
    shapes = list_shapes(config)
    places = {name: Place(*name_in_tensorflow(name)) for name in shapes}
    trained = frozenset(place.name for place in places.values())
    return fit(TensorflowTensors(Path(prefix), trained), shapes, places)


def open_safetensors_weights(path: Path, config: ModelConfig) -> Weights:
    """Open a .safetensors file of our names or of transformers'. Raises as open_weights does."""
    shapes = list_shapes(config)
    stored = SafetensorsTensors(path)
    places = {name: Place(name, False) for name in shapes}
    if any(name.startswith(TRANSFORMERS_BEGINNINGS) for name in stored.tensors):
        places = {name: Place(name_in_transformers(name), False) for name in shapes}
    return fit(stored, shapes, places)


def fit(stored: StoredTensors, shapes: Mapping[str, Shape], places: Mapping[str, Place]) -> Weights:
    """Compare what is stored with what the model has. Raises InputError naming all that differs."""
    found = stored.tensors
    wanted = {
        place.name: shapes[name][::-1] if place.transposed else shapes[name]
        for name, place in places.items()
    }
    misshaped = [
        f"{printable(name)} {tuple(found[name].shape)} instead of {shape}"
        for name, shape in sorted(wanted.items())
        if name in found and found[name].shape != shape
    ]
    mistyped = [
        f"{printable(name)} {found[name].dtype}"
        for name in sorted(wanted)
        if name in found and found[name].dtype != stored.fp32
    ]
    problems = (
        ("it lacks", [printable(name) for name in sorted(set(wanted) - set(found))]),
        ("the model has no", [printable(name) for name in sorted(set(found) - set(wanted))]),
        ("of another shape are", misshaped),
        ("not fp32 are", mistyped),
    )
    said = [f"{problem} {list_some(names)}" for problem, names in problems if names]
    if said:
        raise InputError(
            f"{stored.path} has {len(found)} tensors and does not fit the model's {len(wanted)}: "
            f"{'; '.join(said)}; give the checkpoint and the configuration that belong together"
        )
    return Weights(stored, shapes, places)


def list_some(names: Sequence[str]) -> str:
    """Join names, all or as many as a reader takes in, with the number of those left out."""
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
