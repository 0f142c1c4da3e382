"""One training step of ResNet: forward, backward, gradients over the ranks, LARS update."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from harness.commands import InputError
from harness.gradients import GradientReduction, broadcast_model
from harness.graphs import Replayable
from harness.ops.group_batch_norm import over_group
from harness.ops.table import resolve_operations
from harness.optimizers.flat_lars import FlatLARS
from harness.parameters import FlatParameters
from harness.process_group import join_subgroup, wait_for_device
from harness.warmup import preserve_state
from resnet.config import LARS_TRUST_COEFFICIENT, Config
from resnet.model import Operations, ResNet, batch_norm_buffers

Fill = Callable[[Tensor, Tensor], None]
UNCOUNTED_LABEL = -1


def check_groups(model: ResNet, bottlenecks: int) -> None:
    """Assert that LARS adapts every convolution and the last weight, and skips all else.

    ResNet-50's 16 bottlenecks have 53 convolutions: 54 tensors adapted, 107 skipped, as in the
    reference. Raises RuntimeError.
    """
    convolutions = 1 + 3 * bottlenecks + 4
    found = len(model.adapted_parameters()), len(model.skipped_parameters())
    if found != (convolutions + 1, 2 * convolutions + 1):
        raise RuntimeError(f"LARS's groups hold {found} tensors at {bottlenecks} bottlenecks")


def normalise_over(
    group: dist.ProcessGroup, operations: Operations, providers: dict[str, str]
) -> Operations:
    """Make the normalisations take the statistics of a group of ranks. Raises InputError."""
    for name in (name for name in providers if name.startswith("batch_norm")):
        if providers[name] != "torch":
            raise InputError(
                f"[batch] batch_norm_span is that of {group.size()} ranks, which {name} by "
                f"'{providers[name]}' cannot do: name 'torch' or normalise each rank by itself"
            )
    one, add = operations.batch_norm_relu, operations.batch_norm_add_relu
    both, pool = operations.batch_norm_batch_norm_add_relu, operations.batch_norm_relu_max_pool
    return replace(
        operations,
        batch_norm_relu=over_group(one, group, inputs=1, normalised=1),
        batch_norm_add_relu=over_group(add, group, inputs=2, normalised=1),
        batch_norm_batch_norm_add_relu=over_group(both, group, inputs=2, normalised=2),
        batch_norm_relu_max_pool=over_group(pool, group, inputs=1, normalised=1, pool=True),
    )


class TrainingStep:
    """The model with its optimizer over fixed tensors, so that a step can be one CUDA graph.

    images: (B, C, H, W) channels last, in the run's format; labels: (B,) int64: `run` has them
    filled and trains on them, `evaluate` counts on them. counts: (2,) int64, correct and all
    images since they were set to 0. Gradients are the mean over the global batch: the mean of each
    local batch, averaged over micro-batches and ranks. learning_rates: one for each update of the
    run. Raises InputError for a provider or a graph that there is not.
    """

    def __init__(
        self,
        config: Config,
        device: torch.device,
        rank: int,
        world_size: int,
        learning_rates: Sequence[float],
    ) -> None:
        config.graphs.check_device(device)
        self.config, self.device, self.world_size = config, device, world_size
        self.operations = resolve_operations(Operations, config.operations)
        if config.batch.batch_norm_ranks > 1:
            group = join_subgroup(rank, world_size, config.batch.batch_norm_ranks)
            self.operations = normalise_over(group, self.operations, config.operations)
        self.model = ResNet(config.model, self.operations).to(device)
        check_groups(self.model, sum(config.model.depths))
        broadcast_model(self.model, world_size)
        self.parameters = FlatParameters(
            self.model,
            [[parameter] for parameter in self.model.parameters()],
            self.model.normalisation_parameters(),
            self.model.adapted_parameters(),
            config.precision.dtype,
            config.communication.bucket_megabytes,
        )
        self.reduction = GradientReduction(self.parameters, world_size)
        self.optimizer = FlatLARS(
            self.parameters,
            self.operations.lars_update,
            learning_rates,
            momentum=config.optimizer.momentum,
            weight_decay=config.optimizer.weight_decay,
            trust_coefficient=LARS_TRUST_COEFFICIENT,
            eps=config.optimizer.epsilon,
            gradient_scale=config.precision.loss_scale,
            device=device,
        )
        batch, side = config.batch.local_batch_size, config.input.crop_size
        shape = (batch, side, side, config.model.input_channels)
        images_NHWC = torch.zeros(shape, dtype=config.precision.dtype, device=device)
        self.images = images_NHWC.permute(0, 3, 1, 2)
        self.labels = torch.zeros(batch, dtype=torch.int64, device=device)
        self.counts = torch.zeros(2, dtype=torch.int64, device=device)
        self.micro_batches = config.batch.gradient_accumulation_steps
        first, last = self.micro_batches > 1, self.micro_batches == 1
        self._begin = Replayable(lambda: self.backward(first=True, last=False), device)
        self._go_on = Replayable(lambda: self.backward(first=False, last=False), device)
        self._complete = Replayable(lambda: self._update(first=last), device)
        self._captured = [self._complete]
        if first:
            self._captured.append(self._begin)
        if self.micro_batches > 2:
            self._captured.append(self._go_on)
        self.evaluate = Replayable(self._count, device)

    def run(self, fill: Fill) -> None:
        """Take one step: fill(images, labels) writes each micro-batch into the fixed tensors."""
        for number in range(1, self.micro_batches):
            fill(self.images, self.labels)
            (self._begin if number == 1 else self._go_on)()
        fill(self.images, self.labels)
        self._complete()

    def prepare(self, fill: Fill) -> None:
        """Run everything once on synthetic data and capture the graphs; no trace is left.

        fill: writes a synthetic batch into the fixed tensors.
        """
        graphs = self.config.graphs
        with preserve_state(self.state(), self.device):
            self.run(fill)
            self.model.eval()
            pool = self.evaluate.capture() if graphs.evaluation else None
            self.evaluate()
            self.model.train()
            if graphs.step:
                for replayable in self._captured:
                    pool = replayable.capture(pool)
                self.run(fill)
        # The first replays on all ranks at once: here a hang is found, not in what comes next.
        wait_for_device(self.device)

    def run_eagerly(self) -> None:
        """Take one step of one micro-batch, what is in images and labels, without a graph."""
        self._update(first=True)

    def state(self) -> list[Tensor]:
        """Every tensor that a step or an evaluation changes."""
        buffers = batch_norm_buffers(self.model)
        weights, fixed = self.parameters.weights(), [self.images, self.labels, self.counts]
        return [*weights, *buffers, *self.optimizer.state(), *fixed]

    def backward(self, first: bool = True, last: bool = True) -> None:
        """Make the gradients of what is in images and labels, as a step's first or last part."""
        self.reduction.begin(first, last)
        logits = self.model(self.images)
        smoothing = self.config.optimizer.label_smoothing
        loss = self.operations.label_smoothed_cross_entropy(logits, self.labels, smoothing)
        self.config.precision.backward(loss, self.micro_batches * self.world_size)

    def _update(self, first: bool) -> None:
        self.backward(first, last=True)
        self.reduction.finish()
        self.optimizer.update()

    @torch.no_grad()
    def _count(self) -> None:
        predictions = self.model(self.images).argmax(dim=1)
        counted = self.labels != UNCOUNTED_LABEL
        self.counts.add_(torch.stack([predictions == self.labels, counted]).sum(1))
