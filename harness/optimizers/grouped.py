"""What LARS and LAMB have in common: groups that are checked, a state that is copied, a step."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, overload

import torch
from torch.optim.optimizer import Optimizer


class GroupedOptimizer(Optimizer):
    """An optimizer whose groups are right or refused, and that shares no tensor of its state."""

    @abstractmethod
    def _check(self, group: dict[str, Any]) -> None:
        """Raise ValueError where a group holds a wrong value."""

    @abstractmethod
    def _apply(self) -> None:
        """Apply one update to all groups."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, with adapt=False or other values of its own.

        Raises ValueError for a wrong one, which is then not added.
        """
        super().add_param_group(param_group)
        try:
            self._check(self.param_groups[-1])
        except ValueError:
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a copy of the state: what it came from shares no tensor with this optimizer."""
        super().load_state_dict(copy.deepcopy(state_dict))

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Apply one update; returns the closure's loss where one is given.

        Raises ValueError for a sparse gradient, before any weight or state has changed.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._apply()
        return loss
