"""The schedule of a run on the device: which update it is, and what numbers belong to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class DeviceSchedule:
    """Numbers of every update in a table on the device, and the number of the next update.

    table: (updates, columns) fp32, computed beforehand in double precision; number: (1,) int64.
    Reading a row and counting on are work of the device alone, so a captured graph replays them
    and the host sends nothing. Past the end of the table its last row stays.
    """

    def __init__(self, rows: Sequence[Sequence[float]], device: torch.device) -> None:
        if not rows:
            raise ValueError("a schedule needs at least one update")
        self.table = torch.tensor(rows, dtype=torch.float64).float().to(device)
        self.number = torch.zeros(1, dtype=torch.int64, device=device)

    def read(self) -> Tensor:
        """The row of the next update: (columns,) fp32."""
        last = self.table.size(0) - 1
        return self.table.index_select(0, self.number.clamp(max=last)).squeeze(0)

    def advance(self, made: int | Tensor = 1) -> None:
        """Count the update, unless `made`, a number or (1,) on the device, is 0."""
        self.number.add_(made)
