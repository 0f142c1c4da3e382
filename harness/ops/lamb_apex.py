"""LAMB over a model's flat buffers by NVIDIA apex's `amp_C` extension.

The kernels of apex's FusedMixedPrecisionLamb are called directly, on views of the flat buffers: its
class would keep master weights of its own, and can neither take the gradient's norm over two types
nor clip before the reduction. Learning rate, number of the update and overflow stay on the device.
Source of the calls: NVIDIA/apex at 6424da3b, apex/optimizers/fused_mixed_precision_lamb.py and
csrc/multi_tensor_lamb_mp.cu. It has not run here: apex builds where there is a CUDA compiler.
"""

from __future__ import annotations

from collections.abc import Sequence

import amp_C
import torch
from torch import Tensor

from harness.commands import InputError
from harness.ops.lamb_apply import lamb_apply
from harness.ops.lamb_moments import lamb_moments
from harness.optimizers.flat_lamb import FlatLAMB, LambOperations
from harness.parameters import FlatParameters, Placed, Pool

CHUNK_ELEMENTS = 2048 * 32  # apex's share of one program
# What the reference of BERT does, in the words of apex.
BIAS_CORRECTION = GRADIENT_AVERAGING = DECOUPLED_DECAY = 1
ADAPTS_WITHOUT_DECAY = False


class ApexLAMB(FlatLAMB):
    """As harness.ops.lamb, moments and weights moved by apex: a call for each type and group.

    Apex keeps each update in the place of its gradient, so in 16 bit it is rounded once, before
    its norm is taken; weights and moments are fp32. Raises InputError for what apex cannot do: a
    sharded pool, and a weight decay of 0, by which apex knows what has no trust ratio.
    """

    def __init__(
        self,
        parameters: FlatParameters,
        learning_rates: Sequence[float],
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        max_gradient_norm: float | None,
        gradient_scale: float,
        device: torch.device,
    ) -> None:
        if any(pool.sharded for pool in parameters.pools):
            raise InputError(
                "operation lamb: provider 'apex' updates every tensor on every rank: set "
                "communication.sharded_optimizer to false, or name the provider 'triton'"
            )
        if weight_decay == 0 and any(pool.any_adapted for pool in parameters.pools):
            raise InputError(
                "operation lamb: provider 'apex' takes no trust ratio where weight decay is 0, as "
                "the reference does: name the provider 'triton'"
            )
        super().__init__(
            parameters,
            LambOperations(lamb_moments, lamb_apply),  # never called: apex has both halves in one
            learning_rates,
            betas,
            eps,
            weight_decay,
            max_gradient_norm,
            gradient_scale,
            device,
        )
        # The gradient comes to apex unscaled and clipped: its norm stands at the limit.
        self._one = torch.ones(1, device=device)
        self._groups = [
            (self._list_tensors(pool, means, squares, some), weight_decay if adapt else 0.0)
            for pool, means, squares in zip(parameters.pools, self.means, self.squares, strict=True)
            for adapt in (True, False)
            if (some := [placed for placed in pool.placed if placed.adapt is adapt])
        ]

    def _list_tensors(
        self, pool: Pool, means: Tensor, squares: Tensor, some: list[Placed]
    ) -> list[list[Tensor]]:
        """Lists of gradients, masters, both moments and, in 16 bit, what the model sees."""
        buffers = [pool.gradients, pool.master, means, squares]
        if pool.master is not pool.weights:
            buffers.append(pool.weights)
        return [[buffer[placed.start : placed.stop] for placed in some] for buffer in buffers]

    def _move(
        self, factor: Tensor, overflow: Tensor, learning_rate: Tensor, corrections: Tensor
    ) -> None:
        """As FlatLAMB, the corrections made of the number of the update by apex itself."""
        number = (self.schedule.number + 1).int()
        skips = overflow.int()
        for tensors, decay in self._groups:
            amp_C.multi_tensor_lamb_mp(
                CHUNK_ELEMENTS,
                skips,
                tensors,
                learning_rate,
                *self.betas,
                self.eps,
                number,
                BIAS_CORRECTION,
                decay,
                GRADIENT_AVERAGING,
                DECOUPLED_DECAY,
                self._one,  # norm of the gradient
                self._one,  # its limit
                ADAPTS_WITHOUT_DECAY,
                overflow.float(),
                factor,
            )
