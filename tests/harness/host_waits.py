"""Counts what makes the host wait for the device, so that a step can be shown to have none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

WORDS = ("_local_scalar_dense", "nonzero", "masked_select", "::equal", "::item", "is_nonzero")


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
