"""LAMB as the reference of the language model benchmark computes it."""

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


class LAMB(GroupedOptimizer):
    """Layer-wise adaptive moments, with bias correction and clipping of the global norm.

    With g the gradient scaled by 1 / max(|all gradients| / max_grad_norm, 1), update number
    t = 1, 2, ..., weight decay d:

        m <- b1 m + (1 - b1) g;  v <- b2 v + (1 - b2) g^2
        u = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps) + d w
        r = |w| / |u|  where both norms are above 0, else 1
        w <- w - lr r u

    In a parameter group with adapt=False there is no decay and r is 1. The gradients themselves
    are not changed; max_grad_norm None turns clipping off. Norms are over whole tensors,
    parameters and state fp32, on any device; a parameter without gradient is left alone. lr may be
    a tensor of one element on the parameters' device. Raises ValueError for a wrong argument.
    Source: You et al. 2019; mlcommons/training bert lamb_optimizer_v1.py, optimization.py.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_grad_norm: float | None = 1.0,
    ) -> None:
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "max_grad_norm": max_grad_norm,
                "adapt": True,
                "step": 0,
            },
        )

    def _check(self, group: dict[str, Any]) -> None:
        check_number("LAMB", "lr", group["lr"], 0, low_allowed=True)
        if not isinstance(group["betas"], (tuple, list)) or len(group["betas"]) != 2:
            raise ValueError(f"LAMB: betas must be two numbers, not {group['betas']!r}")
        for name, beta in zip(("betas[0]", "betas[1]"), group["betas"], strict=True):
            check_number("LAMB", name, beta, 0, 1, low_allowed=True)
        # With eps 0 a weight that has had no gradient yet would become 0 / 0.
        check_number("LAMB", "eps", group["eps"], 0, low_allowed=False)
        check_number("LAMB", "weight_decay", group["weight_decay"], 0, low_allowed=True)
        if group["max_grad_norm"] is not None:
            check_number("LAMB", "max_grad_norm", group["max_grad_norm"], 0, low_allowed=False)
        if group["max_grad_norm"] != self.param_groups[0]["max_grad_norm"]:
            raise ValueError("LAMB: max_grad_norm is one for all groups: set it in none of them")
        check_group("LAMB", group)

    def _apply(self) -> None:
        updated = [(group, *collect_updated(group)) for group in self.param_groups]
        clip = self._clip_factor([gradient for _, _, some in updated for gradient in some])
        applied = any(weights for _, weights, _ in updated)
        for group, weights, gradients in updated:
            group["step"] += applied  # t counts updates, not those of one group
            if weights:
                self._update(group, weights, gradients, clip)

    def _clip_factor(self, gradients: list[Tensor]) -> Tensor | None:
        limit = self.param_groups[0]["max_grad_norm"]
        if limit is None or not gradients:
            return None
        factor: Tensor = limit / torch.linalg.vector_norm(compute_norms(gradients)).clamp(min=limit)
        return factor

    def _update(
        self,
        group: dict[str, Any],
        weights: list[Tensor],
        gradients: list[Tensor],
        clip: Tensor | None,
    ) -> None:
        if clip is not None:
            gradients = list(torch._foreach_mul(gradients, clip))
        means, squares = self._moments(weights)
        beta1, beta2 = group["betas"]
        torch._foreach_mul_(means, beta1)
        torch._foreach_add_(means, gradients, alpha=1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)
        # u = (m / c1) / (sqrt(v / c2) + eps), the corrections c folded into the divisor
        divisors = torch._foreach_sqrt(squares)
        torch._foreach_div_(divisors, (1 - beta2 ** group["step"]) ** 0.5)
        torch._foreach_add_(divisors, group["eps"])
        torch._foreach_mul_(divisors, 1 - beta1 ** group["step"])
        updates = list(torch._foreach_div(means, divisors))
        rate = read_rate(group)
        if group["adapt"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            weight_norms, update_norms = compute_norms(weights), compute_norms(updates)
            ratios = choose_where_positive(weight_norms / update_norms, weight_norms, update_norms)
            torch._foreach_mul_(updates, list((rate * ratios).unbind()))
        else:
            torch._foreach_mul_(updates, rate)
        torch._foreach_sub_(weights, updates)

    def _moments(self, weights: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        for weight in weights:
            state = self.state[weight]
            if not state:
                for name in ("mean", "square"):
                    state[name] = torch.zeros_like(weight, memory_format=torch.preserve_format)
        states = [self.state[weight] for weight in weights]
        return [state["mean"] for state in states], [state["square"] for state in states]
