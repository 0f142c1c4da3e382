"""One training step of BERT: forward, backward, averaged gradients, LAMB update."""

from __future__ import annotations

import torch

from bert.config import Config
from bert.model import Batch, BertForPretraining, Operations, pretraining_loss
from harness.gradients import distribute, hold_back, list_gradients, set_learning_rate
from harness.ops.table import resolve_operations
from harness.optimizers import LAMB


def check_groups(model: BertForPretraining, layers: int) -> None:
    """Assert that LAMB adapts 6 tensors a layer and 6 more, and skips 10 a layer and 8 more.

    For BERT-large's 24 layers that is 150 and 248, as in the reference. Raises RuntimeError.
    """
    found = len(model.adapted_parameters()), len(model.skipped_parameters())
    if found != (6 * layers + 6, 10 * layers + 8):
        raise RuntimeError(f"LAMB's groups hold {found} tensors at {layers} layers")


class TrainingStep:
    """The model with its optimizer; `accumulate` takes micro-batches, `update` ends the step.

    As in the reference each rank takes the mean over its own masked tokens and its own
    sequences, and ranks and micro-batches are averaged with equal weight (bert.md section 7).
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        world_size: int,
        initial_state: dict[str, torch.Tensor] | None,
    ) -> None:
        self.operations = resolve_operations(Operations, config.operations)
        self.model = BertForPretraining(config.model, self.operations)
        if initial_state is not None:
            self.model.load_state_dict(initial_state, strict=True)
        self.model.to(device)
        check_groups(self.model, config.model.layers)
        self.precision, self.device = config.precision, device
        self.micro_batches = config.batch.gradient_accumulation_steps
        optimizer = config.optimizer
        self.optimizer = LAMB(
            [
                {"params": self.model.adapted_parameters(), "adapt": True},
                {"params": self.model.skipped_parameters(), "adapt": False},
            ],
            lr=optimizer.base_learning_rate,
            betas=(optimizer.beta_1, optimizer.beta_2),
            eps=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
            max_grad_norm=optimizer.max_gradient_norm,
        )
        bucket_megabytes = config.communication.bucket_megabytes
        self.distributed = distribute(self.model, device, world_size, bucket_megabytes)
        self._pending = 0

    def accumulate(self, batch: Batch) -> None:
        """Add one micro-batch's gradients; the last of a step averages them over the ranks."""
        self._pending += 1
        if self._pending < self.micro_batches:
            with hold_back(self.distributed):
                self._backward(batch)
        else:
            self._backward(batch)

    def update(self, learning_rate: float) -> None:
        """Apply the step's gradients (clipped after the all-reduce) and forget them."""
        self._pending = 0
        gradients = list_gradients(self.optimizer)
        self.precision.unscale(gradients)
        set_learning_rate(self.optimizer, learning_rate)
        self.optimizer.step()
        torch._foreach_zero_(gradients)  # in place, all at once: they are views of the buckets

    def _backward(self, batch: Batch) -> None:
        with self.precision.forward_context(self.device):
            output = self.distributed(batch)
            labels = batch.next_sentence_labels
            loss = pretraining_loss(output, batch.masked_ids, labels, self.operations)[0]
        self.precision.backward(loss / self.micro_batches)
