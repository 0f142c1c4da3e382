"""LARS as the reference of the image classification benchmark computes it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from harness.optimizers.grouped import GroupedOptimizer
from harness.optimizers.groups import (
    check_group,
    check_number,
    choose_where_positive,
    collect_updated,
    compute_norms,
    read_rate,
)


class LARS(GroupedOptimizer):
    """Layer-wise adaptive rate scaling, learning rate and trust ratio inside the momentum.

    For each tensor w with gradient g of the mean loss over the global batch, learning rate lr,
    momentum m, weight decay d, trust coefficient c:

        r = c |w| / (|g| + d |w| + eps)  where |w| > 0 and |g| > 0, else 1
        M <- m M + lr r (g + d w);  w <- w - M

    In a parameter group with adapt=False neither decay nor trust ratio applies: M <- m M + lr g.
    Norms are over whole tensors, parameters and state fp32, on any device; a parameter without
    gradient is left alone. lr may be a tensor of one element on the parameters' device.
    Raises ValueError for a wrong argument, naming it.
    Source: You et al. 2017; mlcommons/training resnet-tf2 lars_optimizer.py.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 0.0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "weight_decay": weight_decay,
                "trust_coefficient": trust_coefficient,
                "eps": eps,
                "adapt": True,
            },
        )

    def _check(self, group: dict[str, Any]) -> None:
        check_number("LARS", "lr", group["lr"], 0, low_allowed=True)
        check_number("LARS", "momentum", group["momentum"], 0, 1, low_allowed=True)
        check_number("LARS", "weight_decay", group["weight_decay"], 0, low_allowed=True)
        check_number("LARS", "trust_coefficient", group["trust_coefficient"], 0, low_allowed=False)
        check_number("LARS", "eps", group["eps"], 0, low_allowed=True)
        check_group("LARS", group)

    def _apply(self) -> None:
        updated = [(group, *collect_updated(group)) for group in self.param_groups]
        for group, weights, gradients in updated:
            if weights:
                self._update(group, weights, gradients)

    def _update(
        self, group: dict[str, Any], weights: list[Tensor], gradients: list[Tensor]
    ) -> None:
        momenta = [self._momentum(weight) for weight in weights]
        lr, decay = read_rate(group), group["weight_decay"]
        if group["adapt"]:
            weight_norms, gradient_norms = compute_norms(weights), compute_norms(gradients)
            ratios = group["trust_coefficient"] * weight_norms
            ratios = ratios / (gradient_norms + decay * weight_norms + group["eps"])
            scales = lr * choose_where_positive(ratios, weight_norms, gradient_norms)
            updates = list(torch._foreach_add(gradients, weights, alpha=decay))
            torch._foreach_mul_(updates, list(scales.unbind()))
        else:
            updates = list(torch._foreach_mul(gradients, lr))
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, updates)
        torch._foreach_sub_(weights, momenta)

    def _momentum(self, weight: Tensor) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        momentum: Tensor = state["momentum"]
        return momentum
