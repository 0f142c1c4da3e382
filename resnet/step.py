"""One training step of ResNet: forward, backward, averaged gradients, LARS update."""

from __future__ import annotations

import torch
from torch import Tensor

from harness.gradients import distribute, hold_back, list_gradients, set_learning_rate
from harness.ops.table import resolve_operations
from harness.optimizers import LARS
from resnet.config import LARS_TRUST_COEFFICIENT, Config
from resnet.model import Operations, ResNet


def check_groups(model: ResNet, bottlenecks: int) -> None:
    """Assert that LARS adapts every convolution and the last weight, and skips all else.

    ResNet-50's 16 bottlenecks have 53 convolutions: 54 tensors adapted, 107 skipped, as in the
    reference. Raises RuntimeError.
    """
    convolutions = 1 + 3 * bottlenecks + 4
    found = len(model.adapted_parameters()), len(model.skipped_parameters())
    if found != (convolutions + 1, 2 * convolutions + 1):
        raise RuntimeError(f"LARS's groups hold {found} tensors at {bottlenecks} bottlenecks")


class TrainingStep:
    """The model with its optimizer; `accumulate` takes micro-batches, `update` ends the step.

    Gradients are the mean over the global batch: the mean of each local batch, averaged over
    micro-batches and ranks. torch's generator must be seeded alike on all ranks before.
    """

    def __init__(self, config: Config, device: torch.device, world_size: int) -> None:
        self.operations = resolve_operations(Operations, config.operations)
        self.model = ResNet(config.model, self.operations).to(device)
        check_groups(self.model, sum(config.model.depths))
        self.precision, self.device = config.precision, device
        self.smoothing = config.optimizer.label_smoothing
        self.micro_batches = config.batch.gradient_accumulation_steps
        groups = [
            {"params": self.model.adapted_parameters(), "adapt": True},
            {"params": self.model.skipped_parameters(), "adapt": False},
        ]
        self.optimizer = LARS(
            groups,
            lr=config.optimizer.base_learning_rate,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            trust_coefficient=LARS_TRUST_COEFFICIENT,
            eps=config.optimizer.epsilon,
        )
        bucket_megabytes = config.communication.bucket_megabytes
        self.distributed = distribute(self.model, device, world_size, bucket_megabytes)
        self._pending = 0

    def accumulate(self, images: Tensor, labels: Tensor) -> None:
        """Add one micro-batch's gradients; the last of a step averages them over the ranks.

        images: (N, C, H, W), normalised; labels: (N,) int64.
        """
        self._pending += 1
        if self._pending < self.micro_batches:
            with hold_back(self.distributed):
                self._backward(images, labels)
        else:
            self._backward(images, labels)

    def update(self, learning_rate: float) -> None:
        """Apply the step's gradients and forget them."""
        self._pending = 0
        gradients = list_gradients(self.optimizer)
        self.precision.unscale(gradients)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        torch._foreach_zero_(gradients)  # in place, all at once: they are views of the buckets

    def _backward(self, images: Tensor, labels: Tensor) -> None:
        with self.precision.forward_context(self.device):
            logits = self.distributed(images)
        loss = self.operations.label_smoothed_cross_entropy(logits, labels, self.smoothing)
        self.precision.backward(loss / self.micro_batches)
