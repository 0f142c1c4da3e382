"""Counts what makes the host wait for the device, so that a step can be shown to have none.

On tensors of a CPU a wait can be seen only by its operation's name. Tensors of the meta device are
more like a GPU's: they have no values, so whatever reads one on the host raises, and the host's
tensors are on another device, so that whatever would be copied between the two can be seen.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from harness import process_group

WORDS = ("_local_scalar_dense", "nonzero", "masked_select", "::equal", "::item", "is_nonzero")


def let_device_hang(patch: pytest.MonkeyPatch) -> None:
    """Let a GPU never come to the end of what it was given, where others are waited for 20 ms."""
    event = SimpleNamespace(record=lambda stream: None, query=lambda: False)
    patch.setattr(torch.cuda, "Event", lambda blocking: event)
    patch.setattr(torch.cuda, "current_stream", lambda device: None)
    patch.setattr(torch.cuda, "get_rng_state", lambda device: None)
    patch.setattr(dist, "is_initialized", lambda: True)
    patch.setattr(process_group, "_limits", [0.02])


class DeviceWork(TorchDispatchMode):
    """Notes, in `mixed`, operations on a device's tensors that take or make one of the host's.

    `operations`: how many there were. Convolutions on tensors without values forget channels_last,
    which a GPU keeps and our kernels ask for: it is put back.
    """

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self.device = device
        self.mixed: list[str] = []
        self.operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if "convolution" in func._schema.name:
            result = tree_map(_keep_channels_last, result)
        self.operations += 1
        tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, Tensor)]
        if not all(tensor.device.type == self.device for tensor in tensors):
            self.mixed.append(func._schema.name)
        return result


class Collectives(TorchDispatchMode):
    """Notes the name of each collective, and the bytes of the tensors it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.bytes: list[int] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d":
            tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
            self.names.append(func._schema.name)
            self.bytes.append(sum(one.numel() * one.element_size() for one in tensors))
        return func(*args, **(kwargs or {}))


def _keep_channels_last(value: Any) -> Any:
    if not isinstance(value, Tensor) or value.dim() != 4:
        return value
    return torch.empty_like(value, memory_format=torch.channels_last)


class HostWaits(TorchDispatchMode):
    """Notes, in `found`, each operation whose answer the host waits for, and each tolist.

    A tensor on a CPU gives its list without an operation, so that call is watched by itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._tolist = Tensor.tolist

    def __enter__(self) -> HostWaits:
        def tolist(tensor: Tensor) -> Any:
            self.found.append("tolist")
            with torch.utils._python_dispatch._disable_current_modes():
                return self._tolist(tensor)

        Tensor.tolist = tolist  # type: ignore[method-assign]
        super().__enter__()
        return self

    def __exit__(self, *arguments: Any) -> None:
        super().__exit__(*arguments)
        Tensor.tolist = self._tolist  # type: ignore[method-assign]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        if any(word in name for word in WORDS):
            self.found.append(name)
        return func(*args, **(kwargs or {}))
